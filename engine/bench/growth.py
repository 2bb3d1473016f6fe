"""Growth of time and memory: an epoch of 6,000 to 600,000 images, and 100 epochs of 6,000.

python engine/bench/growth.py
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import growth  # this file, under the name by which the configuration finds it
import lightning as L
from project.data.mnist import MNIST

from leyden import train

VAL_SIZE = 5000


class Repeated(MNIST):
    """So many images for training: MNIST's over and over.

    Args:
        num_samples: How many.
    """

    def __init__(self, root: str, *, train: bool, download: bool, num_samples: int) -> None:
        super().__init__(root, train=train, download=download)
        times = -(-num_samples // len(self.targets))
        self.data = self.data.repeat(times, 1, 1)[:num_samples]
        self.targets = self.targets.repeat(times)[:num_samples]

    @property
    def raw_folder(self) -> str:
        """The files are those of MNIST."""
        return f"{self.root}/MNIST/raw"


class Watch(L.Callback):
    """Notes the seconds of each epoch and the memory after it."""

    seconds: list[float] = []  # noqa: RUF012 - of the last training
    megabytes: list[float] = []  # noqa: RUF012

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read it."""
        self.seconds.append(time.perf_counter() - self.start)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.megabytes.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


def watch(num_samples: int, num_epochs: int) -> type[Watch]:
    """Train by the command, all defaults on, on so many images."""
    growth.Watch.seconds, growth.Watch.megabytes = [], []
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = [
            "leyden.train",
            f"run_dir={folder}/run",
            f"trainer.max_epochs={num_epochs}",
            "test=false",
        ]
        sys.argv += [
            "data.dataset._target_=growth.Repeated",
            f"+data.dataset.num_samples={num_samples + VAL_SIZE}",
        ]
        sys.argv += [
            f"data.val_size={VAL_SIZE}",
            "~callbacks.progress",
            "+callbacks.watch._target_=growth.Watch",
        ]
        train.main()
    return growth.Watch


def main() -> None:
    """Print both tables."""
    watch(6_000, 2)  # what the first run does once
    rows = []
    for num_samples, num_epochs in ((6_000, 5), (60_000, 5), (600_000, 2)):
        seconds = statistics.median(watch(num_samples, num_epochs).seconds)
        rows.append(f"| {num_samples:,} | {seconds:.2f} | {seconds / num_samples * 1e6:.1f} |")
    seen = watch(6_000, 100)
    print("\n| images | s per epoch | microseconds per image |\n|---|---|---|", *rows, sep="\n")
    print("\n| epochs | s per epoch | memory MB |\n|---|---|---|")
    for start in range(0, 100, 20):
        seconds, memory = (
            statistics.median(v[start : start + 20]) for v in (seen.seconds, seen.megabytes)
        )
        print(f"| {start + 1} to {start + 20} | {seconds:.3f} | {memory:.0f} |")


if __name__ == "__main__":
    main()
