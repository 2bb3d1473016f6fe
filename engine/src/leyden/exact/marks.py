"""Marks of training steps, from any training loop, and what compares them: a command that runs undisturbed and then with kills."""

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from leyden.exact import ExactError

MARKS = "LEYDEN_MARKS"  # environment variable: the file to which marks are appended
KILL_AT = "LEYDEN_MARKS_KILL_AT"  # environment variable: the step at whose mark the process group kills itself
PARTS = ("batch", "weights", "optimizer")
_warned: set[str] = set()


def mark(step: object, model: object = None, optimizer: object = None, batch: object = None) -> None:
    """Append a line with hashes of a training step to the file that `LEYDEN_MARKS` names; without it, do nothing.

    Call it once per step, after the optimizer's, in any loop of any framework; of several processes, in each.
    Tensors, arrays, numbers and texts are hashed by their content, in any nesting of containers; an object of another class
    by its `state_dict()`, else by its attributes. An error never ends the training: it is one line on stderr.

    Example:
        >>> from leyden.exact import mark
        >>> mark(step=1, model={"weight": [0.5]}, batch=[1, 2])  # the variable is not set

    Args:
        step: A number or text that no other step of the training has.
        model: A module, or a mapping of tensors.
        optimizer: What has a `state_dict()`, or several such objects: optimizers, schedules, scalers.
        batch: The step's batch.
    """
    if not (path := os.environ.get(MARKS)):
        return
    try:
        name = str(step.item() if hasattr(step, "item") else step)
        hashes = {part: _hash(part, value) for part, value in zip(PARTS, (batch, model, optimizer), strict=True)}
        with Path(path).open("ab", buffering=0) as file:  # a line is written at once: processes share the file
            file.write(json.dumps({"rank": _rank(), "step": name, **hashes}).encode() + b"\n")
        if os.environ.get(KILL_AT) == name:
            os.killpg(0, signal.SIGKILL)
    except Exception as error:
        _warn("this step is not marked", error)


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
        has_content = any(hasattr(kind, name) for name in ("state_dict", "__array__", "__len__", "__slots__"))
        if kind.__module__ != "builtins" and not has_content and not getattr(value, "__dict__", None):
            raise TypeError(f"{kind.__qualname__} has no state_dict")
        return digest_of_content(value)
    except Exception as error:
        _warn(f"{part}: can't be hashed, and is not compared", error)
        return None


DIR = "{dir}"  # in a command: the folder of its checkpoints
_PATIENCE_S = 5  # for a command that ends its own children, as torchrun does
Marks = list[dict[str, str]]


class Starts:
    """Starts a training command again and again, until it ends or is killed.

    Args:
        command: The command; `{dir}` stands for a folder in it.
        folder: Empty folder for marks, output and checkpoints.
        timeout_s: Time limit of each start.

    Raises:
        ExactError: The command has no place for the folder, or its program is missing.
    """

    def __init__(self, command: list[str], folder: Path, timeout_s: float) -> None:
        if not any(DIR in word for word in command):
            raise ExactError(f"the command needs {DIR}, in place of the folder in which it keeps its checkpoints")
        if not shutil.which(command[0]):
            raise ExactError(f"{command[0]}: there is no such program")
        self.command = [word.replace(DIR, str(folder / "run")) for word in command]
        self.folder, self.output = folder, folder / "output"
        self.timeout_s, self.number = timeout_s, 0

    def start(self, kill_at: str = "") -> tuple[Marks, int]:
        """Return the marks and the exit code of a start, which is killed when it marks the step `kill_at`."""
        self.number, began = self.number + 1, time.monotonic()
        path = self.folder / f"marks-{self.number}"
        (self.folder / "run").mkdir(exist_ok=True)
        environment = {**os.environ, MARKS: str(path), KILL_AT: kill_at}
        with self.output.open("wb") as to:
            process = subprocess.Popen(
                self.command, stdout=to, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        try:
            code = process.wait(self.timeout_s)
        except subprocess.TimeoutExpired as error:
            text = f"start {self.number} did not end within {self.timeout_s / 60:g} min; timeout_min= is the limit"
            raise ExactError(f"{text}\n{self.tail()}") from error
        finally:
            _end(process)
        marks: Marks = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        steps = f"steps {marks[0]['step']} to {marks[-1]['step']}" if marks else "no step"
        end = "killed" if kill_at and kill_at in steps_of(marks) else f"exit code {code}"
        print(f"start {self.number}: {steps}, {end}, {time.monotonic() - began:.0f} s")
        sys.stdout.flush()
        return marks, code

    def tail(self) -> str:
        """Return the last lines that the last start has printed."""
        return "\n".join(self.output.read_bytes()[-4000:].decode(errors="replace").splitlines()[-20:])


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a command that still runs, and what it has left behind."""
    try:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(_PATIENCE_S)
    finally:  # a second Ctrl-C does not wait
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def steps_of(marks: Marks) -> list[str]:
    """Return the steps that any process has marked: one that is killed ends the others, which may be a step behind."""
    return list(dict.fromkeys(mark["step"] for mark in marks))


def draw_kills(marks: Marks, kills: int, seed: int) -> list[str]:
    """Return drawn steps of an undisturbed start, one from each of as many equal stretches as there are kills.

    Raises:
        ExactError: Kills at these steps would show nothing.
    """
    if not any(mark[part] for mark in marks for part in PARTS):
        raise ExactError(
            "the command marks nothing to compare: let it call leyden.exact.mark(step, model, optimizer, batch)"
        )
    (_, step), number = Counter((mark["rank"], mark["step"]) for mark in marks).most_common(1)[0]
    if number > 1:
        raise ExactError(
            f"step {step} is marked {number} times: each step needs a number of its own, in all epochs"
        )
    steps = steps_of(marks)
    if not 0 < kills < len(steps):
        raise ExactError(
            f"kills={kills}: must be from 1 to {len(steps) - 1}, as the command marks {len(steps)} steps"
        )
    draws, ends = random.Random(seed), [(len(steps) - 1) * n // kills for n in range(kills + 1)]
    return [steps[draws.randrange(*each)] for each in itertools.pairwise(ends)]


def compare_killed(starts: Starts, kills: int, seed: int) -> tuple[bool, str]:
    """Return whether a command that is killed marks the same as undisturbed, and a sentence on that.

    Args:
        starts: Starts of the command; there was none yet.
        kills: Number of kills.
        seed: Seed of the steps at which it is killed.

    Raises:
        ExactError: The command can't be tested: it fails undisturbed, does not end, marks nothing, or never resumes.
    """
    whole, code = starts.start()
    if code:
        raise ExactError(f"undisturbed, the command ends with exit code {code}\n{starts.tail()}")
    drawn, steps = draw_kills(whole, kills, seed), steps_of(whole)
    shutil.rmtree(starts.folder / "run")  # the next start is a new run
    expected = {(mark["rank"], mark["step"]): mark for mark in whole}
    done: Counter[str] = Counter()
    begins = []
    for kill_at in [*drawn, ""]:
        marks, code = starts.start(kill_at)
        begins += steps_of(marks)[:1]
        if starts.number == 2 and begins != steps[:1]:
            raise ExactError(f"start 2 did not begin as start 1: all that the command writes must lie in {DIR}")
        number = starts.number
        if difference := _first_difference(marks, expected):
            if number == 2:
                return False, f"not deterministic: without a resume, too, it parts at {difference}"
            return False, f"start {number} parts at {difference}"
        done.update(steps_of(marks))
        missing = [step for step in ([kill_at] if kill_at else steps) if step not in done]
        if missing or (code and not kill_at):
            without = f", without step {missing[0]}" if missing else ""
            return False, f"start {number} ends with exit code {code}{without}\n{starts.tail()}"
    if len({*begins}) == 1:
        raise ExactError(
            f"nothing was shown: each start began at step {steps[0]}; had it a checkpoint in {DIR} before {drawn[-1]}?"
        )
    compared = ", ".join(part for part in PARTS if any(mark[part] for mark in whole))
    again = sum(number > 1 for number in done.values())
    return True, f"the same bits in all {len(steps)} steps, {again} done again ({compared})"


def _first_difference(marks: Marks, expected: dict[tuple[str, str], dict[str, str]]) -> str:
    """Return the first step that parts from the undisturbed run in any process, and its parts; empty if none does."""
    nothing = dict.fromkeys(PARTS, "")
    pairs = [(mark, expected.get((mark["rank"], mark["step"]), nothing)) for mark in marks]
    parting = [(mark["step"], part) for mark, same in pairs for part in PARTS if mark[part] != same[part]]
    if not parting:
        return ""
    step = parting[0][0]
    parts = ", ".join(part for part in PARTS if (step, part) in parting)
    unknown = step not in {step for _, step in expected}
    return f"step {step}: {'the undisturbed run has no such step' if unknown else parts}"
