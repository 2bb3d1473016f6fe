"""The cost of another process beside a run, by how the threads of OpenMP wait for each other.

    make bench ARGS="--busy"

Two epochs of the default run, on the machine as it is and beside one process that computes without end; each way of waiting in turn, in
an order of its own per round. Figures are medians over the rounds.
"""

import contextlib
import random
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


def busy(
    measure: Callable[[list[str], dict[str, str]], dict[str, float]], num_rounds: int
) -> dict[str, list[dict[str, float]]]:
    """Seconds of each round, `quiet_s` and `busy_s`, by the way of waiting.

    Args:
        measure: Runs a program, in an environment with further variables; gives seconds by name.
        num_rounds: Runs of each.
    """
    found: dict[str, list[dict[str, float]]] = {
        name: [{} for _ in range(num_rounds)] for name in WAYS
    }
    for number in range(num_rounds):
        for others, key in enumerate(("quiet_s", "busy_s")):
            with beside(others):
                for name in random.Random(number).sample(list(WAYS), len(WAYS)):
                    found[name][number][key] = seconds = measure(PROGRAM, WAYS[name])["fit_s"]
                    print(
                        f"round {number}, {others} beside it: {name}: {seconds:.1f} s", flush=True
                    )
    return found
