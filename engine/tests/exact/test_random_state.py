"""What data draw at random follows from the seed and the hook alone."""

import random
from types import SimpleNamespace
from unittest.mock import Mock

import lightning as L
import numpy as np
import pytest
import torch

from leyden.exact.digest import digest_of_content
from leyden.exact.hooks import seed_stages
from leyden.exact.random_state import random_states, restore_random_states, seeded
from leyden.exact.state import RunState


def draw():
    return random.random(), float(np.random.rand()), torch.rand(()).item()


def draw_anew():
    """From generators of NumPy without a seed."""
    made = (
        np.random.default_rng(),
        np.random.RandomState(None),
        np.random.Generator(np.random.PCG64()),
    )
    return [each.random() for each in made for _ in range(2)]


class Data(L.LightningDataModule):
    def prepare_data(self):
        self.prepared = draw()

    def setup(self, stage):
        self.split = draw()

    def train_dataloader(self):
        return draw()

    def further_dataloader(self):
        return draw()


@pytest.mark.parametrize("draw", [draw, draw_anew])
def test_what_is_drawn_within_is_the_same_and_nothing_outside_changes(draw):
    before = digest_of_content(random_states())
    with seeded(3, "setup"):
        first = draw()
        with seeded(4, "setup"):
            assert draw() != first
    assert digest_of_content(random_states()) == before
    assert draw() != draw()
    with seeded(3, "setup"):
        assert draw() == first
    for other in ((4, "setup", 0), (3, "prepare_data", 0), (3, "setup", 1)):
        with seeded(*other):
            assert draw() != first


def test_each_hook_draws_the_same_in_each_process_and_for_each_stage():
    one, other, third = Data(), Data(), Data()
    for data, seed in ((one, 5), (other, 5), (third, 6)):
        seed_stages(data, seed)
        data.prepare_data()
        data.setup("fit")
    assert one.prepared == other.prepared != one.split
    assert third.prepared == one.prepared  # the files that it leaves are found by runs of all seeds
    assert third.split != one.split
    for stage in ("test", "fit", "predict"):
        draw()
        other.setup(stage)
        assert other.split == one.split
    assert one.train_dataloader() == one.train_dataloader() == other.train_dataloader()
    assert one.further_dataloader() == other.further_dataloader() != one.train_dataloader()
    # Loaders that are asked for anew draw anew.
    one.trainer, drawn = SimpleNamespace(reload_dataloaders_every_n_epochs=2), []
    for epoch in range(4):
        one.trainer.current_epoch = epoch
        drawn.append(one.train_dataloader())
    assert drawn[0] == drawn[1] != drawn[2] == drawn[3]


def drawn(rank, seed=0):
    L.seed_everything(seed, verbose=False)
    if rank is not None:
        RunState(0).setup(Mock(global_rank=rank, world_size=1, callbacks=[]), None, "fit")
    return draw()


def test_no_two_processes_draw_the_same():
    assert drawn(0) == drawn(None)  # as a single process
    assert drawn(3) == drawn(3)
    streams = [drawn(rank, seed) for seed in (0, 1) for rank in range(8)]
    for draws in zip(*streams, strict=True):
        assert len({*draws}) == len(streams)


def test_the_random_state_of_a_mac_is_kept_and_restored(monkeypatch):
    state = {"now": torch.tensor([1, 2, 3], dtype=torch.uint8)}
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: state["now"].clone())
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda given: state.update(now=given))
    kept = random_states()
    state["now"] = torch.tensor([4, 5, 6], dtype=torch.uint8)
    restore_random_states(kept)
    assert state["now"].tolist() == [1, 2, 3]
