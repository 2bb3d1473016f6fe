"""Where the time of a run goes: of the default run, or of one with other overrides, on one process.

    python engine/bench/phases.py --rounds 5
    python engine/bench/phases.py --rounds 5 callbacks=bare logger=csv

A part's time is without that of the parts within it. Medians over the rounds, each in a process of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

STARTED = "BENCH_STARTED"  # environment variable: when the process was started
UPDATES = "forward, backward, optimizer"
REST = "Lightning's loop and the rest, in Python"


class Clock:
    """Seconds by part; a part's time does not count for the part around it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.parts = ["other"]
        self.since = time.perf_counter()

    def switch(self, *, to: str | None) -> None:
        """Begin a part, or end the last one."""
        now = time.perf_counter()
        self.seconds[self.parts[-1]] += now - self.since
        self.since = now
        if to is None:
            self.parts.pop()
        else:
            self.parts.append(to)

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Count the time of a method for a part."""
        method: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.switch(to=part)
            try:
                return method(*args, **kwargs)
            finally:
                self.switch(to=None)

        setattr(owner, name, timed)


def measure(overrides: list[str]) -> dict[str, float]:
    """Train, and return the seconds of each part."""
    clock = Clock()
    clock.seconds["start of Python, imports"] = time.time() - float(os.environ[STARTED])
    clock.switch(to="start of Python, imports")
    import lightning as L
    from lightning.pytorch.loops import evaluation_loop, fetchers
    from lightning.pytorch.loops.optimization import automatic
    from lightning.pytorch.trainer.connectors.logger_connector import _LoggerConnector

    from leyden import train
    from leyden.callbacks.checkpoint import CheckpointFiles
    from leyden.callbacks.fingerprint import Fingerprints

    clock.switch(to=None)
    clock.watch(automatic._AutomaticOptimization, "run", UPDATES)
    clock.watch(evaluation_loop._EvaluationLoop, "run", "validation")
    clock.watch(fetchers._PrefetchDataFetcher, "__next__", "batches of data")
    clock.watch(_LoggerConnector, "log_metrics", "TensorBoard and CSV")
    clock.watch(Fingerprints, "_append_line", "fingerprints: hashing")
    for name in ("prepare", "commit", "read_best"):
        clock.watch(CheckpointFiles, name, "checkpoints")
    for name in ("validate", "test"):
        clock.watch(L.Trainer, name, "evaluation of the best weights")
    fit = L.Trainer.fit

    def timed_fit(self: L.Trainer, *args: Any, **kwargs: Any) -> None:
        for callback in self.callbacks:  # type: ignore[attr-defined]
            if type(callback).__module__.startswith("leyden.pictures"):
                for name in (name for name in dir(callback) if name.startswith("on_")):
                    if callable(getattr(callback, name)):  # a hook that a callback does not need is None
                        clock.watch(callback, name, "pictures")
        before = dict(clock.seconds)
        clock.switch(to=REST)
        fit(self, *args, **kwargs)
        clock.switch(to=None)
        clock.seconds["fit"] = sum(clock.seconds.values()) - sum(before.values())

    L.Trainer.fit = timed_fit  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["leyden.train", f"outputs={folder}", f"run_dir={folder}/run", *overrides]
        train.main()
    clock.switch(to="other")
    return dict(clock.seconds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("overrides", nargs="*")
    told, overrides = parser.parse_known_args()
    overrides += told.overrides
    if STARTED in os.environ:
        print(json.dumps(measure(overrides)))
        return
    command, rounds = [sys.executable, __file__, *overrides], []
    for _ in range(told.rounds):
        start = time.time()
        said = subprocess.run(
            command, env={**os.environ, STARTED: str(start)}, stdout=subprocess.PIPE, check=True, text=True
        ).stdout
        rounds.append({**json.loads(said.splitlines()[-1]), "whole process": time.time() - start})
    print(f"| part, n = {told.rounds} | ms | % of the process |\n|---|---|---|")
    whole = statistics.median(found["whole process"] for found in rounds)
    for part in sorted(rounds[0], key=lambda part: -rounds[0][part]):
        seconds = statistics.median(found.get(part, 0.0) for found in rounds)
        print(f"| {part} | {1000 * seconds:.0f} | {100 * seconds / whole:.1f} |")


if __name__ == "__main__":
    main()
