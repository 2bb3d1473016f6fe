"""Lets this process be one on another system, as far as Python can tell; then imports modules and trains: `fake.py PLATFORM MODULE ... -- OVERRIDES`.

The libraries are imported before, as they are there: they would look for files that they do not have here. `os.name` stays as it is,
since `pathlib` would make paths of another system.
"""

import importlib
import os
import shutil
import signal
import sys
import warnings
from types import SimpleNamespace

import hydra  # noqa: F401
import lightning  # noqa: F401
import matplotlib.figure  # noqa: F401
import optuna  # noqa: F401
import rich.progress  # noqa: F401
import tensorboard.compat  # noqa: F401
import torch.utils.tensorboard  # noqa: F401
import torchmetrics.text  # noqa: F401
import torchvision.transforms.v2  # noqa: F401
from lightning.pytorch.trainer.connectors import signal_connector

MISSING_MODULES = {"win32": ("fcntl", "resource", "pwd", "grp", "termios"), "darwin": ()}
OF_SIGNAL = "SIGUSR1 SIGUSR2 SIGHUP SIGKILL SIGSTOP SIGALRM SIGCHLD pthread_sigmask pthread_kill"
OF_OS = "fork killpg uname getuid geteuid getgid setsid sched_getaffinity sched_setaffinity"
MISSING = {"win32": {signal: OF_SIGNAL, os: OF_OS}, "darwin": {os: "sched_getaffinity sched_setaffinity"}}


def fake(platform):
    sys.platform = platform
    for name in MISSING_MODULES[platform]:
        sys.modules[name] = None
    for module, names in MISSING[platform].items():
        for name in names.split():
            delattr(module, name)
    if platform == "win32":
        # Lightning has asked at its import, and looks at each signal that there is.
        signal_connector._IS_WINDOWS = True
        there = {signal.SIGINT, signal.SIGTERM, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV}
        signal.valid_signals = lambda: there
        # From Python 3.12 on, `shutil.which` asks the system.
        shutil._winapi = SimpleNamespace(NeedCurrentDirectoryForExePath=lambda name: False)
    # Texts are UTF-8 whatever the language of Windows is.
    warnings.filterwarnings("error", category=EncodingWarning, module=r"(leyden|project)\b")


if __name__ == "__main__":
    fake(sys.argv.pop(1))
    end = sys.argv.index("--")
    names = sys.argv[1:end]
    del sys.argv[1 : end + 1]
    for name in names:
        importlib.import_module(name)
    print("imported", len(names))
    importlib.import_module("leyden.train").main()
