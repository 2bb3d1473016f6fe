"""A process that dies beside others, and two trainings in one folder."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from leyden.exact import ExactError, processes
from leyden.exact.processes import LostError, Peers, only_training
from leyden.run.directory import Run
from tests.conftest import QUICK, finish, start
from tests.exact.test_fit import Net, both
from tests.exact.test_fit import start as train_exactly
from tests.forks import TIMEOUT_S
from tests.queues.test_requeue import BY_A_PEER
from tests.training.test_start_exact import DDP

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own


@pytest.fixture
def trainer():
    """One whose launcher has started a process, which Lightning's thread looks at."""
    begun = [subprocess.Popen(["sleep", "60"])]
    launcher = SimpleNamespace(procs=begun)
    yield SimpleNamespace(
        strategy=SimpleNamespace(launcher=launcher, setup_environment=Mock()), world_size=2
    )
    for each in launcher.procs:
        each.kill()
        each.wait()


LOST = RuntimeError(BY_A_PEER)
UNKNOWN = (
    f"another process has died, out of memory if no error stands above (RuntimeError: {BY_A_PEER})"
)
ENDS = {
    "killed": (
        signal.SIGKILL,
        LOST,
        "the process of rank 1 has died by SIGKILL, perhaps out of memory",
        71,
    ),
    "lost": (None, LOST, UNKNOWN, 71),
    "own": (None, ValueError("of mine"), "of mine", None),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_process_that_has_died_is_named_and_the_others_end(trainer, monkeypatch, name):
    by, error, said, code = ENDS[name]
    monkeypatch.setattr(processes, "SEEN_S", 0.3)
    looked_at = trainer.strategy.launcher.procs

    def fail():
        with Peers(Mock(), Mock()).watched(trainer):
            trainer.strategy.setup_environment()
            if by:
                trainer.strategy.launcher.procs[0].send_signal(by)
            raise error

    with pytest.raises((LostError, ValueError)) as raised:
        fail()
    (child,) = trainer.strategy.launcher.procs
    assert looked_at == []  # else Lightning ends this process by SIGKILL
    assert (str(raised.value), getattr(raised.value, "code", None)) == (said, code)
    assert (
        child.wait(0.5 if name == "own" else TIMEOUT_S) if name != "lost" else child.poll() is None
    )


def test_a_process_that_hangs_beside_a_dead_one_is_ended(trainer, monkeypatch):
    monkeypatch.setattr(processes, "ABORT_GRACE_S", 0.1)
    ended = threading.Event()
    say, end = Mock(), Mock(side_effect=lambda code: ended.set())
    with Peers(say, end).watched(trainer):
        trainer.strategy.setup_environment()
        trainer.strategy.launcher.procs[0].kill()
        assert ended.wait(TIMEOUT_S)
    end.assert_called_once_with(71)
    assert "SIGKILL, perhaps out of memory; the same command resumes" in say.call_args[0][0]


@pytest.mark.parametrize("is_over", [True, False])
def test_a_process_that_aborts_at_its_end_ends_no_other(trainer, monkeypatch, is_over):
    """Rank zero has ended its training by then, or is about to."""
    monkeypatch.setattr(processes, "ABORT_GRACE_S", 0.1 if is_over else 3.0)
    end = Mock()
    before = threading.enumerate()
    with Peers(Mock(), end).watched(trainer):
        trainer.strategy.setup_environment()
        (child,) = trainer.strategy.launcher.procs
        if not is_over:
            child.send_signal(signal.SIGABRT)
            assert child.wait(TIMEOUT_S) == -signal.SIGABRT
            time.sleep(2 * processes.WATCH_S)
    child.send_signal(signal.SIGABRT)
    watching = [each for each in threading.enumerate() if each not in before]
    for each in watching:
        each.join(TIMEOUT_S)
    assert not any(each.is_alive() for each in watching)
    end.assert_not_called()


HELD, MISSING = OSError(errno.EAGAIN, "busy"), OSError(errno.ENOSYS, "Function not implemented")


def test_a_folder_is_for_one_training_and_a_file_system_without_locks_is_said(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(processes, "START_LOCK_TIMEOUT_S", 0)
    monkeypatch.setattr("fcntl.lockf", Mock(side_effect=HELD))
    with pytest.raises(ExactError, match="in use by another process; wait for its end"):
        train_exactly(tmp_path, Net, both)
    monkeypatch.setattr("fcntl.lockf", Mock(side_effect=MISSING))
    assert train_exactly(tmp_path, Net, both)
    assert (
        "can't be locked (Function not implemented); start this training once at a time"
        in capsys.readouterr().err
    )


def test_a_lock_never_follows_a_link_nor_waits_for_a_pipe(tmp_path):
    (tmp_path / "mine").write_text("kept")
    (tmp_path / "checkpoints").mkdir()
    for make in (lambda path: path.symlink_to(tmp_path / "mine"), os.mkfifo):
        file = tmp_path / processes.LOCK_FILE
        make(file)
        say = Mock()
        with only_training(tmp_path, say):
            say.assert_called_once()
        file.unlink()
    assert (tmp_path / "mine").read_text() == "kept"


HOLDER = """
import multiprocessing, sys, time
from pathlib import Path
from leyden.exact.processes import only_training

with only_training(Path(sys.argv[1]), print):
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    worker.start()
    print(worker.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_a_killed_training_holds_no_lock_though_its_workers_live(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    worker = int(holder.stdout.readline())
    with (
        pytest.raises(ExactError, match=f"in use by process {holder.pid} on "),
        only_training(tmp_path, print),
    ):
        pass
    holder.kill()
    say = Mock()
    with only_training(tmp_path, say):
        say.assert_not_called()
        os.kill(worker, signal.SIGKILL)
    holder.communicate()


@pytest.mark.slow
def test_a_run_of_which_one_process_dies_says_so_and_resumes(tmp_path, mnist_root):
    run = Run(tmp_path / "run")
    typed = (
        f"run_dir={run.directory}",
        *QUICK,
        *DDP,
        f"outputs={tmp_path}",
        "callbacks.checkpoint.every_n_steps=2",
    )
    kill = {"KILL_AT": "5", "KILL_BY": str(int(signal.SIGKILL)), "KILL_RANK": "1", "VERB": "train"}
    said = finish(start(*typed, script=("-m", "tests.strangers.cells"), **kill), code=71)
    assert "Traceback" not in said
    line = (
        "the process of rank 1 has died by SIGKILL, perhaps out of memory; .*leyden train run_dir="
    )
    assert (
        len(re.findall(f"^leyden: {run.directory}: {line}.* resumes the run$", said, re.MULTILINE))
        == 1
    ), said
    assert run.result is None
    finish(start(*typed, "resume=must"))
    assert torch.load(run.checkpoint("last"), weights_only=True)["global_step"] > 4
