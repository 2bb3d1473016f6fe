"""A sweep of 8 runs of one epoch on the CPU: one run at a time, and as many at once as there are cores.

    python engine/bench/sweep.py --rounds 3
    python engine/bench/sweep.py --growth 5000

Beside it stands what the machine itself gives: fits of the bare loop, one at a time with all threads against as many
at once with a thread each. Then 200 runs of one step: when the first one begins, what a run costs besides its training,
and how long the same sweep takes when all of them have ended. With --growth, only so many runs of one step: memory of
the sweep's first process and of the largest other one, and runs a minute, as their number grows.
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
NUM_MANY = 200
CORES = len(os.sched_getaffinity(0))
SWEEP = [sys.executable, "-m", "leyden.train", "-m", "seed=" + ",".join(map(str, range(NUM_JOBS)))]
LOOP = [sys.executable, str(Path(__file__).parent / "bare_torch.py")]
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


def sweep(num_at_once: int) -> tuple[float, float, float]:
    """Seconds of a sweep, those from its first job's start to its last one's end, and megabytes of the largest of its processes."""
    largest = 0.0
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        command = [
            *SWEEP,
            "trainer.max_epochs=1",
            f"outputs={folder}",
            f"cluster.num_jobs={num_at_once}",
        ]
        start = time.perf_counter()
        # In a session of its own, by which its processes are found.
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=ENVIRONMENT,
            start_new_session=True,
        )
        while process.poll() is None:
            largest = max([largest, *workers(process.pid)])
            time.sleep(0.1)
        seconds = time.perf_counter() - start
        if process.returncode:
            errors.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{errors.read()[-2000:]}")
        begins = [path.stat().st_mtime for path in Path(folder).rglob("config.yaml")]
        ends = [path.stat().st_mtime for path in Path(folder).rglob("run.json")]
    return seconds, max(ends) - min(begins), largest


def workers(session: int) -> list[float]:
    """Megabytes in memory, shared ones included, of each process of the session but the first one."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # it has ended by now
            pid = int(status.parent.name)
            if pid != session and os.getsid(pid) == session:
                found += [
                    int(line.split()[1]) * 1024 / 1e6
                    for line in status.open()
                    if line.startswith("VmRSS")
                ]
    return found


def one_step_command(num_runs: int, folder: str) -> list[str]:
    """The command of a sweep, named s, of so many runs of one step."""
    command = [
        sys.executable,
        "-m",
        "leyden.train",
        "-m",
        f"seed=range({num_runs})",
        "trainer.max_epochs=1",
    ]
    command += ["trainer.limit_train_batches=1", "sweep_name=s", f"cluster.num_jobs={CORES}"]
    return [*command, f"outputs={folder}"]


def growth(num_runs: int) -> None:
    """Print, for each tenth of a sweep of one-step runs, the largest megabytes in memory of its processes, and runs a minute."""
    print(
        f"| runs of {num_runs:,} that ended | MB of the first process | MB of the largest other one | runs a minute |\n|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            one_step_command(num_runs, folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
            start_new_session=True,
        )
        num_before, before, megabytes, largest = 0, time.perf_counter(), 0.0, 0.0
        while process.poll() is None:
            time.sleep(1)
            with contextlib.suppress(OSError, IndexError):  # it has ended by now
                pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                megabytes = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
            largest = max([largest, *workers(process.pid)])
            num = sum(
                '"status": null' not in path.read_text()
                for path in Path(folder).glob("sweeps/s/*/run.json")
            )
            if num - num_before >= num_runs / 10:
                now = time.perf_counter()
                rate = (num - num_before) * 60 / (now - before)
                print(f"| {num:,} | {megabytes:.0f} | {largest:.0f} | {rate:.0f} |", flush=True)
                num_before, before, largest = num, now, 0.0
        if process.returncode:
            sys.exit("the sweep failed")


def one_step_runs() -> tuple[float, float, float]:
    """Of a sweep of one-step runs: seconds until the first one begins, of a run without its training, and of the same again."""
    with tempfile.TemporaryDirectory() as folder:
        command = one_step_command(NUM_MANY, folder)
        start, first = time.perf_counter(), None
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
        while process.poll() is None:
            if first is None and list(Path(folder).glob("sweeps/s/*/run.json")):
                first = time.perf_counter() - start
            time.sleep(0.02)
        seconds = time.perf_counter() - start
        results = [
            json.loads(path.read_text()) for path in Path(folder).glob("sweeps/s/*/run.json")
        ]
        trained = statistics.median(result["seconds"] for result in results)
        assert first is not None
        assert len(results) == NUM_MANY
        start = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, env=ENVIRONMENT, check=True)
        return first, (seconds - first) * CORES / NUM_MANY - trained, time.perf_counter() - start


def loops(num_at_once: int) -> float:
    """Seconds that a fit of the bare loop takes, divided by their number where several run at once."""
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": str(CORES // num_at_once)}
    running = [
        subprocess.Popen(LOOP, env=environment, stdout=subprocess.PIPE) for _ in range(num_at_once)
    ]
    printed = [process.communicate()[0] for process in running]
    return max(json.loads(text)["fit_s"] for text in printed) / num_at_once


def main() -> None:
    """Measure in turn, and print medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--growth", type=int, metavar="RUNS", help="only the growth of a sweep with so many runs"
    )
    arguments = parser.parse_args()
    if arguments.growth:
        growth(arguments.growth)
        return
    rounds = arguments.rounds
    one, many, megabytes, ratios, job_ratios, loop_ratios = [], [], [], [], [], []
    for number in range(rounds):
        seconds, jobs_alone, _ = sweep(1)
        one.append(seconds)
        seconds, jobs_at_once, largest = sweep(CORES)
        many.append(seconds)
        megabytes.append(largest)
        ratios.append(one[-1] / many[-1])
        job_ratios.append(jobs_alone / jobs_at_once)
        loop_ratios.append(loops(1) / loops(CORES))
        print(
            f"round {number}: {one[-1]:.1f} s, {many[-1]:.1f} s, {largest:.0f} MB; "
            f"jobs {job_ratios[-1]:.2f}, loop {loop_ratios[-1]:.2f}",
            flush=True,
        )
    print(
        f"\n| sweep of {NUM_JOBS} runs, {CORES} cores, n = {rounds} | s | runs a minute |\n|---|---|---|"
    )
    for name, values in (
        (f"one at a time, {CORES} threads", one),
        (f"{CORES} at once, a thread each", many),
    ):
        print(
            f"| {name} | {statistics.median(values):.1f} | {NUM_JOBS * 60 / statistics.median(values):.1f} |"
        )
    print(
        f"\nratio {statistics.median(ratios):.2f}; from the first job's start to the last one's end ",
        end="",
    )
    print(
        f"{statistics.median(job_ratios):.2f}; that of the bare loop {statistics.median(loop_ratios):.2f}"
    )
    print(f"memory of a process that runs jobs, at most: {max(megabytes):.0f} MB")
    first, over, again = (
        statistics.median(values)
        for values in zip(*(one_step_runs() for _ in range(rounds)), strict=True)
    )
    print(
        f"{NUM_MANY} runs of one step: the first one begins after {first:.1f} s; a run takes {over:.2f} s besides"
    )
    print(f"its training; the same again, all finished, takes {again:.1f} s")


if __name__ == "__main__":
    main()
