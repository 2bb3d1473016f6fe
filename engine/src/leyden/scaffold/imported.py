"""The Lightning classes in the modules of an existing code base, which a process of its own imports.

Such a module can be a script that trains, exits or waits as soon as it is imported.
"""

import importlib
import inspect
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from leyden.config.terminal import one_line

LIMIT_S = 120.0  # for all modules together; Lightning alone takes seconds, a minute on a cluster's file system
MAX_CHARS = 150  # of an error


class Found(NamedTuple):
    """A LightningModule or a LightningDataModule.

    Args:
        name: Dotted name.
        kind: `task` or `data`.
        has_loaders: Whether it has data loaders of its own; None if that is not known.
    """

    name: str
    kind: str
    has_loaders: bool | None


def import_classes(modules: Sequence[str], folders: Sequence[Path]) -> tuple[list[Found], dict[str, str]]:
    """Import modules in another process; return their Lightning classes, and the errors by module.

    Args:
        modules: Dotted names.
        folders: Where the modules lie; the last one is the working directory.
    """
    found: list[Found] = []
    errors: dict[str, str] = {}
    left, deadline = list(modules), time.monotonic() + LIMIT_S
    while left:
        answers, returncode = _answers(left, folders, max(0.0, deadline - time.monotonic()))
        for name, *answer in answers:
            if answer:
                left.remove(name)
                found += [Found(*each) for each in answer[0]]
                errors |= {name: answer[1]} if answer[1] else {}
        if returncode is None or not answers:
            why = f"not within {LIMIT_S:.0f} s" if returncode is None else f"Python ended with code {returncode}"
            return found, errors | dict.fromkeys(left, why)
        if left:  # the one that it began with has ended the process
            errors[left.pop(0)] = f"it ended Python with code {returncode}"
    return found, errors


def _answers(modules: Sequence[str], folders: Sequence[Path], limit_s: float) -> tuple[list[Any], int | None]:
    """Return what a new process answers, and its exit code; None if it had to be killed."""
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "answers"
        file.touch()
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(file), json.dumps([*map(str, folders)]), *modules],
            cwd=temporary,  # where `-m` looks first: not beside files of the user's that are called as Python's own
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            returncode: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            returncode = None
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
                process.wait()
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")], returncode


def _refuse(*args: Any, **kwargs: Any) -> NoReturn:
    raise RuntimeError("trains when it is imported")


def main() -> NoReturn:
    """Write an answer before and after each import."""
    from lightning import pytorch as L

    answers, folders, *modules = sys.argv[1:]
    for method in ("fit", "validate", "test", "predict"):
        setattr(L.Trainer, method, _refuse)
    sys.path[:1] = json.loads(folders)
    os.chdir(sys.path[len(json.loads(folders)) - 1])
    sys.argv = [""]
    try:
        for name in modules:
            _answer(answers, name)
            found: list[Found] = []
            error = ""
            try:
                found = _classes(importlib.import_module(name))
            except BaseException as raised:
                error = one_line(traceback.format_exception_only(raised)[-1].strip())[:MAX_CHARS]
            _answer(answers, name, found, error)
    finally:
        os._exit(0)  # no thread or handler of theirs is waited for


def _answer(path: str, *values: Any) -> None:
    with Path(path).open("a", encoding="utf-8") as file:  # opened each time, since a module can close all files
        file.write(f"{json.dumps(values)}\n")


def _classes(module: Any) -> list[Found]:
    """Return the classes that a module defines."""
    found = {}
    # Those of pytorch_lightning are found, too: training explains what to change.
    for package in filter(None, map(sys.modules.get, ("lightning.pytorch", "pytorch_lightning"))):
        for kind, base in (("task", package.LightningModule), ("data", package.LightningDataModule)):
            for each in filter(inspect.isclass, vars(module).values()):
                if each.__module__ == module.__name__ and issubclass(each, base) and not inspect.isabstract(each):
                    loaders = [inspect.getattr_static(one, "train_dataloader") for one in (each, base)]
                    found[each] = Found(
                        f"{each.__module__}.{each.__qualname__}", kind, loaders[0] is not loaders[1]
                    )
    return list(found.values())


if __name__ == "__main__":
    main()
