"""What makes two runs the same."""

import pytest
from omegaconf import OmegaConf

from leyden.run.identity import RunIdentity

CONFIG = {
    "name": "x",
    "seed": 0,
    "data": {"_target_": "d", "root": "/a", "batch_size": 1},
    "trainer": {"max_epochs": 2, "log_every_n_steps": 50},
    "callbacks": {
        "checkpoint": {"_target_": "leyden.callbacks.checkpoint.RunCheckpoint", "every_n_steps": None},
        "stop": {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "patience": 3},
    },
    "logger": {"csv": {"_target_": "x"}},
    "run_dir": "r",
}


def changed(**values):
    """The configuration with other values, by keys with `__` for dots."""
    config = OmegaConf.create(CONFIG)
    for key, value in values.items():
        OmegaConf.update(config, key.replace("__", "."), value, merge=False)
    return OmegaConf.to_container(config)


def differences(there, here, typed=(), started_by=()):
    return RunIdentity(here, typed).differences(there, started_by)


SHOWN = [
    {"name": "y"},
    {"data__root": "/b"},
    {"trainer__log_every_n_steps": 1},
    {"callbacks__checkpoint__every_n_steps": 7},
    {"callbacks__errors": {"_target_": "leyden.pictures.Errors", "num_images": 3}},
    {"callbacks__bar": {"_target_": "lightning.pytorch.callbacks.RichProgressBar"}},
    {"cluster": {"num_jobs": 3}},
]
CHANGING = [
    {"seed": 1},
    {"data__batch_size": 2},
    {"trainer__max_epochs": 1},
    {"callbacks__stop__patience": 4},
    {"callbacks__mine": {"_target_": "mine.Callback"}},
    {"callbacks__ema": {"_target_": "leyden.callbacks.kept.EMA"}},
    {"callbacks__pruning": {"_target_": "leyden.sweep.pruning.Pruning", "metric": "val/acc"}},
]


def test_what_is_shown_and_where_it_lies_may_differ_and_what_can_change_a_bit_may_not():
    for change in SHOWN:
        assert differences(CONFIG, changed(**change)) == differences(changed(**change), CONFIG) == [], change
    for change in CHANGING:
        assert differences(CONFIG, changed(**change), ["callbacks=mine"]), change


@pytest.mark.parametrize(
    ("typed", "started_by", "is_new"),
    [
        ([], [], False),  # conf/ has got it since
        (["data=mine"], ["data=mine"], False),
        (["data.shuffle=true"], [], True),
        (["data=mine"], ["seed=1"], True),
        (["+data.shuffle=true"], ["data=mine"], True),
        (["seed=1"], ["~data.shuffle"], True),
        (["~data.shuffle"], ["~data.shuffle"], False),
    ],
)
def test_a_key_that_an_older_run_lacks_counts_if_it_is_typed(typed, started_by, is_new):
    found = differences(CONFIG, changed(data__shuffle=True), typed, started_by)
    assert found == ["data.shuffle: absent there, True here"] * is_new


def test_only_without_a_schedule_more_epochs_go_on():
    longer = changed(trainer__max_epochs=3)
    assert differences(CONFIG, longer) == []
    assert differences(CONFIG, {**longer, "scheduler": {"_target_": "s"}}, ["scheduler=cosine"])
