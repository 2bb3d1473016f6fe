"""Marks of training steps, from any loop, by which `leyden resumetest` compares a killed run."""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

MARKS = "LEYDEN_MARKS"  # environment variable: the file to which marks are appended
# Environment variable: the step at whose mark the process group kills itself.
KILL_AT = "LEYDEN_MARKS_KILL_AT"
EVERY = "LEYDEN_MARKS_EVERY"  # environment variable: steps between checkpoints, in a test
MARKED_PARTS = ("batch", "weights", "optimizer")
_warned: set[str] = set()


def mark(
    step: object, model: object = None, optimizer: object = None, batch: object = None
) -> None:
    """Append a line with hashes of a training step to the file that `LEYDEN_MARKS` names.

    Without it, do nothing.

    Call it once per step, after the optimizer's, in any loop of any framework; of several
    processes, in each. Tensors, arrays, numbers and texts are hashed by their content, in any
    nesting of containers; an object of another class by its `state_dict()`, else by its attributes.
    An error never ends the training: it is one line on stderr.

    Example:
        >>> from leyden.exact import mark
        >>> mark(step=1, model={"weight": [0.5]}, batch=[1, 2])  # the variable is not set

    Args:
        step: A number or text that no other step of the training has.
        model: A module, or a mapping of tensors.
        optimizer: What has a `state_dict()`, or several such objects: optimizers, schedules,
            scalers.
        batch: The step's batch.
    """
    if not (path := os.environ.get(MARKS)):
        return
    try:
        name = str(step.item() if hasattr(step, "item") else step)
        hashes = {}
        for part, value in zip(MARKED_PARTS, (batch, model, optimizer), strict=True):
            hashes[part] = _hash(part, value)
        line = json.dumps({"rank": _rank(), "step": name, **hashes})
        # Written at once, without a buffer: processes share the file.
        with Path(path).open("ab", buffering=0) as file:
            file.write(line.encode() + b"\n")
        if os.environ.get(KILL_AT) == name:
            os.killpg(0, signal.SIGKILL)
    except Exception as error:
        _warn("this step is not marked", error)


def every_n_steps_of(given: int | None) -> int | None:
    """Return the steps between checkpoints; while a short training is tested, those of the test."""
    tested = os.environ.get(EVERY)
    return int(tested) if tested else given


def _warn(what: str, error: Exception) -> None:
    """Print a line to stderr, once per process."""
    if what not in _warned:
        _warned.add(what)
        with contextlib.suppress(Exception):  # stderr may be closed
            text = f"leyden: {what} ({type(error).__name__}: {error})"
            print(" ".join(text.split()), file=sys.stderr, flush=True)


def _rank() -> str:
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    if distributed and distributed.is_available() and distributed.is_initialized():
        return str(distributed.get_rank())
    return os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "0"


def _hash(part: str, value: object) -> str | None:
    """Return the hash of a part; None if it is not given, or can't be hashed."""
    if value is None:
        return None
    from leyden.exact.digest import digest_of_content  # it imports PyTorch

    kind = type(value)
    try:
        has_content = any(
            hasattr(kind, name) for name in ("state_dict", "__array__", "__len__", "__slots__")
        )
        if (
            kind.__module__ != "builtins"
            and not has_content
            and not getattr(value, "__dict__", None)
        ):
            raise TypeError(f"{kind.__qualname__} has no state_dict")
        return digest_of_content(value)
    except Exception as error:
        _warn(f"{part}: can't be hashed, and is not compared", error)
        return None
