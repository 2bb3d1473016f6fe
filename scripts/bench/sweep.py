"""A sweep of 8 runs of one epoch: one after the other, and as many at once as the machine has cores.

    python scripts/bench/sweep.py --rounds 3

The last line is what the machine itself gives: training alone, by a loop without Lightning, once with all threads and
once in as many processes with one thread each.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NUM_JOBS = 8
SEEDS = "seed=" + ",".join(map(str, range(NUM_JOBS)))
LOOP = [sys.executable, str(Path(__file__).parent / "bare_torch.py")]


def sweep(*overrides: str) -> tuple[float, float]:
    """Seconds of a sweep, and the megabytes of the largest of its processes that run jobs."""
    largest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "leyden.train", "-m", SEEDS, "trainer.max_epochs=1", f"outputs={folder}"]
        start = time.perf_counter()
        # In a session of its own, by which its processes are found.
        process = subprocess.Popen(
            [*command, *overrides], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None:
            largest = max([largest, *workers(process.pid)])
            time.sleep(0.1)
        if process.returncode:
            sys.exit(f"{' '.join([*command, *overrides])} failed")
        return time.perf_counter() - start, largest


def workers(session: int) -> list[float]:
    """Megabytes that each process of the session but the first one holds in memory, shared ones included."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError, ValueError):  # it has ended by now
            pid = int(status.parent.name)
            if pid != session and os.getsid(pid) == session:
                found += [float(line.split()[1]) / 1e3 for line in status.open() if line.startswith("VmRSS")]
    return found


def loops(num_at_once: int, num_threads: int) -> float:
    """Seconds a fit of the bare loop takes, with so many at once."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(num_threads)}
    start = time.perf_counter()
    for process in [subprocess.Popen(LOOP, env=environment, stdout=subprocess.DEVNULL) for _ in range(num_at_once)]:
        process.wait()
    return (time.perf_counter() - start) / num_at_once


def main() -> None:
    """Measure in turn, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    cores = len(os.sched_getaffinity(0))
    found: dict[str, list[float]] = {"one": [], "all": [], "memory": [], "loop": [], "loops": []}
    for number in range(rounds):
        found["one"].append(sweep("cluster.num_jobs=1")[0])
        seconds, megabytes = sweep()
        found["all"].append(seconds)
        found["memory"].append(megabytes)
        found["loop"].append(loops(1, cores))
        found["loops"].append(loops(cores, 1))
        print(
            f"round {number}: " + ", ".join(f"{name} {values[-1]:.1f}" for name, values in found.items()),
            flush=True,
        )
    median = {name: statistics.median(values) for name, values in found.items()}
    print(f"\n| sweep of {NUM_JOBS} runs, {cores} cores, n = {rounds} | s | runs a minute |\n|---|---|---|")
    print(f"| one at a time, {cores} threads | {median['one']:.1f} | {NUM_JOBS * 60 / median['one']:.1f} |")
    print(f"| {cores} at once, a thread each | {median['all']:.1f} | {NUM_JOBS * 60 / median['all']:.1f} |")
    print(
        f"\nratio {median['one'] / median['all']:.2f}; memory of a process, at most: {max(found['memory']):.0f} MB"
    )
    print(f"the same of a bare loop: {median['loop'] / median['loops']:.2f}")


if __name__ == "__main__":
    main()
