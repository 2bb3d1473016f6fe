"""What a process beside it costs a run, by how the threads of OpenMP wait for each other.

    make bench ARGS="--busy"

Two epochs of the default run, on the machine as it is and beside one process that computes without end; each way of waiting in turn, in
an order of its own per round. Figures are medians over the rounds.
"""

import contextlib
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator

PROGRAM = ["train_command.py", "trainer.max_epochs=2"]
OURS = "Leyden"
# What is set beforehand is not touched by Leyden; 300000 is what GNU's OpenMP does where nothing is set.
WAYS: dict[str, dict[str, str]] = {
    OURS: {},
    "OpenMP's default (GOMP_SPINCOUNT=300000)": {"GOMP_SPINCOUNT": "300000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}


@contextlib.contextmanager
def beside(number: int) -> Iterator[None]:
    """So many processes that compute without end."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def busy(measure: Callable[[list[str], dict[str, str]], dict[str, float]], num_rounds: int) -> str:
    """Measure, and give the table in Markdown; ratios are medians over the rounds, each within its round.

    Args:
        measure: Runs a program, in an environment with further variables; gives seconds by name.
        num_rounds: Runs of each.
    """
    lines = [
        f"| threads wait by | quiet: fit s | ÷ {OURS} | busy: fit s | ÷ {OURS} | n |",
        "|---|---|---|---|---|---|",
    ]
    found: dict[tuple[str, int], list[float]] = {}
    for number in range(num_rounds):
        for others in (0, 1):
            with beside(others):
                for name in random.Random(number).sample(list(WAYS), len(WAYS)):
                    seconds = measure(PROGRAM, WAYS[name])["fit_s"]
                    found.setdefault((name, others), []).append(seconds)
                    print(f"round {number}, {others} beside it: {name}: {seconds:.1f} s", flush=True)
    for name in WAYS:
        cells = [name]
        for others in (0, 1):
            values = found[name, others]
            ratios = [a / b for a, b in zip(values, found[OURS, others], strict=True)]
            cells.append(f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})")
            cells.append(f"{statistics.median(ratios):.2f}")
        lines.append(f"| {' | '.join([*cells, str(num_rounds)])} |")
    return "\n".join(lines)
