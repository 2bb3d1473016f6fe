"""How time and memory grow: an epoch of 6,000 to 600,000 images, and 100 epochs of 6,000.

python scripts/bench/growth.py
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

import hydra
import lightning as L

from leyden import build
from leyden.config.checks import prepare
from leyden.config.paths import CONF
from leyden.run.directory import Run


class Watch(L.Callback):
    """Notes the seconds of each epoch and the memory after it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.megabytes: list[float] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read it."""
        self.seconds.append(time.perf_counter() - self.start)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.megabytes.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


def watch(num_samples: int, num_epochs: int) -> Watch:
    """Train with all defaults on so many images, MNIST's over and over."""
    with tempfile.TemporaryDirectory() as folder:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            overrides = [f"run_dir={folder}/run", f"trainer.max_epochs={num_epochs}", "~callbacks.progress"]
            cfg = hydra.compose("train", overrides=overrides)
        (run := Run(cfg.run_dir)).directory.mkdir()
        run.begin(prepare(cfg, cfg.run_dir), overrides)
        trainer = build.trainer(cfg, run, None)
        trainer.callbacks.append(seen := Watch())  # type: ignore[attr-defined]
        data = build.datamodule(cfg, 1)
        images, labels = data.splits["train"]
        times = -(-num_samples // len(labels))
        data.splits["train"] = images.repeat(times, 1, 1, 1)[:num_samples], labels.repeat(times)[:num_samples]
        trainer.fit(build.classifier(cfg, data), datamodule=data)
    return seen


def main() -> None:
    """Print both tables."""
    build.quiet()
    watch(6_000, 2)  # what the first run does once
    print("| images | s an epoch | microseconds an image |\n|---|---|---|")
    for num_samples, num_epochs in ((6_000, 5), (60_000, 5), (600_000, 2)):
        seconds = statistics.median(watch(num_samples, num_epochs).seconds)
        print(f"| {num_samples:,} | {seconds:.2f} | {seconds / num_samples * 1e6:.1f} |", flush=True)
    seen = watch(6_000, 100)
    print("\n| epochs | s an epoch | memory MB |\n|---|---|---|")
    for start in range(0, 100, 20):
        seconds, memory = (statistics.median(v[start : start + 20]) for v in (seen.seconds, seen.megabytes))
        print(f"| {start + 1} to {start + 20} | {seconds:.3f} | {memory:.0f} |")


if __name__ == "__main__":
    main()
