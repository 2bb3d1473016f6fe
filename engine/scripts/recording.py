"""Make the picture at the top of the README: a run is killed, resumed, and compared with one that was never stopped.

    .venv/bin/python engine/scripts/recording.py engine/docs/images/killed.svg

It is a recording: each command runs, and what it prints is shown, but for lines that are left out as `…`.
"""

import csv
import io
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

from leyden.base.paths import root

TRAIN = ("train", "callbacks.checkpoint.every_n_steps=100")
WIDTH = 80
SHOWN = re.compile(r"epoch |resumes from|equal|diverged|test/acc")  # lines of the commands
STYLES = {"$": "bold", "Killed": "bold red", "equal": "green", "…": "dim"}  # by how a line begins
FONT = re.compile(
    r"@font-face \{.*?\}\s*", re.DOTALL
)  # of another host, which a page that is read offline can't ask


def record(folder: Path, overrides: Sequence[str] = (), *, killed_at: int = 1000) -> list[str]:
    """Run the commands, with the runs below a folder, and return the lines of the terminal.

    Args:
        folder: Where the runs go, an empty folder; it is shown as `outputs`.
        overrides: Further overrides of the runs.
        killed_at: The step at which the second run is killed, or soon after.
    """
    whole, killed = folder / "whole", folder / "killed"
    lines = [*_typed(folder, *TRAIN, f"run_dir={whole}", *overrides), ""]
    command = (*TRAIN, f"run_dir={killed}", *overrides)
    step = _kill(command, killed / "metrics.csv", killed_at)
    lines += [
        f"$ leyden {_short(folder, command)}",
        "…",
        f"Killed                # by kill -9, at step {step}",
    ]
    lines += [*_typed(folder, *command), ""]
    lines += ["$ tail -qn1 outputs/{whole,killed}/fingerprint.csv | cut -d, -f1-2"]
    for directory in (whole, killed):
        lines.append(
            ",".join((directory / "fingerprint.csv").read_text().splitlines()[-1].split(",")[:2])
        )
    return lines + _typed(folder, "reproduce", f"run={whole}", f"against={killed}")


def _start(verb: str, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", f"leyden.{verb}", *words],
        cwd=root(),
        stdout=subprocess.PIPE,
        text=True,
    )


def _typed(folder: Path, verb: str, *words: str) -> list[str]:
    """Return a command as it is typed, and the lines of its output that are shown."""
    with _start(verb, *words) as process:
        output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{verb}: exit code {process.returncode}")
    shown = [_short(folder, [line])[:WIDTH] for line in output.splitlines() if SHOWN.match(line)]
    return [
        f"$ leyden {_short(folder, [verb, *words])}",
        *(["…"] if verb == "train" else []),
        *shown,
    ]


def _short(folder: Path, words: Sequence[str]) -> str:
    return " ".join(words).replace(str(folder), "outputs")


def _kill(command: Sequence[str], curves: Path, at: int) -> int:
    """Start a run, kill it once its curves have come to a step, and return their last step."""
    step = 0
    with _start(*command) as process:
        while step < at and process.poll() is None:
            time.sleep(0.05)
            rows = (
                list(csv.reader(io.StringIO(curves.read_text())))[1:-1] if curves.exists() else []
            )
            step = max([int(row[0]) for row in rows], default=0)
        process.kill()
    if process.returncode != -signal.SIGKILL:
        raise RuntimeError(f"the run ended before step {at}")
    return step


def svg(lines: Sequence[str]) -> str:
    """Return a terminal with these lines."""
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    for line in lines:
        style = next((style for begin, style in STYLES.items() if line.startswith(begin)), "")
        console.print(Text(line, style=style))
    title = "kill -9, the same command, the same bits"
    return FONT.sub("", console.export_svg(title=title, theme=DIMMED_MONOKAI, unique_id="killed"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        Path(sys.argv[1]).write_text(svg(record(Path(temporary))))
