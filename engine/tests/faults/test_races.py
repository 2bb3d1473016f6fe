"""Several processes start the same at once: one of them does it, the others get its result or its name."""

import multiprocessing
import os
import time
from collections import Counter

import pytest

from leyden.report.records import record_test_evaluation
from leyden.run.directory import Run
from tests import records
from tests.faults.commands import Started, at_operation, in_forks

pytestmark = pytest.mark.faults


def at_once(*command, directory, then, num):
    """So many processes that begin a command at the same moment."""
    moment = time.monotonic() + 0.2

    def wait():
        then()
        time.sleep(max(0, moment - time.monotonic()))

    return [Started(*command, directory=directory, before=wait, name=f"process{n}") for n in range(num)]


def test_one_run(tmp_path, data, trials, rng):
    for number in range(max(2, trials // 10)):
        (folder := tmp_path / str(number)).mkdir()
        arguments = (f"run_dir={folder}/run", f"outputs={folder}", *data)
        slow = at_operation(folder / "run", 60, lambda: time.sleep(rng.choice((0, 4))))
        starts = at_once("train", *arguments, directory=folder, then=slow, num=rng.randint(2, 4))
        ended = [started.end() for started in starts]
        assert len(Run(folder / "run").starts) == 1, ended
        assert [output.count("epoch 1/2") for _, output in ended].count(1) == 1, ended
        holders = [f"in use by process {started.pid} on {os.uname().nodename}" for started in starts]
        for code, output in ended:
            assert code == 0 or (code == 2 and any(holder in output for holder in holders)), ended
        assert [code for code, _ in ended].count(0) >= 1, ended


def test_one_sweep(tmp_path, data, trials):
    for number in range(max(1, trials // 20)):
        (folder := tmp_path / str(number)).mkdir()
        arguments = ("-m", "seed=0,1", "sweep_name=x", f"outputs={folder}", *data)
        both = at_once("train", *arguments, directory=folder, then=in_forks, num=2)
        for code, output in [started.end() for started in both]:
            assert code == 0, output
            assert "Traceback" not in output
        runs = [Run(path) for path in records.ended(folder, "sweeps/x/*/run.json")]
        assert [len(run.starts) for run in runs] == [1, 1]
        assert [run.result.status for run in runs] == ["finished", "finished"]


def test_each_test_evaluation_is_recorded(tmp_path, whole):
    def record(n):
        for k in range(20):
            record_test_evaluation(str(tmp_path), Run(whole.run), f"{n} {k}", {"test/acc": 0.5})

    writers = [multiprocessing.get_context("fork").Process(target=record, args=(n,)) for n in range(8)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    assert [each.exitcode for each in writers] == [0] * 8
    recorded = Counter(row["checkpoint"] for row in records.table(tmp_path / "test_evaluations.csv"))
    assert recorded == {f"{n} {k}": 1 for n in range(8) for k in range(20)}
