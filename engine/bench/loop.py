"""Seconds per step with `leyden.exact` beside the same training without: python bench/loop.py [ROUNDS] [loop | trainer].

Of a plain loop with `Loop`, or of a plain Trainer with `Exact`. Seconds are those of the CPU, of one thread, and those of a
clock. Each round's quotient is of neighbours, so that a busy machine acts on both. A checkpoint costs what follows the last
step more than alone.
"""

import contextlib
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from leyden.exact import Exact, Loop

NUM_STEPS, BATCH = 400, 128


def make() -> tuple[nn.Module, DataLoader[Any]]:
    """Return a network and its data."""
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(BATCH * NUM_STEPS, 64), torch.randn(BATCH * NUM_STEPS, 1))
    first, second = nn.Linear(64, 256), nn.Linear(256, 256)
    net = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(256, 1))
    return net, DataLoader(data, BATCH, shuffle=True)


class Clock:
    """The seconds between the first batch and the last, and from there to the end, of the CPU and of a clock."""

    def __init__(self) -> None:
        self.began = self.ended = (0.0, 0.0)

    def step(self) -> None:
        """Note that a batch has come."""
        self.ended = _now()
        if not any(self.began):
            self.began = self.ended

    def seconds(self) -> list[tuple[float, float]]:
        """Return those of a step, and those after the last batch came; of the CPU, then of a clock."""
        found = []
        for began, ended, now in zip(self.began, self.ended, _now(), strict=True):
            found.append(((ended - began) / (NUM_STEPS - 1), now - ended))
        return found


def _now() -> tuple[float, float]:
    return time.thread_time(), time.perf_counter()


def of_loop(folder: str | None) -> list[tuple[float, float]]:
    """Train in a plain loop; with a folder, by `Loop`."""
    clock, (net, loader) = Clock(), make()
    optimizer = torch.optim.Adam(net.parameters())
    steps: Iterator[Any] = enumerate(loader, 1)
    if folder:
        loop = Loop(folder, model=net, optimizer=optimizer)
        steps = loop.steps(loader, epochs=1)
    for step, (inputs, targets) in steps:
        clock.step()
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(inputs), targets)
        loss.backward()
        optimizer.step()
        if folder:
            loop.log(step, loss=loss)
    return clock.seconds()


def of_trainer(folder: str | None) -> list[tuple[float, float]]:
    """Train by a plain Trainer; with a folder, in a block of `Exact`."""
    import lightning as L

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    clock = Clock()

    class Module(L.LightningModule):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            clock.step()
            inputs, targets = batch
            loss = nn.functional.mse_loss(self.net(inputs), targets)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters())

    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options = {"accelerator": "cpu", "max_epochs": 1, **dict.fromkeys(quiet, False)}
    with contextlib.ExitStack() as stack:
        if folder:
            stack.enter_context(Exact(folder))
        net, loader = make()
        L.Trainer(**options).fit(Module(net), loader)
    return clock.seconds()


def main(rounds: int, way: str) -> None:
    """Measure, and print."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    train = {"loop": of_loop, "trainer": of_trainer}[way]
    measured = []
    for _ in range(rounds + 1):
        before = train(None)
        with tempfile.TemporaryDirectory() as folder:
            between = train(folder)
        measured.append((before, between, train(None)))
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"{way}, n={rounds}, load {load}")
    for kind, unit in enumerate(("CPU", "clock")):
        steps, quotients, saves = [], [], []
        for number, each in enumerate(measured):
            (before, end_before), (seconds, end), (after, end_after) = [of[kind] for of in each]
            if number == 0:  # what is done for the first time
                continue
            steps.append((before + after) / 2)
            quotients.append(2 * seconds / (before + after))
            saves.append(end - (end_before + end_after) / 2)
        span = f"{min(quotients):.3f} to {max(quotients):.3f}"
        alone, times = 1e3 * statistics.median(steps), statistics.median(quotients)
        print(
            f"by {unit}: {alone:.3f} ms a step alone; with leyden.exact {times:.3f} of it ({span})"
        )
        print(f"    a checkpoint: {1e3 * statistics.median(saves):.1f} ms")


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    main(rounds, sys.argv[2] if len(sys.argv) > 2 else "loop")
