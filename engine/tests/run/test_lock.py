"""Locks: one holder at a time, without flock, however processes end, stop or run on other machines."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest

from leyden.base.errors import UserError
from leyden.run import lock
from leyden.run.lock import acquire, check_held, hold, hold_directory, is_held
from tests.forks import TIMEOUT_S

# A process that takes locks as one on another machine does, with a faster heartbeat, and without flock.
ELSEWHERE = """
import errno, fcntl, os, sys, time
from pathlib import Path
from leyden.run import lock
def flock(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")
fcntl.flock = fcntl.lockf = flock
lock.HEARTBEAT_S, lock.STALE_S, lock.MAX_PAUSE_S = 0.1, 2.0, 0.05
lock._machine = lambda: {machine!r}
os.environ["LEYDEN_JOB"] = "77"
path = Path(sys.argv[1])
"""
HOLDING = """
held = lock.acquire(path)
print("holds", flush=True)
sys.stdin.readline()
try:
    held.check()
finally:
    held.release()
"""


def process(path, body, machine=None):
    """A process that runs `body`; on this machine, or on another one."""
    code = ELSEWHERE.replace("{machine!r}", repr(machine or lock._machine())) + body
    pipes = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }
    return subprocess.Popen([sys.executable, "-c", code, str(path)], **pipes)


@contextlib.contextmanager
def holding(path, machine="another machine"):
    with process(path, HOLDING, machine) as started:
        try:
            assert started.stdout.readline() == "holds\n"
            yield started
        finally:
            started.kill()


@pytest.fixture
def fast(monkeypatch):
    for name, value in {
        "HEARTBEAT_S": 0.1,
        "STALE_S": 2.0,
        "MAX_PAUSE_S": 0.05,
        "_thread": None,
    }.items():
        monkeypatch.setattr(lock, name, value)


@pytest.mark.parametrize(
    ("num", "times"), [(4, 40), pytest.param(9, 500, marks=pytest.mark.nightly)]
)
def test_processes_take_it_one_after_another(tmp_path, num, times):
    """In a folder that the first one makes, and may remove when it is empty."""
    count = tmp_path / "count"
    count.write_text("0")
    body = f"""
for _ in range({times}):
    with lock.hold(path):
        count = path.parents[1] / "count"
        number = int(count.read_text())
        time.sleep(0.0005)
        count.write_text(str(number + 1))
"""
    machines = [None, None, "b", "c"]
    started = [process(tmp_path / "run" / "x", body, machines[number % 4]) for number in range(num)]
    errors = [each.communicate(timeout=TIMEOUT_S)[0] for each in started]
    said = "".join(errors).splitlines()
    assert [line for line in said if "waiting for process" not in line] == []
    assert [each.returncode for each in started] == [0] * num
    assert count.read_text() == str(num * times)
    assert not [*tmp_path.rglob("x.*")]


def test_a_folder_that_is_removed_while_it_is_made_is_made_again(tmp_path, monkeypatch):
    make = Path.mkdir
    errors = [FileExistsError(errno.EEXIST, "File exists")]

    def mkdir(folder, *args, **kwargs):
        if errors:
            raise errors.pop()
        make(folder, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with hold(tmp_path / "run" / ".lock", timeout_s=5):
        assert is_held(tmp_path / "run")


def test_a_holder_that_lives_is_named_and_one_that_is_gone_holds_nothing(tmp_path):
    with holding(tmp_path / ".lock", machine=None) as holder:
        os.kill(holder.pid, signal.SIGSTOP)  # here it is known to live
        with pytest.raises(UserError, match=f"in use by process {holder.pid} on .*, since 20"):
            acquire(tmp_path / ".lock", timeout_s=0.2)
        assert is_held(tmp_path)
        (file,) = tmp_path.glob(".lock.*")
        content = file.read_text()
        file.write_text(
            json.dumps({**json.loads(content), "began": "1"})
        )  # the id of another process
        assert not is_held(tmp_path)
        file.write_text(content)
        assert is_held(tmp_path)
        holder.kill()
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # a zombie, which has an id
        assert not is_held(tmp_path)
        with hold(tmp_path / ".lock", timeout_s=0):
            pass


@pytest.mark.parametrize(("hours", "job"), [(-3, ""), (3, ""), (0, "77")])
def test_a_holder_elsewhere_is_waited_for_unless_its_job_has_ended(
    tmp_path, fast, capsys, monkeypatch, hours, job
):
    """The clocks are not compared."""
    real = time.time
    path = tmp_path / ".lock"
    monkeypatch.setattr(lock, "ANNOUNCE_S", 0.2)
    with holding(path) as holder:
        started = time.monotonic()
        monkeypatch.setattr(time, "time", lambda: real() + 3600 * hours)
        with pytest.raises(UserError, match=f"process {holder.pid}"):
            acquire(path, timeout_s=0)
        assert time.monotonic() - started < 3.9  # otherwise it would be waited for until then
    capsys.readouterr()
    os.utime(tmp_path / ".lock.0", (real() + 3600 * hours,) * 2)
    started = time.monotonic()
    with hold(path, timeout_s=0, ended_job=job):
        waited = time.monotonic() - started
    assert (1.9 < waited < 30) if not job else waited < 1.9
    assert (f"waiting for process {holder.pid} on" in capsys.readouterr().err) == (not job)


def test_who_is_suspended_is_taken_over_and_notices_unless_it_goes_on_just_before(tmp_path, fast):
    """A damaged file is held as long, until it is stale; all are waited for at the same time."""
    for content in (
        b"",
        b"\x00",
        b"[1]",
        b'{"pid": []}',
        b'{"pid": 1e999}',
        b'{"unknown": 1}',
        b"[" * 4000,
    ):
        assert lock.Holder.of(content) == lock.Holder()
    over, taken, late, damaged = paths = [tmp_path / name / ".lock" for name in "abcd"]
    damaged.parent.mkdir()
    damaged.with_name(".lock.4").touch()
    assert is_held(damaged.parent)
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as pool:
        holders = [stack.enter_context(holding(path)) for path in paths[:3]]
        for each in holders:
            os.kill(each.pid, signal.SIGSTOP)
        watch = lock.Watch(late)
        started = time.monotonic()
        taking = [pool.submit(acquire, path, timeout_s=0) for path in (over, taken, damaged)]
        while watch.state() != "free":
            time.sleep(0.05)
        held = [each.result() for each in taking]
        assert 1.9 < time.monotonic() - started < 30
        held[0].release()
        for each in holders:
            os.kill(each.pid, signal.SIGCONT)
        time.sleep(0.3)  # a heartbeat or two
        assert lock._create(watch) is None
        said = [each.communicate("\n")[0] for each in holders]
        words = "was taken over by another process while this one was suspended"
        assert [words in each for each in said] == [True, True, False]
        assert holders[2].returncode == 0  # it still held it
    held[1].check()
    assert is_held(taken.parent)  # its former holder has freed nothing
    assert [*damaged.parent.iterdir()] == [held[2].file]
    assert [each.release() for each in held] == [False, True, True]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_process_suspended_before_it_creates_its_file_is_too_late(tmp_path):
    path = tmp_path / "x"
    (tmp_path / "x.0").write_text(
        json.dumps({"pid": 2**22 + 1, "machine": lock._machine()})
    )  # gone
    watch = lock.Watch(path)
    assert watch.state() == "free"  # it would create x.1
    with hold(path):
        pass
    with hold(path) as held:  # the numbers have begun anew
        assert held.number == 0
        assert lock._create(watch) is None
        held.beat()
        held.check()
        assert [*tmp_path.iterdir()] == [held.file]


def test_a_forked_process_neither_frees_nor_touches_it(tmp_path):
    with hold(tmp_path / "x") as held, hold_directory(tmp_path / "run", 0):
        child = os.fork()
        if not child:
            lock.HEARTBEAT_S = 0.01
            lock.os.utime = lambda path: os._exit(1)
            lock._start_heartbeats()  # as if it took another lock
            time.sleep(0.1)
            released = held.release() or lock._HELD[tmp_path / "run" / ".lock"].release()
            os._exit(released or not lock._thread.is_alive())
        assert os.waitpid(child, 0)[1] == 0
        assert is_held(tmp_path / "run")
        held.check()


def test_a_lock_that_can_not_be_reached_or_has_been_taken_over_is_named_and_left_alone(
    tmp_path, monkeypatch
):
    failing = Mock(side_effect=OSError(errno.EIO, "Input/output error"))
    directory = tmp_path / "run"
    with hold_directory(directory, timeout_s=0):
        held = lock._HELD[directory / ".lock"]
        with monkeypatch.context() as patched:
            patched.setattr(lock.os, "utime", failing)
            patched.setattr(lock, "opened", failing)
            held.beat()
            held.check()
            held._beaten_at -= lock.STALE_S
            with pytest.raises(UserError, match=r"can't reach it \(Input/output error\)"):
                held.check()
        held.check()  # it has answered again
        (directory / "config.yaml").touch()
        (directory / ".lock.1").touch()  # another process judged this one stale
        check_held(directory)  # it can't have been, by this process's own clock
        held._beaten_at -= lock.STALE_S  # but now
        with pytest.raises(UserError, match="was taken over by another process"):
            check_held(directory)
    assert sorted(file.name for file in directory.iterdir()) == [
        ".lock.0",
        ".lock.1",
        "config.yaml",
    ]
    assert (
        json.loads((directory / ".lock.0").read_text())["pid"] == os.getpid()
    )  # not freed by the one who lost it


def test_a_full_disk_leaves_no_lock_and_a_folder_that_can_not_be_made_is_no_reason_to_wait(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(
        lock, "_this_process", Mock(side_effect=OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space"):
        acquire(tmp_path / "x")
    with pytest.raises(UserError, match=r"can't be written to \(No space left on device\)"):
        hold_directory(tmp_path / "run", 0).__enter__()
    if sys.platform == "linux":
        with pytest.raises(UserError, match="/proc/x: can't be written to"):
            hold_directory(Path("/proc/x"), None).__enter__()
    assert not [*tmp_path.iterdir()]
