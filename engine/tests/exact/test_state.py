"""Each process draws random numbers of its own; the first one those that it would draw alone."""

import random
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch

from leyden.exact.state import RunState


def drawn(rank, seed=0):
    L.seed_everything(seed, verbose=False)
    trainer = SimpleNamespace(global_rank=rank, world_size=1)
    RunState(0).setup(trainer, None, "fit")
    return [tuple(torch.rand(3).tolist()), tuple(np.random.rand(3).tolist()), tuple(random.random() for _ in "abc")]


def test_no_two_processes_draw_the_same():
    L.seed_everything(0, verbose=False)
    assert drawn(0)[0] == (L.seed_everything(0, verbose=False), tuple(torch.rand(3).tolist()))[1]
    streams = [drawn(rank, seed) for seed in (0, 1) for rank in range(8)]
    for draws in zip(*streams, strict=True):
        assert len(set(draws)) == len(streams)
    assert drawn(3) == drawn(3)


@pytest.fixture
def mac(monkeypatch):
    """A GPU of a Mac, of which the state of the random numbers alone is there."""
    state = {"now": torch.tensor([1, 2, 3], dtype=torch.uint8)}
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: state["now"].clone())
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda given: state.update(now=given))
    return state


def callback(seed=0):
    made = RunState(seed, is_fork=True)
    loops = SimpleNamespace(fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(_results={})))
    trainer = SimpleNamespace(global_rank=0, world_size=1, accumulate_grad_batches=1, **vars(loops))
    trainer.lr_scheduler_configs = trainer.optimizers = trainer.callbacks = []
    trainer.limit_val_batches = 0
    trainer.train_dataloader, trainer.datamodule = [], L.LightningDataModule()
    trainer.strategy = SimpleNamespace(restore_checkpoint_after_setup=False)
    made.setup(trainer, L.LightningModule(), "fit")
    return made


def resume(made, kept):
    """Load a state and begin, as after the last hook of a start."""
    made.load_state_dict(kept)
    trainer = made._trainer
    trainer.fit_loop.restarting = True
    made._look(trainer, made._module)
    made._restore(trainer, made._module)


def test_the_random_state_of_a_mac_is_kept_and_restored(mac, monkeypatch):
    monkeypatch.setattr("leyden.exact.lightning.logged_state", lambda trainer: {})
    monkeypatch.setattr("leyden.exact.lightning.LoggedState", lambda *given: None)
    kept = callback().state_dict()
    before, mac["now"] = mac["now"], torch.tensor([4, 5, 6], dtype=torch.uint8)
    resume(callback(seed=1), kept)  # a fork with another seed
    assert mac["now"].tolist() == [4, 5, 6]
    resume(callback(), kept)
    assert torch.equal(mac["now"], before)

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)  # on another machine
    mac["now"] = None
    resume(callback(), kept)
    assert mac["now"] is None
    assert callback().state_dict()["processes"][0]["mps"] is None
