"""Each process draws random numbers of its own; the first one those that it would draw alone."""

import random
from types import SimpleNamespace

import lightning as L
import numpy as np
import torch

from leyden.callbacks.run_state import RunState


def drawn(rank, seed=0):
    L.seed_everything(seed, verbose=False)
    trainer = SimpleNamespace(global_rank=rank, world_size=1)
    RunState(None, 0).setup(trainer, None, "fit")
    return [tuple(torch.rand(3).tolist()), tuple(np.random.rand(3).tolist()), tuple(random.random() for _ in "abc")]


def test_no_two_processes_draw_the_same():
    L.seed_everything(0, verbose=False)
    assert drawn(0)[0] == (L.seed_everything(0, verbose=False), tuple(torch.rand(3).tolist()))[1]
    streams = [drawn(rank, seed) for seed in (0, 1) for rank in range(8)]
    for draws in zip(*streams, strict=True):
        assert len(set(draws)) == len(streams)
    assert drawn(3) == drawn(3)
