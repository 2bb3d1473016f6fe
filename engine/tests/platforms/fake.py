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

LIBRARIES = "hydra lightning matplotlib.figure optuna rich.progress tensorboard.compat torch.utils.tensorboard"
LIBRARIES += " torchmetrics.text torchvision.transforms.v2"
MISSING_MODULES = {"win32": ("fcntl", "resource", "pwd", "grp", "termios"), "darwin": ()}
OF_SIGNAL = "SIGUSR1 SIGUSR2 SIGHUP SIGKILL SIGSTOP SIGALRM SIGCHLD pthread_sigmask pthread_kill"
OF_OS = "fork killpg uname getuid geteuid getgid setsid sched_getaffinity sched_setaffinity"
MISSING = {
    "win32": {signal: OF_SIGNAL, os: OF_OS},
    "darwin": {os: "sched_getaffinity sched_setaffinity"},
}


def fake(platform):
    for name in LIBRARIES.split():
        importlib.import_module(name)
    connector = importlib.import_module("lightning.pytorch.trainer.connectors.signal_connector")
    sys.platform = platform
    for name in MISSING_MODULES[platform]:
        sys.modules[name] = None
    for module, names in MISSING[platform].items():
        for name in names.split():
            delattr(module, name)
    if platform == "win32":
        # Lightning has asked at its import, and looks at each signal that there is.
        connector._IS_WINDOWS = True
        there = {
            signal.SIGINT,
            signal.SIGTERM,
            signal.SIGABRT,
            signal.SIGFPE,
            signal.SIGILL,
            signal.SIGSEGV,
        }
        signal.valid_signals = lambda: there
        # From Python 3.12 on, `shutil.which` asks the system.
        shutil._winapi = SimpleNamespace(NeedCurrentDirectoryForExePath=lambda name: False)
    # Texts are UTF-8 whatever the language of Windows is.
    warnings.filterwarnings("error", category=EncodingWarning, module=r"(leyden|project)\b")


if __name__ == "__main__":
    fake(sys.argv.pop(1))
    end = sys.argv.index("--")
    names, sys.argv[1:] = sys.argv[1:end], sys.argv[end + 1 :]
    for name in names:
        importlib.import_module(name)
    print("imported", len(names))
    importlib.import_module("leyden.train").main()
