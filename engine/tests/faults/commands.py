"""Commands in copies of a process that has imported everything: a hundred of them take as long as ten processes."""

import contextlib
import importlib
import os
import re
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import torch

from leyden.queue import here
from leyden.sweep import grid, work
from leyden.tasks import Classification
from leyden.training import start  # noqa: F401 - what takes seconds to import is imported once
from tests.forks import TIMEOUT_S, end_with

OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")


class Started:
    """A command, with what it does before, in a copy of this process; its output is a file in `directory`."""

    def __init__(self, verb, *arguments, directory, cwd=None, before=None, name="output"):
        self.output = Path(directory) / f"{name}.txt"
        self.output.unlink(missing_ok=True)
        with (
            warnings.catch_warnings()
        ):  # Python warns of a fork beside threads, in the parent, when it is done
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            end_with(self._run, verb, arguments, cwd or directory, before)

    def _run(self, verb, arguments, cwd, before):
        os.setsid()
        for descriptor in (1, 2):
            os.dup2(os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
        # They do not own the descriptors: in a copy of a copy, the ones before them are dropped.
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        torch.set_num_threads(1)
        os.chdir(cwd)
        os.environ.pop("HYDRA_FULL_ERROR", None)
        if before:
            before()
        sys.argv = [f"leyden.{verb}", *arguments]
        importlib.import_module(f"leyden.{verb}").main()

    def send(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self):
        """What it ended with: its exit code (minus the signal, if one ended it; None if it hung) and its output."""
        deadline = time.monotonic() + TIMEOUT_S
        while (ended := os.waitpid(self.pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                return None, self.output.read_text(errors="replace")
            time.sleep(0.005)
        return os.waitstatus_to_exitcode(ended[1]), self.output.read_text(errors="replace")


def call(verb, *arguments, **kwargs):
    return Started(verb, *arguments, **kwargs).end()


def within(folder):
    return (f"run_dir={folder / 'run'}", f"outputs={folder}")


def is_clean(code, output):
    """Whether a command succeeded, or was refused in a line or two."""
    lines = list(filter(str.strip, output.splitlines()))
    return code == 0 or (code == 2 and "Traceback" not in output and len(lines) <= 2)


def ends_clearly(code, output):
    """Whether a training that something happened to has succeeded, or says in a line or two what it failed by."""
    said = [line for line in output.splitlines() if line.startswith("leyden: ")]
    # Of a picture, or of what is recorded.
    of_a_guard = re.compile("continues without it|exact resume is not guaranteed")
    told = [line for line in said if not of_a_guard.search(line)]
    return "Traceback" not in output and (code == 0 or (code == 2 and 1 <= len(told) <= 2))


def in_forks():
    """Let the jobs of a sweep be copies of its process: nothing is imported anew."""
    here.CONTEXT = work.CONTEXT = here.get_context("fork")
    grid.warm_up = lambda config: None


def at_operation(below, number, act):
    """Let a command do something before one of the operations on files below a directory; to be its `before`."""
    return on_operations(below, lambda n, name: act() if n == number else None)


def at_step(step, act):
    """Let a training do something at the beginning of a step, or of each for None; to be its `before`."""

    def before():
        original = Classification.training_step

        def training_step(self, batch):
            if step in (None, self.global_step):
                act()
            return original(self, batch)

        Classification.training_step = training_step

    return before


def on_operations(below, act, *, only_writes=False):
    """Let a command do something at each operation on files below a directory, by its number and name; to be its `before`.

    Of its main thread: TensorBoard's writes at any time, and while it acted the main one would go on.
    """
    seen = 0

    def hook(event, args):
        nonlocal seen
        if threading.current_thread() is not threading.main_thread():
            return
        if (
            event == "open"
            and only_writes
            and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        ):
            return
        of_path = event in OPERATIONS and args and isinstance(args[0], str | bytes | os.PathLike)
        path = os.fsdecode(args[0]) if of_path else ""
        if path and Path(path).is_relative_to(below):
            seen += 1
            act(seen, f"{event} {path}")

    return lambda: sys.addaudithook(hook)
