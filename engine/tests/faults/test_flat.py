"""What a process holds does not grow with what it has done: files and threads not at all, memory hardly."""

import gc
import os
import threading
from pathlib import Path

import pytest

from tests.faults.commands import Started

pytestmark = pytest.mark.faults

BYTES = 24 * 2**20  # what the allocators keep varies; a copy of the data, or a figure for each epoch, would be more


def held():
    """Open files, threads and resident memory."""
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count(), resident


def test_over_jobs(tmp_path, data):
    """After 3 jobs of a worker against after 20."""

    def before():
        from leyden.sweep import launcher, worker
        from tests.faults.commands import in_forks

        in_forks()
        original = worker.execute_job

        def execute(module, config):
            original(module, config)
            print("held", *held(), file=log, flush=True)

        log = (tmp_path / "held.txt").open("w")
        worker.execute_job = execute
        launcher.worker_environments = lambda *given: [{"OMP_NUM_THREADS": "1"}]

    given = [argument for argument in data if not argument.startswith("trainer.max_epochs")]
    seeds = ",".join(map(str, range(20)))
    arguments = ("-m", f"seed={seeds}", "sweep_name=x", f"outputs={tmp_path}", *given, "trainer.max_epochs=1")
    code, output = Started("train", *arguments, directory=tmp_path, before=before).end()
    assert code == 0, output
    lines = [tuple(map(int, line.split()[1:])) for line in (tmp_path / "held.txt").read_text().splitlines()]
    assert len(lines) == 20
    # Of some, since the memory of one goes up and down by what the allocators keep.
    first, last = lines[2:7], lines[-5:]
    assert last[-1][:2] == first[0][:2], f"files and threads: {first[0][:2]}, then {last[-1][:2]}"
    more = min(line[2] for line in last) - min(line[2] for line in first)
    assert more < BYTES, f"{more / 2**20:.1f} MiB more"
