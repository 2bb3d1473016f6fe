"""A test of whether a training resumes to the same bits: its command runs undisturbed, then with kills, and each step is compared."""

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from leyden.exact import ExactError
from leyden.exact.marks import KILL_AT, MARKED_PARTS, MARKS

DIR = "{dir}"  # in a command: the folder of its checkpoints
_PATIENCE_S = 5  # for a command that ends its own children, as torchrun does
Marks = list[dict[str, str]]


class Starts:
    """Starts a training command again and again, until it ends or is killed.

    Args:
        command: The command; `{dir}` stands for a folder in it.
        folder: Empty folder for marks, output and checkpoints.
        timeout_s: Time limit of each start.
        say: Prints a line.

    Raises:
        ExactError: The command has no place for the folder, or its program is missing.
    """

    def __init__(
        self, command: list[str], folder: Path, timeout_s: float, say: Callable[[str], None]
    ) -> None:
        if not any(DIR in word for word in command):
            where = "in place of the folder in which it keeps its checkpoints"
            raise ExactError(f"the command needs {DIR}, {where}")
        if not shutil.which(command[0]):
            raise ExactError(f"{command[0]}: there is no such program")
        self.command = [word.replace(DIR, str(folder / "run")) for word in command]
        self.folder = folder
        self.output = folder / "output"
        self.timeout_s = timeout_s
        self.number = 0
        self._say = say

    def start(self, kill_at: str = "") -> tuple[Marks, int]:
        """Return the marks and the exit code of a start, which is killed when it marks the step `kill_at`."""
        self.number += 1
        began = time.monotonic()
        path = self.folder / f"marks-{self.number}"
        (self.folder / "run").mkdir(exist_ok=True)
        environment = {**os.environ, MARKS: str(path), KILL_AT: kill_at}
        with self.output.open("wb") as to:
            process = subprocess.Popen(
                self.command,
                stdout=to,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        try:
            code = process.wait(self.timeout_s)
        except subprocess.TimeoutExpired as error:
            limit = f"{self.timeout_s / 60:g} min; timeout_min= is the limit"
            text = f"start {self.number} did not end within {limit}"
            raise ExactError(f"{text}\n{self.tail()}") from error
        finally:
            _end(process)
        marks = read_marks(path) if path.exists() else []
        steps = "no step"
        if marks:
            steps = f"steps {marks[0]['step']} to {marks[-1]['step']}"
        is_killed = kill_at and kill_at in steps_of(marks)
        end = "killed" if is_killed else f"exit code {code}"
        self._say(f"start {self.number}: {steps}, {end}, {time.monotonic() - began:.0f} s")
        return marks, code

    def tail(self) -> str:
        """Return the last lines that the last start has printed."""
        text = self.output.read_bytes()[-4000:].decode(errors="replace")
        return "\n".join(text.splitlines()[-20:])


def read_marks(path: Path) -> Marks:
    """Return the marks in a file; the last one may be cut, by a kill.

    Raises:
        ExactError: Another one is damaged.
    """
    text = path.read_text(errors="replace")
    marks = []
    try:
        for line in text.split("\n")[:-1]:
            found = json.loads(line)
            mark = {key: str(found[key] or "") for key in ("rank", "step", *MARKED_PARTS)}
            marks.append(mark)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ExactError("a mark of the command is damaged; is the disk full?") from error
    return marks


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


def _marked_parts(marks: Marks) -> list[str]:
    """Return the parts of which some mark has a hash."""
    found: set[str] = set()
    for mark in marks:
        found.update(part for part in MARKED_PARTS if mark[part])
    return [part for part in MARKED_PARTS if part in found]


def draw_kills(marks: Marks, kills: int, seed: int) -> list[str]:
    """Return drawn steps of an undisturbed start, one from each of as many equal stretches as there are kills.

    Raises:
        ExactError: Kills at these steps would show nothing.
    """
    if not _marked_parts(marks):
        call = "let it call leyden.exact.mark(step, model, optimizer, batch)"
        raise ExactError(f"the command marks nothing to compare: {call}")
    counts = Counter((mark["rank"], mark["step"]) for mark in marks)
    ((_, step), number) = counts.most_common(1)[0]
    if number > 1:
        needed = "each step needs a number of its own, in all epochs"
        raise ExactError(f"step {step} is marked {number} times: {needed}")
    steps = steps_of(marks)
    if len(steps) < 2:
        raise ExactError("the command marks one step; to kill it before its end takes two")
    if not 0 < kills < len(steps):
        allowed = f"must be from 1 to {len(steps) - 1}, as the command marks {len(steps)} steps"
        raise ExactError(f"kills={kills}: {allowed}")
    draws = random.Random(seed)
    ends = [(len(steps) - 1) * number // kills for number in range(kills + 1)]
    return [steps[draws.randrange(*stretch)] for stretch in itertools.pairwise(ends)]


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
    drawn = draw_kills(whole, kills, seed)
    steps = steps_of(whole)
    shutil.rmtree(starts.folder / "run")  # the next start is a new run
    expected = {(mark["rank"], mark["step"]): mark for mark in whole}
    done: Counter[str] = Counter()
    begins: list[str] = []
    for kill_at in [*drawn, ""]:
        marks, code = starts.start(kill_at)
        number = starts.number
        begins += steps_of(marks)[:1]
        if number == 2 and begins != steps[:1]:
            needed = f"all that the command writes must lie in {DIR}"
            raise ExactError(f"start 2 did not begin as start 1: {needed}")
        difference = _first_difference(marks, expected)
        if difference and number == 2:
            return False, f"not deterministic: without a resume, too, it parts at {difference}"
        if difference:
            return False, f"start {number} parts at {difference}"
        done.update(steps_of(marks))
        wanted = [kill_at] if kill_at else steps
        missing = [step for step in wanted if step not in done]
        if missing or (code and not kill_at):
            text = f"start {number} ends with exit code {code}"
            if missing:
                text += f", without step {missing[0]}"
            return False, f"{text}\n{starts.tail()}"
    if len(set(begins)) == 1:
        why = f"each start began at step {steps[0]}"
        raise ExactError(
            f"nothing was shown: {why}; had it a checkpoint in {DIR} before {drawn[-1]}?"
        )
    compared = ", ".join(_marked_parts(whole))
    again = sum(number > 1 for number in done.values())
    return True, f"the same bits in all {len(steps)} steps, {again} done again ({compared})"


def _first_difference(marks: Marks, expected: dict[tuple[str, str], dict[str, str]]) -> str:
    """Return the first step that parts from the undisturbed run in any process, and its parts; empty if none does."""
    first = ""
    parts: list[str] = []
    for mark in marks:
        step = mark["step"]
        same = expected.get((mark["rank"], step), dict.fromkeys(MARKED_PARTS, ""))
        for part in MARKED_PARTS:
            if mark[part] != same[part] and first in ("", step):
                first = step
                parts.append(part)
    if not first:
        return ""
    if all(step != first for _, step in expected):
        return f"step {first}: the undisturbed run has no such step"
    return f"step {first}: {', '.join(part for part in MARKED_PARTS if part in parts)}"
