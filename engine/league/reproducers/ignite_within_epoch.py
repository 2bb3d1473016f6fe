"""Resumed within an epoch, Ignite's deterministic engine shuffles that epoch's samples in another order."""

import torch
from ignite.engine import DeterministicEngine, Events
from torch.utils.data import DataLoader


def run(state=None, stop_at=0):
    torch.manual_seed(0)
    engine = DeterministicEngine(lambda engine, batch: print(int(batch), end=" "))
    saved = {}

    @engine.on(Events.ITERATION_COMPLETED)
    def save(engine):
        if engine.state.iteration == stop_at:
            saved.update(engine.state_dict())

    if state:
        engine.load_state_dict(state)
    engine.run(DataLoader(torch.arange(8), shuffle=True), max_epochs=1)
    return saved


print("undisturbed:", end=" ")
checkpoint = run(stop_at=3)
print("\nresumed after batch 3:", end=" ")
run(checkpoint)
