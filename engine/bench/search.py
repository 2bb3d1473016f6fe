"""A search whose trials take from 4 to 32 s, two at once: its seconds beside those of its trials, and of batches of two.

    python engine/bench/search.py

A trial sleeps in its one step, so that nothing but the order of the trials decides how long the search takes. In batches of
two, which wait for the slower one, it would take the sum of the longer ones, and the same time around the trials.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

NUM_TRIALS, NUM_AT_ONCE = 16, 2


class Sleeper(L.LightningModule):
    """Sleeps in its first step of training.

    Args:
        seconds: How long.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.weight = seconds, torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: object, batch_idx: int) -> Tensor:
        """Sleep."""
        time.sleep(self.seconds)
        return self.weight**2

    def validation_step(self, batch: object, batch_idx: int) -> None:
        """Log the objective."""
        self.log("val/seconds", self.seconds)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Any."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "-m",
            "leyden.train",
            "-m",
            "hydra/sweeper=optuna",
            "hydra/sweeper/sampler=random",
            "sweep_name=s",
        ]
        command += [
            f"outputs={folder}",
            f"hydra.sweeper.num_trials={NUM_TRIALS}",
            f"cluster.num_jobs={NUM_AT_ONCE}",
        ]
        command += [
            "task=own",
            "task._target_=search.Sleeper",
            "objective.metric=val/seconds",
            "objective.mode=min",
        ]
        command += [
            "+task.seconds=interval(4,32)",
            "trainer.max_epochs=1",
            "trainer.limit_train_batches=1",
        ]
        command += ["trainer.limit_val_batches=1", "callbacks=bare", "logger=none"]
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, *command], env={**os.environ, "PYTHONPATH": path}, check=True
        )
        wall = time.perf_counter() - start
        results = sorted(
            Path(folder).glob("sweeps/s/*/run.json"), key=lambda path: path.stat().st_mtime
        )
        seconds = [json.loads(path.read_text())["seconds"] for path in results]
    ideal = sum(seconds) / NUM_AT_ONCE
    batches = sum(max(seconds[n : n + NUM_AT_ONCE]) for n in range(0, len(seconds), NUM_AT_ONCE))
    print(
        f"\n{len(seconds)} trials of {min(seconds):.1f} to {max(seconds):.1f} s, {NUM_AT_ONCE} at once"
    )
    print(
        f"the search took {wall:.1f} s: {wall / ideal:.2f} x half of the sum of the trials, {ideal:.1f} s"
    )
    print(f"in batches of {NUM_AT_ONCE}, by their seconds alone: {batches / ideal:.2f} x")


if __name__ == "__main__":
    main()
