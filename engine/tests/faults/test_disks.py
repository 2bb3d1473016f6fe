"""Disks that are full or read-only: a line says so, the last good checkpoint stays, and with space the run ends."""

import contextlib
import errno
import functools
import os
import shutil
import subprocess
import sys

import pytest

from leyden.run.directory import Run
from tests.conftest import assert_same_bits
from tests.faults.commands import OPERATIONS, at_operation, call, ends_clearly, in_forks

pytestmark = pytest.mark.faults


@pytest.fixture
def disk(tmp_path):
    (place := tmp_path / "disk").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", place], capture_output=True)
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


def refuse_writing(below):
    """Let Python open nothing for writing below a folder any more, as on a disk that turned read-only."""

    def hook(event, args):
        writes = event != "open" or (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if event in OPERATIONS and writes and str(args[0]).startswith(f"{below}{os.sep}"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(args[0]))

    return hook


def interrupted(whole, folder, told, before, repair, output):
    """Train while something happens; then it is over, and the same command ends the run."""
    code, printed = call("train", *whole.arguments(folder), directory=output, before=before)
    assert ends_clearly(code, printed), f"{told}: {code}\n{printed}"
    repair()
    if (folder / "run" / "checkpoints").is_dir():
        Run(folder / "run").newest_checkpoint()  # it is good
    whole.resume(folder, f"{told}: {code}\n{printed}", output=output)
    shutil.rmtree(folder / "run")


def test_a_disk_that_is_full_or_read_only_from_some_moment_on(disk, whole, tmp_path, trials, rng):
    emptied = functools.partial((disk / "filling").unlink, missing_ok=True)  # a run can have fewer operations
    (place := tmp_path / "place").mkdir()
    for _ in range(max(2, trials // 5)):
        number = rng.randrange(whole.num_operations)
        before = at_operation(disk, number, lambda: fill(disk))
        interrupted(whole, disk, f"full from {number} on", before, emptied, tmp_path)
        before = at_operation(place, number, lambda: sys.addaudithook(refuse_writing(place)))
        interrupted(whole, place, f"read-only from {number} on", before, lambda: None, tmp_path)


@pytest.mark.nightly  # a disk that becomes read-only is tested by day
def test_outputs_that_are_read_only(disk, whole, tmp_path, data):
    shutil.copytree(whole.run, disk / "run")
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
    typed = (*data[1:], f"data.root={disk}", f"run_dir={tmp_path}/run", f"outputs={tmp_path}")
    subprocess.run(["mount", "-o", "remount,size=40M", disk], check=True)
    shutil.copytree(small_files / "MNIST", disk / "MNIST")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    code, output = call("train", *typed, directory=tmp_path)
    assert code == 0, output
    assert_same_bits(whole.run, tmp_path / "run")
    code, output = call("train", *typed, "data=kmnist", "resume=never", directory=tmp_path)
    assert code == 2, output
    assert len(output.strip().splitlines()) == 1, output
