"""Seconds per step of a plain loop with `leyden.exact.Loop` beside the same loop without: python bench/loop.py [ROUNDS].

Seconds are those of the CPU, of one thread. Each round's quotient is of neighbours, so that a busy machine acts on both.
"""

import statistics
import sys
import tempfile
import time
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from leyden.exact import Loop

NUM_STEPS, BATCH = 400, 128


def make() -> Any:
    """Return a network, its optimizer and its data."""
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(BATCH * NUM_STEPS, 64), torch.randn(BATCH * NUM_STEPS, 1))
    net = torch.nn.Sequential(
        torch.nn.Linear(64, 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 1),
    )
    return net, torch.optim.Adam(net.parameters()), DataLoader(data, BATCH, shuffle=True)


def train(net: Any, optimizer: Any, batch: Any) -> torch.Tensor:
    """Train on a batch."""
    optimizer.zero_grad()
    inputs, targets = batch
    loss = torch.nn.functional.mse_loss(net(inputs), targets)
    loss.backward()
    optimizer.step()
    return loss


def bare() -> float:
    """Return the seconds per step without it."""
    net, optimizer, loader = make()
    for step, batch in enumerate(loader, 1):
        if step == 1:
            began = time.thread_time()
        if step == NUM_STEPS:
            seconds = (time.thread_time() - began) / (NUM_STEPS - 1)
        train(net, optimizer, batch)
    return seconds


def with_loop() -> tuple[float, float]:
    """Return the seconds per step, from the first batch to the last, and those of a checkpoint."""
    net, optimizer, loader = make()
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(folder, model=net, optimizer=optimizer)
        for step, batch in loop.steps(loader, epochs=1):
            if step == 1:
                began = time.thread_time()
            if step == NUM_STEPS:
                seconds = (time.thread_time() - began) / (NUM_STEPS - 1)
            loop.log(step, loss=train(net, optimizer, batch))
            ended = time.thread_time()
    return seconds, time.thread_time() - ended


def main(rounds: int) -> None:
    """Measure, and print."""
    torch.set_num_threads(1)
    bare(), with_loop()
    quotients, saves, steps = [], [], []
    for _ in range(rounds):
        first = bare()
        seconds, save = with_loop()
        second = bare()
        quotients.append(2 * seconds / (first + second))
        saves.append(save)
        steps.append((first + second) / 2)
    print(f"bare: {1e3 * statistics.median(steps):.3f} ms a step")
    print(
        f"Loop / bare: {statistics.median(quotients):.3f} (median, n={rounds}; {min(quotients):.3f} to {max(quotients):.3f})"
    )
    print(f"a checkpoint: {1e3 * statistics.median(saves):.1f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
