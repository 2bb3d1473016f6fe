"""Disks that are full or read-only: a line says so, the last good checkpoint stays, and with space the run ends."""

import errno
import functools
import os
import random
import shutil
import subprocess
import sys

import pytest

from leyden.run.directory import Run
from tests.conftest import assert_same_bits
from tests.faults.commands import OPERATIONS, at_operation, call, ends_clearly, in_forks, num_operations

pytestmark = pytest.mark.faults


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"can't mount a disk: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    """A run that nothing happened to, and its number of operations on files."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, num_operations(folder, *arguments(folder, data), directory=folder)


def arguments(folder, data):
    return (f"run_dir={folder / 'run'}", f"outputs={folder}", *data)


def fill(disk):
    """Fill a disk to its last byte."""
    with (disk / "filling").open("ab", buffering=0) as file:
        for size in (2**16, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


def refuse_writing(below):
    """Let Python open nothing for writing below a folder any more, as on a disk that turned read-only."""

    def hook(event, args):
        writes = event != "open" or (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if event in OPERATIONS and writes and str(args[0]).startswith(f"{below}{os.sep}"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(args[0]))

    return hook


class Trials:
    """Runs that something happens to; then it is over, and the same command ends them."""

    def __init__(self, whole, tmp_path, data, seed):
        self.whole, self.num = whole[0], 0
        self.data, self.output, self.seed = data, tmp_path, seed

    def interrupted(self, folder, what, before, repair):
        self.num += 1
        code, output = call("train", *arguments(folder, self.data), directory=self.output, before=before)
        told = f"FAULTS_SEED={self.seed} {what}: {code}\n{output}"
        assert ends_clearly(code, output), told
        repair()
        run = Run(folder / "run")
        if (folder / "run" / "checkpoints").is_dir():
            run.newest_checkpoint()  # it is good
        code, output = call("train", *arguments(folder, self.data), directory=self.output)
        assert code == 0, f"{told}\nThen: {output}"
        assert run.result.status == "finished", told
        assert_same_bits(self.whole / "run", folder / "run")
        shutil.rmtree(folder / "run")


def test_a_disk_that_is_full_from_some_moment_on(disk, whole, tmp_path, data, trials, seed):
    trial, rng = Trials(whole, tmp_path, data, seed), random.Random(seed)
    for _ in range(max(4, trials // 5)):
        number = rng.randrange(whole[1])
        before = at_operation(disk, number, lambda: fill(disk))
        emptied = functools.partial((disk / "filling").unlink, missing_ok=True)  # a run can have fewer operations
        trial.interrupted(disk, f"full from operation {number} on", before, emptied)


def test_outputs_that_turn_read_only(whole, tmp_path, data, trials, seed):

    trial, rng = Trials(whole, tmp_path, data, seed), random.Random(seed)
    (place := tmp_path / "place").mkdir()
    for _ in range(max(4, trials // 4)):
        number = rng.randrange(whole[1])
        before = at_operation(place, number, lambda: sys.addaudithook(refuse_writing(place)))
        trial.interrupted(place, f"read-only from operation {number} on", before, lambda: None)


def test_outputs_that_are_read_only(disk, whole, tmp_path, data):
    shutil.copytree(whole[0] / "run", disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for verb, *given in (
        ("train", f"run_dir={disk}/new", f"outputs={disk}", *data),
        ("train", f"run_dir={disk}/run", f"outputs={disk}", *data, "trainer.max_epochs=3"),
        ("train", "-m", "seed=0,1", "sweep_name=x", f"outputs={disk}", *data),
        ("evaluate", f"run={disk}/run", f"outputs={disk}"),
        ("export", f"run={disk}/run", f"output={disk}/x.onnx"),
    ):
        code, output = call(verb, *given, directory=tmp_path, before=in_forks)
        assert code == 2, f"{verb}: {output}"
        assert len(output.strip().splitlines()) == 1, f"{verb}: {output}"
        assert str(disk) in output, f"{verb}: {output}"
    code, output = call("summarize", str(disk), directory=tmp_path)
    assert "Traceback" not in output
    code, output = call("train", f"run_dir={disk}/run", f"outputs={disk}", *data, directory=tmp_path)
    assert code == 0, output  # it has its result


def test_data_that_are_read_only(disk, whole, small_files, tmp_path, data):
    shutil.copytree(small_files / "MNIST", tmp_path / "source")
    given = [argument for argument in data if not argument.startswith("data.root")]
    place = (f"data.root={disk}", f"run_dir={tmp_path}/run", f"outputs={tmp_path}")
    subprocess.run(["mount", "-o", "remount,size=40M", disk], check=True)
    shutil.copytree(small_files / "MNIST", disk / "MNIST")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    code, output = call("train", *place, *given, directory=tmp_path)
    assert code == 0, output
    assert_same_bits(whole[0] / "run", tmp_path / "run")
    code, output = call("train", *place, *given, "data=kmnist", "resume=never", directory=tmp_path)
    assert code == 2, output
    assert len(output.strip().splitlines()) == 1, output
