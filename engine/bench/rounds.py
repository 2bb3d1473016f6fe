"""Programs in turn on a device, and tables of what they print: medians over the rounds.

A round starts each program once, in an order of its own. A program that fails has its error in its row.
"""

import functools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

HERE = Path(__file__).parent
# Leyden sets it when it is imported, here too; the programs start without it, as a user's do.
AS_TYPED = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
TIMEOUT_S = 300
# What is trained where a program is only to run.
SMALL = ("data.batch_size=16", "data.eval_batch_size=64")
FEW = ("trainer.max_epochs=2", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1")
FEW = (*FEW, "trainer.limit_test_batches=1")

Run = dict[str, Any]  # figures by name; or `failed`, with the reason


class Column(NamedTuple):
    """A figure of a table, or its ratio to that of another row."""

    head: str
    key: str
    beside: str | None = None


class Bench(NamedTuple):
    """How programs are started: on which device, how often, and whether shortly."""

    device: str
    num_rounds: int
    tiny: bool

    def leyden(self, *overrides: str) -> list[str]:
        """Return the command of a run of Leyden."""
        accelerator = "gpu" if self.device == "cuda" else "cpu"
        words = ["train_command.py", f"trainer.accelerator={accelerator}", *overrides]
        return [*words, *SMALL, *FEW] if self.tiny else words

    def loop(self, *words: str) -> list[str]:
        """Return the command of a loop by hand; overrides come first."""
        few = ["--epochs", "2", "--batches", "2", "--steps", "4"] if self.tiny else []
        return [
            "gpu_loops.py",
            *(SMALL if self.tiny else ()),
            *words,
            "--device",
            self.device,
            *few,
        ]

    def start(
        self, command: list[str], environment: dict[str, str] | None = None, code: int = 0
    ) -> Run:
        """Run a program to its end, which is to have this exit code, and return the figures that it prints."""
        if self.device == "cpu" and "--graph" in command:
            return {"failed": "skipped: CUDA graphs need a GPU"}
        with tempfile.TemporaryDirectory(
            ignore_cleanup_errors=True
        ) as folder:  # also of what is killed
            env = {**self.environment(environment), "TMPDIR": folder}
            start = time.perf_counter()
            try:
                done = subprocess.run(
                    python(command), env=env, capture_output=True, text=True, timeout=TIMEOUT_S
                )
            except subprocess.TimeoutExpired:
                return {"failed": f"failed: no end after {TIMEOUT_S} s"}
            seconds = time.perf_counter() - start
        if done.returncode != code:
            return {"failed": reason(done.stderr, done.returncode)}
        return {"process_s": seconds, **({} if code else json.loads(last_line(done.stdout)))}

    def environment(self, more: dict[str, str] | None = None) -> dict[str, str]:
        """Return the environment of a program, without GPUs if it is to use none."""
        return {
            **AS_TYPED,
            **({"CUDA_VISIBLE_DEVICES": ""} if self.device == "cpu" else {}),
            **(more or {}),
        }

    def alternate(self, programs: dict[str, list[str]]) -> dict[str, list[Run]]:
        """Run each program once a round, and return its figures by round."""
        found: dict[str, list[Run]] = {name: [] for name in programs}
        for number, name in in_turn(programs, self.num_rounds):
            found[name].append(self.start(programs[name]))
            print(f"round {number}: {name}: {found[name][-1]}", file=sys.stderr, flush=True)
        return found

    def head(self, what: str, num: int | None = None) -> str:
        """Return the lines above a table: the machine, the number of rounds, and what is measured."""
        return f"{machine(self.device)}, n = {num or self.num_rounds}\n{what}\n"


def in_turn(names: Collection[str], num_rounds: int) -> Iterator[tuple[int, str]]:
    """Yield the number of each round with each name, in an order of the round's own."""
    for number in range(num_rounds):
        for name in random.Random(number).sample(list(names), len(names)):
            yield number, name


@functools.cache
def machine(device: str) -> str:
    """Return the names of GPU, driver and PyTorch; the GPU is asked by other processes, so that this one takes none of its memory."""
    if device == "cpu":
        return f"no GPU, torch {torch.__version__}"
    said = []
    for command in (
        [sys.executable, "-c", "import torch; print(torch.cuda.get_device_name())"],
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
            said.append(done.stdout.splitlines()[0])
        except (OSError, subprocess.SubprocessError, IndexError):
            said.append("unknown")
    return f"{said[0]}, driver {said[1]}, torch {torch.__version__} (CUDA {torch.version.cuda})"


def python(command: list[str]) -> list[str]:
    """Return the words that start a program of this folder."""
    return [sys.executable, str(HERE / command[0]), *command[1:]]


def last_line(text: str) -> str:
    """Return the last line of what a program printed."""
    return text.rstrip().rpartition("\n")[2]


def reason(stderr: str, code: int) -> str:
    """Return why a program failed, in one line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line] or lines or [f"exit code {code}"]
    return f"failed: {errors[-1][:200]}".replace("|", "/")


def figure(value: float) -> str:
    """Return a number with three digits, or all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def failure(runs: Iterable[Run]) -> str | None:
    """Return the first reason for which one of the runs failed."""
    return next((run["failed"] for run in runs if "failed" in run), None)


def median(runs: list[Run], key: str, beside: list[Run] | None = None) -> str:
    """Return a median with its range, or that of the ratios to other runs; `none` where a run has no such figure."""
    if beside is None:
        values = [run[key] for run in runs if key in run]
    else:
        values = [
            run[key] / of[key]
            for run, of in zip(runs, beside, strict=True)
            if key in run and key in of
        ]
    if len(values) < len(runs):
        return "none"
    middle = figure(statistics.median(values))
    return (
        middle
        if len(runs) == 1 or beside
        else f"{middle} ({figure(min(values))} to {figure(max(values))})"
    )


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table; rows that are too short are filled."""
    rows = [row + [""] * (len(heads) - len(row)) for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def table(first: str, found: dict[str, list[Run]], *columns: Column) -> str:
    """Return a table with a row for each program."""
    rows = []
    for name, runs in found.items():
        failed = failure(runs)
        figures = [
            median(runs, each.key, found[each.beside] if each.beside else None) for each in columns
        ]
        rows.append([name, failed] if failed else [name, *figures])
    return markdown([first, *(each.head for each in columns)], rows)
