"""Every YAML in conf/ composes, and builds what it names: a new file needs no new test."""

import inspect

import hydra
import pytest
import yaml
from omegaconf import OmegaConf

from leyden.config import CONF, check

CHOICES = sorted(path.relative_to(CONF) for path in CONF.glob("*/**/*.yaml"))
NODES = ("model", "optimizer", "trainer", "callbacks", "logger")


def compose(*overrides, config_name="train"):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(config_name, overrides=overrides)


def override(path):
    """Chooses a YAML, in a group that has a choice already or as an addition."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        chosen = hydra.compose("train", return_hydra_config=True).hydra.runtime.choices
    group = path.parent.as_posix()
    return f"{'' if group in chosen else '+'}{group}={path.stem}"


@pytest.mark.parametrize("name", [path.stem for path in CONF.glob("*.yaml")])
def test_a_root_composes_with_the_types_of_its_schema(name):
    cfg = compose(config_name=name)
    assert OmegaConf.get_type(cfg).__name__ == f"{name.capitalize()}Config"


@pytest.mark.parametrize("path", [p for p in CHOICES if p.parts[0] != "hydra"], ids=str)
def test_a_choice_composes_resolves_and_passes_the_checks(path):
    cfg = compose(override(path))
    check(cfg)
    OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize("path", [p for p in CHOICES if p.parts[0] in NODES], ids=str)
def test_every_target_exists_and_takes_the_keys(path):
    cfg = compose(override(path))
    node = cfg[path.parts[0]]
    for target in [node] if "_target_" in node else node.values():
        hydra.utils.instantiate(target, _partial_=True)
        made = hydra.utils.get_object(target._target_)
        known = set(inspect.signature(made).parameters)
        keys = {key for key in target.keys() if not key.startswith("_")}  # noqa: SIM118 - finds missing values, too
        assert keys <= known or "kwargs" in known


@pytest.mark.parametrize("path", sorted((CONF / "sweep").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_search_says_how_it_is_started(path):
    text = path.read_text()
    assert text.startswith("# @package _global_\n")
    assert "override /hydra/sweeper: " in text
    assert path.stem == "given" or f"python -m leyden.train -m sweep={path.stem}" in text


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_is_a_delta_with_its_name_and_says_what_to_expect(path):
    text = path.read_text()
    assert text.startswith("# @package _global_\n")
    assert yaml.safe_load(text)["name"] == path.stem
    head = text[: text.index("name:")]
    assert f"python -m leyden.train experiment={path.stem}" in head
    assert "test/acc" in head
    assert " s " in head, "the time it takes"
