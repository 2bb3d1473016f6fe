"""What happens to a training meanwhile: its disk is full, its files vanish, others start. A line says so, and the run ends rightly."""

import contextlib
import errno
import functools
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections import Counter

import pytest

from leyden.report.records import record_test_evaluation
from leyden.run.directory import Run
from tests import records
from tests.conftest import assert_same_bits
from tests.faults.commands import (
    OPERATIONS,
    Started,
    at_operation,
    at_step,
    call,
    ends_clearly,
    in_forks,
    within,
)

pytestmark = pytest.mark.faults


@pytest.fixture
def disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", place], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"can't mount a disk: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk):
    with (disk / "filling").open("ab", buffering=0) as file:
        for size in (2**16, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def refuse_writing(below, event, args):
    """A hook, by which Python opens nothing for writing below a folder any more, as on a disk that turned read-only."""
    writes = event != "open" or (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if event in OPERATIONS and writes and str(args[0]).startswith(f"{below}{os.sep}"):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(args[0]))


def interrupted(whole, folder, told, before, repair, output):
    """Train while something happens; then it is over, and the same command ends the run."""
    code, printed = call("train", *whole.arguments(folder), directory=output, before=before)
    assert ends_clearly(code, printed), f"{told}: {code}\n{printed}"
    repair()
    Run(folder / "run").newest_checkpoint()  # if there is one, it is good
    whole.resume(folder, f"{told}: {code}\n{printed}", output=output)
    shutil.rmtree(folder / "run")


def test_a_disk_that_is_full_or_read_only_from_some_moment_on(disk, whole, tmp_path, trials, rng):
    # A run can have fewer operations.
    emptied = functools.partial((disk / "filling").unlink, missing_ok=True)
    place = tmp_path / "place"
    place.mkdir()
    for _ in range(max(2, trials // 5)):
        number = rng.randrange(whole.num_operations)
        before = at_operation(disk, number, lambda: fill(disk))
        interrupted(whole, disk, f"full from {number} on", before, emptied, tmp_path)
        before = at_operation(
            place, number, lambda: sys.addaudithook(functools.partial(refuse_writing, place))
        )
        interrupted(whole, place, f"read-only from {number} on", before, lambda: None, tmp_path)


@pytest.mark.nightly  # a disk that becomes read-only is tested by day
def test_outputs_that_are_read_only(disk, whole, tmp_path, data):
    shutil.copytree(whole.run, disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for verb, *given in (
        ("train", f"run_dir={disk}/new", f"outputs={disk}", *data),
        ("train", *within(disk), *data, "trainer.max_epochs=3"),
        ("train", "-m", "seed=0,1", "sweep_name=x", f"outputs={disk}", *data),
        ("evaluate", f"run={disk}/run", f"outputs={disk}"),
        ("export", f"run={disk}/run", f"output={disk}/x.onnx"),
    ):
        code, output = call(verb, *given, directory=tmp_path, before=in_forks)
        told = f"{verb}: {output}"
        assert code == 2, told
        assert len(output.strip().splitlines()) == 1, told
        assert str(disk) in output, told
    assert "Traceback" not in call("summarize", str(disk), directory=tmp_path)[1]
    code, output = call("train", *within(disk), *data, directory=tmp_path)
    assert code == 0, output  # it has its result


def test_data_that_are_read_only(disk, whole, small_files, tmp_path, data):
    typed = (*within(tmp_path), *data[1:], f"data.root={disk}")
    subprocess.run(["mount", "-o", "remount,size=40M", disk], check=True)
    shutil.copytree(small_files / "MNIST", disk / "MNIST")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    code, output = call("train", *typed, directory=tmp_path)
    assert code == 0, output
    assert_same_bits(whole.run, tmp_path / "run")
    code, output = call("train", *typed, "data=kmnist", "resume=never", directory=tmp_path)
    assert code == 2, output
    assert len(output.strip().splitlines()) == 1, output


class Place:
    """A folder with data and outputs of its own, and the run in it."""

    def __init__(self, folder, small_files, data):
        self.folder = folder
        self.outputs = folder / "outputs"
        self.data = folder / "data"
        self.files = small_files
        self.run = self.outputs / "run"
        self.arguments = (*within(self.outputs), *data[1:], f"data.root={self.data}")
        self.copy()

    def copy(self):
        shutil.copytree(self.files / "MNIST", self.data / "MNIST", dirs_exist_ok=True)

    def rename_run(self):
        self.run.rename(self.run.with_name("moved"))

    def replace_run(self):
        remove(self.run)
        self.run.write_text("something else")

    def begin_another(self):
        """Move the run, and let another process begin it anew in its place."""
        self.rename_run()
        (self.folder / "moved").touch()
        wait_for(self.folder / "begun")


def remove(folder):
    """As `rm -r` again and again: threads of the training may be writing."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(path):
    while not path.exists():
        time.sleep(0.001)


HAPPENS = {
    "run removed": lambda place: remove(place.run),
    "run renamed": Place.rename_run,
    "run replaced": Place.replace_run,
    "checkpoints removed": lambda place: remove(place.run / "checkpoints"),
    "data removed": lambda place: remove(place.data),
    "outputs removed": lambda place: remove(place.outputs),
}


@pytest.mark.parametrize("happens", HAPPENS)
def test_what_a_training_works_on_vanishes(
    tmp_path, small_files, data, whole, trials, rng, happens
):
    for _ in range(max(1, trials // 20)):
        place = Place(tmp_path / "place", small_files, data)
        number = rng.randrange(8, whole.num_operations)
        before = at_operation(place.run, number, functools.partial(HAPPENS[happens], place))
        code, output = call("train", *place.arguments, directory=tmp_path, before=before)
        told = f"{happens} at {number}: {code}\n{output}"
        assert ends_clearly(code, output), told
        if happens in ("run removed", "run renamed", "outputs removed") and code:
            # TensorBoard's thread can make a last file, which it opens by name.
            for path in place.run.rglob("*"):
                assert path.is_dir() or "tfevents" in path.name, told
        if happens == "run replaced":
            assert place.run.read_text() == "something else", told
        if happens in ("checkpoints removed", "data removed"):
            place.copy()
            code, output = call("train", *place.arguments, directory=tmp_path)
            assert code == 0, f"{told}\nThen: {output}"
            is_finished = Run(place.run).result.status == "finished"
            if is_finished and (place.run / "checkpoints" / "last.ckpt").exists():
                assert_same_bits(whole.run, place.run)
        shutil.rmtree(place.folder)


def test_another_training_takes_the_place(tmp_path, small_files, data, whole, trials, rng):
    for _ in range(max(1, trials // 10)):
        place = Place(tmp_path / "place", small_files, data)
        number = rng.randrange(12)
        # Within a step: a check and what is written next are one moment.
        before = at_step(number, place.begin_another)
        first = Started("train", *place.arguments, directory=tmp_path, before=before, name="first")
        wait_for(place.folder / "moved")
        begin = at_operation(place.run, rng.randrange(20, 100), (place.folder / "begun").touch)
        second = Started("train", *place.arguments, directory=tmp_path, before=begin, name="second")
        ended = first.end()
        others = second.end()
        told = f"at step {number}: {ended}, {others}"
        assert others[0] == 0, told
        assert ends_clearly(*ended), told
        run = Run(place.run)
        assert len(run.starts) == 1, told
        own = f".{run.starts[0]['pid']}."
        strays = [path for path in run.directory.glob("*/events*") if own not in path.name]
        # TensorBoard's thread opens its file by name for each event, a last one too.
        assert len(strays) <= 1, told
        assert_same_bits(whole.run, place.run)
        lines = (run.directory / "metrics.csv").read_text().splitlines()
        expected = (whole.run / "metrics.csv").read_text().splitlines()
        assert len(lines) == len(expected), told
        shutil.rmtree(place.folder)


def at_once(*command, directory, then, num):
    """So many processes that begin a command at the same moment."""
    moment = time.monotonic() + 0.2

    def wait():
        then()
        time.sleep(max(0, moment - time.monotonic()))

    return [
        Started(*command, directory=directory, before=wait, name=f"process{n}") for n in range(num)
    ]


def test_of_starts_at_once_one_trains(tmp_path, data, trials, rng):
    for number in range(max(2, trials // 10)):
        folder = tmp_path / str(number)
        folder.mkdir()
        slow = at_operation(folder / "run", 60, lambda: time.sleep(rng.choice((0, 4))))
        starts = at_once(
            "train", *within(folder), *data, directory=folder, then=slow, num=rng.randint(2, 4)
        )
        ended = [started.end() for started in starts]
        assert len(Run(folder / "run").starts) == 1, ended
        assert [output.count("epoch 1/2") for _, output in ended].count(1) == 1, ended
        holders = [
            f"in use by process {started.pid} on {os.uname().nodename}" for started in starts
        ]
        for code, output in ended:
            assert code == 0 or (code == 2 and any(holder in output for holder in holders)), ended
        assert [code for code, _ in ended].count(0) >= 1, ended


def test_sweeps_at_once_run_each_job_once(tmp_path, data, trials):
    for number in range(max(1, trials // 20)):
        folder = tmp_path / str(number)
        folder.mkdir()
        arguments = ("-m", "seed=0,1", "sweep_name=x", f"outputs={folder}", *data)
        both = at_once("train", *arguments, directory=folder, then=in_forks, num=2)
        for code, output in [started.end() for started in both]:
            assert code == 0, output
            assert "Traceback" not in output
        runs = [Run(path) for path in records.ended(folder, "sweeps/x/*/run.json")]
        assert [(len(run.starts), run.result.status) for run in runs] == 2 * [(1, "finished")]


def record(folder, run, n):
    for k in range(20):
        record_test_evaluation(folder, Run(run), f"{n} {k}", {"test/acc": 0.5})


def test_each_of_many_test_evaluations_at_once_is_recorded(tmp_path, whole):
    with multiprocessing.get_context("fork").Pool(8) as writers:
        writers.map(functools.partial(record, str(tmp_path), whole.run), range(8), chunksize=1)
    recorded = Counter(
        row["checkpoint"] for row in records.table(tmp_path / "test_evaluations.csv")
    )
    assert recorded == {f"{n} {k}": 1 for n in range(8) for k in range(20)}
