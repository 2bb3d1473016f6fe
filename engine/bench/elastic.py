"""The cost of a step on virtual ranks: beside DDP, and beside as many steps of one process.

    python bench/elastic.py [ROUNDS]

Each cell is processes of its own; a round has all cells one after another, so that all see the same
load. CPU seconds are those of all processes of a cell. Wanted: at most 1.15 times DDP's step with 2
and 4 processes, and at most 1.05 times four steps of one virtual rank.
"""

import os
import statistics
import subprocess
import sys
import time
import warnings
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from leyden.exact import Elastic

STEPS = 120
WARM_UP = 20
TRIES = 3  # of a cell
# Virtual ranks, of which 0 are DDP, and processes.
CELLS = ((0, 2), (2, 2), (0, 4), (4, 4), (1, 1), (4, 1))
Cell = tuple[int, int]


class Perceptron(L.LightningModule):
    """A small network, in which what a step costs besides it is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Return the loss."""
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.AdamW(self.parameters(), 1e-3)


class Times(L.Callback):
    """Time and CPU time after some steps and after all."""

    def __init__(self) -> None:
        self.noted: list[tuple[float, float]] = []

    def on_train_batch_start(self, trainer: L.Trainer, *args: object) -> None:
        """Note them, if it is the first step after those to warm up, or the last one."""
        if trainer.global_step in (WARM_UP, STEPS - 1):
            self.noted.append((time.perf_counter(), time.process_time()))


def train(ranks: int, processes: int) -> None:
    """Print the seconds of a step, and its CPU seconds in all processes."""
    warnings.simplefilter("ignore")
    kind = DDPStrategy(process_group_backend="gloo")
    if ranks:
        kind = Elastic(ranks, process_group_backend="gloo")
    number = 128 * STEPS * max(ranks, processes)
    samples = TensorDataset(torch.randn(number, 784), torch.randint(0, 10, (number,)))
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    times = Times()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy=kind,
        max_epochs=1,
        callbacks=[times],
        enable_model_summary=False,
        **quiet,
    )
    trainer.fit(Perceptron(), DataLoader(samples, 128))
    (begin, cpu_begin), (end, cpu_end) = times.noted
    num = STEPS - 1 - WARM_UP
    cpu = torch.tensor((cpu_end - cpu_begin) / num, dtype=torch.float64)
    torch.distributed.all_reduce(cpu)
    if trainer.is_global_zero:
        print("seconds", (end - begin) / num, cpu.item())


def seconds(ranks: int, processes: int) -> tuple[float, float]:
    """Return the seconds and CPU seconds of a step, of processes with one thread each.

    With gloo, a process of DDP is seldom ended by SIGABRT: then its cell starts anew.
    """
    command = [sys.executable, __file__, "cell", str(ranks), str(processes)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(TRIES):
        done = subprocess.run(command, env=environ, text=True, capture_output=True, check=False)
        if done.returncode == 0:
            break
        print(f"{ranks} on {processes} ended with {done.returncode}", flush=True)
    else:
        raise RuntimeError(done.stderr)
    wall, cpu = done.stdout.rpartition("seconds ")[2].split()
    return float(wall), float(cpu)


def main(rounds: int) -> None:
    """Measure all cells, and print medians, minima, and ratios of both."""
    found: dict[Cell, list[tuple[float, float]]] = {cell: [] for cell in CELLS}
    for number in range(rounds):
        for cell, values in found.items():
            values.append(seconds(*cell))
        print(f"round {number + 1}: load {os.getloadavg()[0]:.1f}", flush=True)
    for place, what in enumerate(("wall", "CPU")):
        for name, reduce in (("median", statistics.median), ("minimum", min)):
            values_of = {cell: [each[place] for each in found[cell]] for cell in CELLS}
            steps = {cell: reduce(values) * 1e3 for cell, values in values_of.items()}
            report(f"{what}, {name} of {rounds}", steps)


def report(name: str, steps: dict[Cell, float]) -> None:
    """Print the milliseconds of a step in each cell, and their ratios."""
    print(name)
    for (ranks, processes), value in steps.items():
        print(f"  virtual ranks {ranks or 'DDP'}, processes {processes}: {value:.2f} ms a step")
    for number in (2, 4):
        print(f"  {number} beside DDP: {steps[number, number] / steps[0, number]:.3f}")
    print(f"  4 on 1 beside 4 steps: {steps[4, 1] / (4 * steps[1, 1]):.3f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["cell"]:
        train(*map(int, sys.argv[2:]))
    else:
        main(*map(int, sys.argv[1:] or ["5"]))
