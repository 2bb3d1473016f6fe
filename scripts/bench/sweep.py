"""A sweep of 8 runs of one epoch on the CPU: one run at a time, and as many at once as there are cores.

    python scripts/bench/sweep.py --rounds 3

Beside it stands what the machine itself gives: fits of the bare loop, one at a time with all threads against as many
at once with a thread each.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NUM_JOBS = 8
CORES = len(os.sched_getaffinity(0))
SWEEP = [sys.executable, "-m", "leyden.train", "-m", "seed=" + ",".join(map(str, range(NUM_JOBS)))]
LOOP = [sys.executable, str(Path(__file__).parent / "bare_torch.py")]
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


def sweep(num_at_once: int) -> tuple[float, float]:
    """Seconds of a sweep, and the megabytes of the largest of the processes that run its jobs."""
    largest = 0.0
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        command = [*SWEEP, "trainer.max_epochs=1", f"outputs={folder}", f"cluster.num_jobs={num_at_once}"]
        start = time.perf_counter()
        # In a session of its own, by which its processes are found.
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=errors, env=ENVIRONMENT, start_new_session=True
        )
        while process.poll() is None:
            largest = max([largest, *workers(process.pid)])
            time.sleep(0.1)
        seconds = time.perf_counter() - start
        if process.returncode:
            errors.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{errors.read()[-2000:]}")
    return seconds, largest


def workers(session: int) -> list[float]:
    """Megabytes in memory, shared ones included, of each process of the session but the first one."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # it has ended by now
            pid = int(status.parent.name)
            if pid != session and os.getsid(pid) == session:
                found += [int(line.split()[1]) * 1024 / 1e6 for line in status.open() if line.startswith("VmRSS")]
    return found


def loops(num_at_once: int) -> float:
    """Seconds that a fit of the bare loop takes, divided by their number where several run at once."""
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": str(CORES // num_at_once)}
    running = [subprocess.Popen(LOOP, env=environment, stdout=subprocess.PIPE) for _ in range(num_at_once)]
    printed = [process.communicate()[0] for process in running]
    return max(json.loads(text)["fit_s"] for text in printed) / num_at_once


def main() -> None:
    """Measure in turn, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    one, many, megabytes, ratios, loop_ratios = [], [], [], [], []
    for number in range(rounds):
        one.append(sweep(1)[0])
        seconds, largest = sweep(CORES)
        many.append(seconds)
        megabytes.append(largest)
        ratios.append(one[-1] / many[-1])
        loop_ratios.append(loops(1) / loops(CORES))
        print(
            f"round {number}: {one[-1]:.1f} s, {many[-1]:.1f} s, {largest:.0f} MB; loop {loop_ratios[-1]:.2f}",
            flush=True,
        )
    print(f"\n| sweep of {NUM_JOBS} runs, {CORES} cores, n = {rounds} | s | runs a minute |\n|---|---|---|")
    for name, values in ((f"one at a time, {CORES} threads", one), (f"{CORES} at once, a thread each", many)):
        print(f"| {name} | {statistics.median(values):.1f} | {NUM_JOBS * 60 / statistics.median(values):.1f} |")
    print(f"\nratio {statistics.median(ratios):.2f}; that of the bare loop: {statistics.median(loop_ratios):.2f}")
    print(f"memory of a process that runs jobs, at most: {max(megabytes):.0f} MB")


if __name__ == "__main__":
    main()
