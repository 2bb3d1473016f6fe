"""docs/proof.md: each command is one, and each recipe is in the table."""

import re
import shlex
import sys

import hydra
import pytest

from leyden import reproduce
from leyden.config.paths import CONF, ROOT

TEXT = (ROOT / "docs" / "proof.md").read_text()
LINES = [line.partition("  #")[0] for line in re.search(r"^```sh\n(.*?)^```$", TEXT, re.M | re.S)[1].splitlines()]
ROWS = re.findall(r"^\| (\S+) \| `python -m leyden.train ?(.*?)` \| equal over (\d+)", TEXT, re.M)
CHANGED = re.findall(r"^\| `(?:[A-Z_]+=\S+ )?python -m leyden.reproduce (.*?)`", TEXT, re.M)


def test_each_recipe_was_made_anew():
    recipes = {path.stem for path in (CONF / "experiment").glob("*.yaml")}
    assert {name for name, *_ in ROWS} == {"default", *recipes}
    assert all(int(number) for *_, number in ROWS)


@pytest.mark.parametrize(("name", "arguments"), [row[:2] for row in ROWS])
def test_each_row_is_that_recipe(name, arguments):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        composed = hydra.compose("train", overrides=shlex.split(arguments), return_hydra_config=True)
    assert composed.hydra.runtime.choices.experiment == (None if name == "default" else name)


@pytest.mark.parametrize("arguments", [*(line.partition("reproduce ")[2] for line in LINES), *CHANGED])
def test_each_command_is_one(monkeypatch, arguments):
    shown = []
    monkeypatch.setattr(reproduce, "reproduce", lambda run, how: run)
    monkeypatch.setattr(reproduce, "unpack", lambda file, directory: None)
    monkeypatch.setattr(reproduce, "show_equality", lambda there, here: not shown.append(there))
    monkeypatch.setattr(sys, "argv", ["leyden.reproduce", *shlex.split(arguments)])
    with pytest.raises(SystemExit) as stop:
        reproduce.main()
    assert stop.value.code == 0
    assert shown
