"""Leases: one holder at a time, without flock, however processes end, stop or run on other machines."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from leyden.config.errors import UserError
from leyden.run import lease, lock
from leyden.run.lease import LeaseHeldError, acquire, hold, is_held
from tests.forks import TIMEOUT_S

# A process that takes leases as one on another machine does, with a faster heartbeat, and without flock.
ELSEWHERE = """
import errno, fcntl, os, sys, time
from pathlib import Path
from leyden.run import lease, lock
def flock(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")
fcntl.flock = fcntl.lockf = flock
lease.HEARTBEAT_S, lease.STALE_S, lease.MAX_PAUSE_S = 0.1, 2.0, 0.05
lease._machine = lambda: {machine!r}
os.environ["SLURM_JOB_ID"] = "77"
path = Path(sys.argv[1])
"""
HOLDING = """
held = lease.acquire(path)
print("holds", flush=True)
sys.stdin.readline()
try:
    held.check()
    print("still holds", flush=True)
except Exception as error:
    print(error, flush=True)
held.release()
"""


def process(path, body, machine=None):
    """A process that runs `body`; on this machine, or on another one."""
    code = ELSEWHERE.replace("{machine!r}", repr(machine or lease._machine())) + body
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code, str(path)], **pipes)


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(lease, "STALE_S", 2.0)
    monkeypatch.setattr(lease, "MAX_PAUSE_S", 0.05)
    monkeypatch.setattr(lease, "_thread", None)  # one with this heartbeat


@pytest.fixture
def holder(tmp_path, request):
    """A process that holds the lease `x`; its machine is the parameter."""
    started = process(tmp_path / "x", HOLDING, getattr(request, "param", None))
    assert started.stdout.readline() == "holds\n"
    yield started
    started.kill()
    started.communicate()


elsewhere = pytest.mark.parametrize("holder", ["another machine"], indirect=True)


def test_processes_take_it_one_after_another(tmp_path):
    count = tmp_path / "count"
    count.write_text("0")
    body = """
for _ in range(40):
    with lease.hold(path):
        count = path.with_name("count")
        number = int(count.read_text())
        time.sleep(0.0005)
        count.write_text(str(number + 1))
"""
    machines = [None, None, "b", "c"]
    started = [process(tmp_path / "x", body, machine) for machine in machines]
    assert [each.communicate(timeout=TIMEOUT_S) and each.returncode for each in started] == [0] * 4
    assert count.read_text() == "160"
    assert len([*tmp_path.glob("x.*")]) == 1


def test_a_holder_that_lives_is_named(tmp_path, holder):
    with pytest.raises(LeaseHeldError, match=f"in use by process {holder.pid} on .*, since 20"):
        acquire(tmp_path / "x", timeout_s=0)
    assert is_held(tmp_path / "x")
    os.kill(holder.pid, signal.SIGSTOP)  # here it is known to live
    with pytest.raises(LeaseHeldError):
        acquire(tmp_path / "x", timeout_s=0.2)


def test_a_killed_process_holds_nothing(tmp_path, holder):
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # a zombie, which has an id
    assert not is_held(tmp_path / "x")
    with hold(tmp_path / "x", timeout_s=0):
        pass


def test_an_id_that_has_passed_to_another_process_holds_nothing(tmp_path, holder):
    (file,) = tmp_path.glob("x.*")
    file.write_text(json.dumps({**json.loads(file.read_text()), "began": "1"}))
    with hold(tmp_path / "x", timeout_s=0):
        pass


@elsewhere
def test_a_holder_on_another_machine_is_seen_to_live(tmp_path, holder, fast):
    started = time.monotonic()
    with pytest.raises(LeaseHeldError, match=f"process {holder.pid}"):
        acquire(tmp_path / "x", timeout_s=0)
    assert time.monotonic() - started < 3.9  # otherwise it would be waited for until then


@elsewhere
def test_a_holder_killed_on_another_machine_is_waited_for(tmp_path, holder, fast, capsys, monkeypatch):
    monkeypatch.setattr(lease, "ANNOUNCE_S", 0.2)
    holder.kill()
    started = time.monotonic()
    with hold(tmp_path / "x", timeout_s=0):
        assert 1.9 < time.monotonic() - started < 30
    assert f"waiting for process {holder.pid} on" in capsys.readouterr().err


@elsewhere
def test_the_scheduler_knows_that_it_has_ended(tmp_path, holder, fast):
    holder.kill()
    started = time.monotonic()
    acquire(tmp_path / "x", timeout_s=0, ended_job="77").release()
    assert time.monotonic() - started < 1.9


@elsewhere
def test_a_suspended_holder_is_taken_over_and_notices(tmp_path, holder, fast):
    os.kill(holder.pid, signal.SIGSTOP)
    with hold(tmp_path / "x") as held:
        os.kill(holder.pid, signal.SIGCONT)
        output, _ = holder.communicate("\n")
        assert "was taken over by another process while this one was suspended" in output
        held.check()
        assert is_held(tmp_path / "x")  # it has freed nothing
    assert not is_held(tmp_path / "x")


@elsewhere
def test_a_holder_that_was_suspended_for_a_while_goes_on(tmp_path, holder, fast):
    os.kill(holder.pid, signal.SIGSTOP)
    time.sleep(1.2)  # longer than half of the limit
    os.kill(holder.pid, signal.SIGCONT)
    output, _ = holder.communicate("\n")
    assert output == "still holds\n"
    with hold(tmp_path / "x", timeout_s=0):
        pass


@elsewhere
@pytest.mark.parametrize("hours", [-3, 3])
def test_clocks_are_not_compared(tmp_path, holder, fast, hours, monkeypatch):
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600 * hours)
    with pytest.raises(LeaseHeldError):
        acquire(tmp_path / "x", timeout_s=0)
    (file,) = tmp_path.glob("x.*")
    holder.kill()
    os.utime(file, (real() + 3600 * hours,) * 2)
    with hold(tmp_path / "x", timeout_s=0):
        pass


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"[1]", b'{"pid": []}', b'{"pid": 1e999}', b'{"unknown": 1}', b"[" * 4000],
)
def test_a_damaged_file_is_held_until_it_is_stale(tmp_path, fast, content):
    (tmp_path / "x.4").write_bytes(content)
    assert is_held(tmp_path / "x")
    started = time.monotonic()
    with hold(tmp_path / "x", timeout_s=0):
        assert 1.9 < time.monotonic() - started < 30
    assert [file.name for file in tmp_path.iterdir()] == ["x.5"]


def test_a_copy_of_a_folder_is_free_as_its_holder_does_not_touch_it(tmp_path, fast):
    (tmp_path / "run").mkdir()
    with hold(tmp_path / "run" / "x"):
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        with hold(tmp_path / "copy" / "x", timeout_s=0):
            pass


def test_a_process_suspended_before_it_creates_its_file_is_too_late(tmp_path):
    path = tmp_path / "x"
    for _ in range(2):  # it has looked, and would create x.0; others were faster
        acquire(path).release()
    with hold(path) as held:
        watch = lease.Watch(path)
        assert lease._create(watch) is None
        held.beat()
        held.check()
    assert [file.name for file in tmp_path.iterdir()] == ["x.2"]


@elsewhere
def test_a_holder_that_goes_on_just_before_it_is_taken_over_keeps_it(tmp_path, holder, fast):
    watch = lease.Watch(tmp_path / "x")
    os.kill(holder.pid, signal.SIGSTOP)
    while watch.state() != "free":
        time.sleep(0.05)
    os.kill(holder.pid, signal.SIGCONT)
    time.sleep(0.3)  # a heartbeat or two
    assert lease._create(watch) is None
    assert holder.communicate("\n")[0] == "still holds\n"


@pytest.mark.parametrize("name", ["x.007", "x.1.5", "x.-1", "x.", "x.1e3", "x.\u0663", f"x.{10**20}"])
def test_names_that_no_process_gives_do_not_count(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with hold(tmp_path / "x", timeout_s=0):
        pass
    assert {file.name for file in tmp_path.iterdir()} == {name, "x.0"}


def test_a_number_that_no_process_reaches_is_refused(tmp_path):
    (tmp_path / f"x.{lease.MAX_NUMBER}").write_bytes(lease.FREE)
    with pytest.raises(UserError, match="was not made by Leyden; remove it"):
        acquire(tmp_path / "x")


def test_a_file_replaced_while_it_is_read_is_looked_at_again(tmp_path, monkeypatch):
    acquire(tmp_path / "x").release()
    errors = [FileNotFoundError(errno.ENOENT, "gone"), OSError(errno.ESTALE, "Stale file handle")]
    read = lease.read_bytes

    def replaced(*arguments, **kwargs):
        if errors:
            raise errors.pop()
        return read(*arguments, **kwargs)

    monkeypatch.setattr(lease, "read_bytes", replaced)
    acquire(tmp_path / "x", timeout_s=0).release()
    assert not errors


def test_files_of_other_users_that_stay_do_not_count(tmp_path, monkeypatch):
    def refuse(path, **_):
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(lease.Path, "unlink", refuse)
        for _ in range(3):
            acquire(tmp_path / "x", timeout_s=0).release()
    assert len([*tmp_path.iterdir()]) == 3
    acquire(tmp_path / "x", timeout_s=0).release()
    assert [file.name for file in tmp_path.iterdir()] == ["x.3"]


def test_a_lease_dropped_by_an_interrupt_does_not_block_its_own_process(tmp_path):
    lease._HELD.discard(acquire(tmp_path / "x"))
    with hold(tmp_path / "x", timeout_s=0):
        pass


def test_a_folder_that_can_not_be_opened_is_not_left_locked(tmp_path, monkeypatch):
    opened = os.open

    def full(path, flags, *arguments):
        if flags == os.O_RDONLY and path == tmp_path:
            raise OSError(errno.EMFILE, "Too many open files")
        return opened(path, flags, *arguments)

    monkeypatch.setattr(lock.os, "open", full)
    with pytest.raises(UserError, match="Too many open files"):
        lock.acquire(tmp_path, 0).__enter__()
    assert not lock.is_held(tmp_path)


def test_a_forked_process_frees_nothing(tmp_path):
    with hold(tmp_path / "x") as held, lock.acquire(tmp_path / "run", 0):
        child = os.fork()
        if not child:
            held.release()
            try:
                lock._HELD[tmp_path / "run"][0].release()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert is_held(tmp_path / "x")
        assert lock.is_held(tmp_path / "run")
        held.check()


def test_a_process_that_looked_before_the_numbers_began_anew_is_too_late(tmp_path):
    """The folder was empty, so that its lease was removed."""
    acquire(tmp_path / "x").release()
    watch = lease.Watch(tmp_path / "x")
    assert watch.state() == "free"
    (tmp_path / "x.0").unlink()
    assert lease._create(watch) is None
    with hold(tmp_path / "x") as held:
        assert held.number == 0
        assert lease._create(watch) is None
        held.beat()
        held.check()


def test_processes_whose_folder_is_removed_meanwhile_wait_on(tmp_path):
    """The first one creates the folder, and removes it, as it is empty."""
    body = """
with lock.acquire(path, None):
    time.sleep(0.05)
"""
    started = [process(tmp_path / "run", body) for _ in range(5)]
    assert [each.communicate(timeout=TIMEOUT_S) and each.returncode for each in started] == [0] * 5


def test_a_run_that_was_moved_is_told_as_that(tmp_path, monkeypatch):
    with lock.acquire(tmp_path / "run", timeout_s=0):
        (tmp_path / "run").rename(tmp_path / "moved")
        lock._HELD[tmp_path / "run"][0].beat()
        with pytest.raises(UserError, match="was moved, deleted or replaced"):
            lock.check_held(tmp_path / "run")


def test_a_file_system_that_does_not_answer_is_named(tmp_path, monkeypatch):
    def failing(*_):
        raise OSError(errno.EIO, "Input/output error")

    with hold(tmp_path / "x") as held:
        clock = lease._clock
        with monkeypatch.context() as patched:
            patched.setattr(lease.os, "utime", failing)
            held.beat()
            held.check()
            patched.setattr(lease, "_clock", lambda: clock() + lease.STALE_S)
            with pytest.raises(UserError, match=r"can't reach it \(Input/output error\)"):
                held.check()
        held.check()  # it has answered again


def test_a_folder_that_goes_away_meanwhile_is_created_anew(tmp_path, monkeypatch):
    state = lease.Watch.state

    def removed(watch):
        found = state(watch)
        if (tmp_path / "run").exists() and not removals:
            removals.append((tmp_path / "run").rmdir())
        return found

    removals = []
    monkeypatch.setattr(lease.Watch, "state", removed)
    with hold(tmp_path / "run" / "x"):
        assert removals


def test_a_forked_process_does_not_beat_for_its_parent(tmp_path):
    with hold(tmp_path / "x"):
        child = os.fork()
        if not child:
            os._exit(bool(lease._HELD))
        assert os.waitpid(child, 0)[1] == 0
        assert lease._HELD


def test_a_run_taken_over_is_not_written_to(tmp_path, monkeypatch):
    directory = tmp_path / "run"
    with lock.acquire(directory, timeout_s=0):
        (directory / "config.yaml").touch()
        lock.check_held(directory)
        lock._HELD[directory][0].beat()
        (directory / ".lock.1").touch()  # another process judged this one stale
        lock.check_held(directory)  # it can't have been, by this process's own clock
        clock = lease._clock
        monkeypatch.setattr(lease, "_clock", lambda: clock() + lease.STALE_S)  # but now
        with pytest.raises(UserError, match="was taken over by another process"):
            lock.check_held(directory)
    assert sorted(file.name for file in directory.iterdir()) == [".lock.0", ".lock.1", "config.yaml"]
    assert json.loads((directory / ".lock.0").read_text())["pid"] == os.getpid()  # not freed by the one who lost it


def test_a_full_disk_leaves_no_lease(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(lease, "_this_process", full)
        with pytest.raises(OSError, match="No space"):
            acquire(tmp_path / "x")
        with pytest.raises(UserError, match=r"can't be written to \(No space left on device\)"):
            lock.acquire(tmp_path / "run", 0).__enter__()
    assert not [*tmp_path.iterdir()]
    with contextlib.closing(hold(tmp_path / "x", timeout_s=0).gen):
        pass


def test_a_lease_that_is_being_made_is_not_free_for_another_thread(tmp_path, monkeypatch):
    states, numbers = [], lease._numbers

    def looked(path):
        if (tmp_path / "a.0").exists() and not states:
            states.append("")
            states[0] = lease.Watch(path).state()
        return numbers(path)

    monkeypatch.setattr(lease, "_numbers", looked)
    with lease.hold(tmp_path / "a"):
        assert states == ["held"]
