"""Every YAML in conf/ composes, and builds what it names: a new file needs no new test."""

import copy
import functools
import re
from dataclasses import replace

import hydra
import lightning as L
import pytest
import yaml
from omegaconf import OmegaConf

from leyden import assembly
from leyden.assembly.instantiate import check_keys
from leyden.assembly.schedule import make_schedule
from leyden.assembly.task import make_optimizer
from leyden.assembly.trainer import callbacks_of
from leyden.config.checks import validate_values
from leyden.config.hydra import composing
from leyden.config.paths import CONF
from leyden.data.facts import Facts
from tests.kinds import suited

CHOICES = sorted(path.relative_to(CONF) for path in CONF.glob("*/**/*.yaml"))
NODES = ("model", "task", "optimizer", "scheduler", "trainer", "callbacks", "logger")
FACTS = Facts((1, 28, 28), 10, tuple("0123456789"), (0.0,), (1.0,))
# Of no data that there are: with them each callback has what it asks for.
ALL_FACTS = replace(FACTS, target_names=("height",), vocabulary=("a", "b"))


def compose(*overrides, config_name="train"):
    return copy.deepcopy(composed(config_name, overrides))


@functools.cache
def composed(config_name, overrides):
    with composing():
        return hydra.compose(config_name, overrides=list(overrides))


@functools.cache
def chosen():
    with composing():
        return dict(hydra.compose("train", return_hydra_config=True).hydra.runtime.choices)


def override(path):
    """Chooses a YAML, in a group that has a choice already or as an addition."""
    group = path.parent.as_posix()
    return f"{'' if group in chosen() else '+'}{group}={path.stem}"


@pytest.mark.parametrize("name", [path.stem for path in CONF.glob("*.yaml")])
def test_a_root_composes_with_the_types_of_its_schema(name):
    cfg = compose(config_name=name)
    assert OmegaConf.get_type(cfg).__name__ == f"{name.capitalize()}Config"


@pytest.mark.parametrize("path", [p for p in CHOICES if p.parts[0] != "hydra"], ids=str)
def test_a_choice_composes_resolves_and_passes_the_checks(path):
    cfg = compose(override(path))
    for key in OmegaConf.missing_keys(cfg):  # a person must give it
        OmegaConf.update(cfg, key, "given")
    validate_values(cfg)
    OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize("path", [p for p in CHOICES if p.parts[0] in NODES], ids=str)
def test_a_choice_makes_what_it_names(path):
    assembly.silence_lightning()
    cfg = compose(override(path))
    if path.parts[0] == "model":
        case = suited(path.stem)[0]
        facts, cfg.task = case.facts, compose(f"task={case.task}").task
    else:
        facts = FACTS
    network = assembly.network(cfg, facts)
    if path.stem != "own":  # which names nothing itself
        assert isinstance(assembly.task_module(cfg, facts), L.LightningModule)
    optimizer = make_optimizer(cfg.optimizer)(network.named_parameters())
    assert optimizer.param_groups[0]["lr"] == cfg.optimizer.lr
    if cfg.scheduler:
        schedule = make_schedule(cfg.scheduler, 10, optimizer)
        optimizer.step()
        schedule.step()
    callbacks, _ = callbacks_of(cfg, ALL_FACTS)
    assert len(callbacks) == len([node for node in cfg.callbacks.values() if node])
    cfg.trainer.accelerator = "cpu"
    assert assembly.plain_trainer(cfg, callbacks, logger=False).max_epochs == cfg.trainer.max_epochs
    for name, node in cfg.logger.items():  # that of W&B wants a login, and MLflow's makes a database
        check_keys(node, f"logger.{name}")


@pytest.mark.parametrize("path", sorted((CONF / "sweep").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_search_says_how_it_is_started(path):
    text = path.read_text()
    assert text.startswith("# @package _global_\n")
    assert "override /hydra/sweeper: " in text
    assert path.stem == "given" or f"python -m leyden.train -m sweep={path.stem}" in text


@pytest.mark.parametrize("path", sorted((CONF / "sweep").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_search_is_for_any_network_or_chooses_its_own(path):
    text = path.read_text()
    if "model." in str(yaml.safe_load(text).get("hydra")):
        assert "override /model: " in text, "it names keys of a network"
    if (CONF / "model" / path.name).exists():
        assert compose(f"sweep={path.stem}").model == compose(f"model={path.stem}").model


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_is_a_delta_with_its_name_and_says_what_to_expect(path):
    text = path.read_text()
    assert text.startswith("# @package _global_\n")
    assert yaml.safe_load(text)["name"] == path.stem
    head = text[: text.index("name:")]
    assert re.search(rf"python -m leyden.train( -m)? experiment={path.stem}\b", head)
    assert re.search(r"(test|val)/\w+,? .*?[\d.]+", head), "the measured score"
    assert " s " in head, "the time it takes"
