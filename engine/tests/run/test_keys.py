"""One table says what each key means, and the page is written from it."""

import dataclasses

from omegaconf import OmegaConf

from leyden.base.paths import conf_files
from leyden.config.checks import PARTS, TrainConfig
from leyden.config.values import flatten
from leyden.run.keys import ROWS
from tests import ENGINE
from tests.example import script


def has_row(key):
    return any(pattern.fullmatch(key) for pattern, _ in ROWS)


def keys_of(name, path):
    """The dotted keys that a file of `conf/` sets, without Hydra's own and the list of defaults."""
    is_of_root = len(name.parts) == 1 or "@package _global_" in path.read_text()
    place = "" if is_of_root else f"{name.parts[0]}."
    found = flatten(OmegaConf.to_container(OmegaConf.load(path)))
    return {f"{place}{key}" for key, _ in found if key.split(".")[0] not in ("hydra", "defaults")}


def test_each_key_of_the_settings_has_a_row_or_its_group_s():
    files = [*conf_files("*/**/*.yaml"), *conf_files("run_defaults.yaml")]
    keys = {each.name for each in dataclasses.fields(TrainConfig)}
    for name, path in files:
        if name.parts[0] != "hydra":
            keys |= keys_of(name, path)
    assert len(keys) > 100
    assert [key for key in sorted(keys) if not has_row(key)] == []


def test_the_page_is_written_from_the_table():
    keys = script(ENGINE / "scripts" / "keys.py")
    assert keys.page() == keys.PAGE.read_text(), "python engine/scripts/keys.py writes it"
    shown = keys.root_keys()
    of_root = {each.name for each in dataclasses.fields(TrainConfig)} - PARTS
    assert [key for key in sorted(of_root) if f"| `{key}` |" not in shown] == []
