"""Commands as processes of their own: copies of one that has imported the libraries, which takes seconds.

`python tests/forks.py` is that one: it reads tasks, one JSON a line, and forks for each.
"""

import contextlib
import functools
import importlib
import io
import json
import multiprocessing.util
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

TIMEOUT_S = 300  # what takes longer hangs: a limit that a slow machine may pass would be a test of the machine
HEAVY = "torchvision lightning torchmetrics hydra matplotlib.figure tensorboard optuna onnx onnxruntime PIL.Image"


class Forked:
    """A command, used as `subprocess.Popen`; `words` are what Python is told, as `["-m", "leyden.train", "seed=1"]`."""

    def __init__(self, server, words, cwd, environment):
        self._server = server
        self._words = words
        self.returncode = None
        with tempfile.TemporaryDirectory() as folder:
            pipe = Path(folder) / "output"
            os.mkfifo(pipe)
            self._output = io.FileIO(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
            task = {
                "words": words,
                "cwd": str(cwd),
                "environment": environment,
                "output": str(pipe),
            }
            self.pid = server.ask(task)

    def poll(self):
        """The exit code, or minus the signal that ended it; None while it runs."""
        if self.returncode is None:
            self.returncode = self._server.ask({"ended": self.pid})
        return self.returncode

    def communicate(self, timeout=None):
        """Wait for it and for what it has started, and return what they have said; it is killed if that takes longer."""
        end = None if timeout is None else time.monotonic() + timeout
        said = b""
        with self._output:
            while select.select([self._output], [], [], end and max(0, end - time.monotonic()))[0]:
                if not (part := self._output.read(2**16)):  # the last of them has ended
                    while self.poll() is None:
                        time.sleep(0.01)
                    return said.decode(errors="replace"), None
                said += part
            self.kill()
        raise subprocess.TimeoutExpired(self._words, timeout, said)

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


class Server:
    def __init__(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([sys.executable, __file__], **pipes)

    def ask(self, task):
        print(json.dumps(task), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def stop(self):
        """End it; what it has started goes on."""
        self._process.communicate()


def next_task():
    """In a copy: what it has to do. The process that is copied never returns."""
    for line in sys.stdin:
        task = json.loads(line)
        if "ended" in task:
            pid, status = os.waitpid(task["ended"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
            continue
        output = os.open(task["output"], os.O_WRONLY)
        pid = os.fork()
        if pid == 0:
            for descriptor, file in enumerate((os.open(os.devnull, os.O_RDONLY), output, output)):
                os.dup2(file, descriptor)
            return task
        os.close(output)
        print(pid, flush=True)
    raise SystemExit


def end_with(function, *arguments):
    """Call a function, and end this process as Python would: with its exit code, or 1 after a traceback."""
    code = None
    try:
        function(*arguments)
    except SystemExit as stop:
        code = stop.code
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    with contextlib.suppress(OSError):  # of a full disk
        sys.stdout.flush()
        sys.stderr.flush()
    # Without what C++ libraries do at the end: they wait for threads that no copy has.
    os._exit(code if isinstance(code, int) else int(code is not None))


SPAWN = multiprocessing.util.spawnv_passfds


def copy_fork_server(path, arguments, descriptors):
    """`multiprocessing.util.spawnv_passfds`, but the fork server of a sweep is a copy, too, and imports nothing anew."""
    if "multiprocessing.forkserver" not in arguments[-1]:
        return SPAWN(path, arguments, descriptors)
    if pid := os.fork():
        return pid
    kept = sorted({0, 1, 2, *map(int, descriptors)})
    for number, following in zip(kept, [*kept[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
        os.closerange(number + 1, following)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    return end_with(exec, arguments[-1], {})  # which never returns


def run(words, cwd, environment, **_):
    multiprocessing.util.spawnv_passfds = copy_fork_server
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0:1] = [cwd, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    if "OMP_NUM_THREADS" in environment:  # which is read when PyTorch is loaded
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sys.orig_argv = [sys.executable, *words]
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(words[1], {"__name__": "__main__"})
    else:
        sys.argv = words
        sys.path[0] = str(Path(words[0]).resolve().parent)
        runpy.run_path(words[0], run_name="__main__")


def wait_for_end(pids):
    """Until these processes, which are no children of this one, have ended; by themselves they run for longer."""
    given_up = time.monotonic() + TIMEOUT_S
    while any(map(is_running, pids)):
        assert time.monotonic() < given_up
        time.sleep(0.01)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    for name in HEAVY.split():
        importlib.import_module(name)
    end_with(functools.partial(run, **next_task()))
