"""The default of a key is that of conf/, for the choices that were made."""

import pytest
from hydra import compose as hydra_compose

from leyden.config import hydra
from leyden.config.hydra import default_value
from leyden.testing.contracts import compose

GROUPS = {"data": "mnist", "data/augment": "none", "model": "mlp", "optimizer": "adam", "experiment": None}


def test_it_is_that_of_the_choices():
    cfg = compose("optimizer=adam", "optimizer.lr=0.5", "seed=3")
    assert default_value(cfg, GROUPS, "optimizer.weight_decay") == 0.0
    assert default_value(cfg, GROUPS, "model.dropout") == 0.0
    assert default_value(cfg, {**GROUPS, "model": "cnn"}, "model.dropout") == 0.5


def test_many_keys_cost_as_much_as_one_and_each_choice_has_its_own(monkeypatch):
    hydra._composed.cache_clear()
    cfg, composed = compose(), []

    def counting(*args, compose=hydra_compose, **kwargs):
        composed.append(kwargs["overrides"])
        return compose(*args, **kwargs)

    monkeypatch.setattr("hydra.compose", counting)
    for key in ("model.dropout", "optimizer.weight_decay", "seed", "compile", "data.normalize"):
        default_value(cfg, GROUPS, key)
    assert len(composed) == 2  # what there is, and these choices
    for model, dropout in (("cnn", 0.5), ("mlp", 0.0), ("cnn", 0.5)):
        assert default_value(cfg, {**GROUPS, "model": model}, "model.dropout") == dropout
    assert len(composed) == 3


def test_what_it_takes_from_other_keys_is_as_here():
    assert default_value(compose("seed=3"), GROUPS, "data.seed") == 3


def test_a_group_that_was_added():
    assert (
        default_value(compose(), {**GROUPS, "callbacks/pruning": "median"}, "callbacks.pruning.metric") == "val/acc"
    )


def test_a_group_that_another_choice_brings_with_it():
    cfg = compose("sweep=tpe")
    groups = {**GROUPS, "sweep": "tpe", "callbacks/pruning": "median"}
    assert default_value(cfg, groups, "callbacks.pruning.pruner.n_warmup_steps") == 1
    assert default_value(cfg, groups, "compile") is False


def test_there_is_none():
    with pytest.raises(KeyError):
        default_value(compose(), GROUPS, "model.nothing")
