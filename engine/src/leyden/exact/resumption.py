"""A test of whether a training resumes to the same bits.

Its command runs undisturbed, then with kills, and each step is compared.
"""

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from leyden.exact import ExactError
from leyden.exact.marks import EVERY, KILL_AT, MARKED_PARTS, MARKS

DIR = "{dir}"  # in a command: the folder of its checkpoints
CALL_TIMEOUT_S = 600  # of each start of a function
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
        """Return the marks and the exit code of a start that is killed at the mark of `kill_at`."""
        self.number += 1
        began = time.monotonic()
        path = self.folder / f"marks-{self.number}"
        (self.folder / "run").mkdir(exist_ok=True)
        environment = {**os.environ, MARKS: str(path), KILL_AT: kill_at}
        try:
            code = run_group(lambda: self.launch(environment), self.timeout_s)
        except subprocess.TimeoutExpired as error:
            limit = f"{self.timeout_s / 60:g} min; timeout_min= is the limit"
            text = f"start {self.number} did not end within {limit}"
            raise ExactError(f"{text}\n{self.tail()}") from error
        marks = read_marks(path) if path.exists() else []
        steps = "no step"
        if marks:
            steps = f"steps {marks[0]['step']} to {marks[-1]['step']}"
        is_killed = kill_at and kill_at in steps_of(marks)
        end = "killed" if is_killed else f"exit code {code}"
        self._say(f"start {self.number}: {steps}, {end}, {time.monotonic() - began:.0f} s")
        return marks, code

    def launch(self, environment: dict[str, str]) -> Any:
        """Return the process of a start, which leads a group of its own."""
        with self.output.open("wb") as to:
            return subprocess.Popen(
                self.command,
                stdout=to,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def draw(self, marks: Marks, kills: int, seed: int) -> list[str]:
        """Return the steps at which to kill, see `draw_kills`."""
        return draw_kills(marks, kills, seed)

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


def run_group(launch: Callable[[], Any], timeout_s: float) -> int:
    """Start a command, return its exit code, and end what still runs of its process group.

    Args:
        launch: Returns the process that it starts, which leads a group of its own.
        timeout_s: Time limit.

    Raises:
        subprocess.TimeoutExpired: It does not end; it is ended.
    """
    with _signals_held() as release:
        process = launch()
        try:
            release()
            code: int = process.wait(timeout_s)
            return code
        finally:
            _end_group(process)


@contextlib.contextmanager
def _signals_held() -> Iterator[Callable[[], None]]:
    """Hold back signals until what is given is called.

    No signal comes between a start and its `try`.
    """
    before: dict[int, Any] = {}
    received: list[int] = []
    parent = os.getpid()

    def hold(number: int, _: Any) -> None:
        if os.getpid() == parent:
            received.append(number)
        else:  # in a fork
            signal.signal(number, before[number])
            os.kill(os.getpid(), number)

    def release() -> None:
        while before:
            signal.signal(*before.popitem())
        while received:
            os.kill(parent, received.pop())

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            found = signal.getsignal(number)
            if found not in (None, signal.SIG_IGN):  # ignored ones, as by nohup, stay so
                before[number] = found
                signal.signal(number, hold)
    try:
        yield release
    finally:
        release()


def _end_group(process: Any) -> None:
    try:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(_PATIENCE_S)
    finally:  # a second Ctrl-C does not wait
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def steps_of(marks: Marks) -> list[str]:
    """Return the steps that any process has marked.

    One that is killed ends the others, which may be a step behind.
    """
    return list(dict.fromkeys(mark["step"] for mark in marks))


def _marked_parts(marks: Marks) -> list[str]:
    """Return the parts of which some mark has a hash."""
    found: set[str] = set()
    for mark in marks:
        found.update(part for part in MARKED_PARTS if mark[part])
    return [part for part in MARKED_PARTS if part in found]


def draw_kills(marks: Marks, kills: int, seed: int) -> list[str]:
    """Return drawn steps of an undisturbed start.

    One is from each of as many equal stretches as there are kills.

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
    """Return whether a killed command marks the same as undisturbed, and a sentence on that.

    Args:
        starts: Starts of the command; there was none yet.
        kills: Number of kills.
        seed: Seed of the steps at which it is killed.

    Raises:
        ExactError: The command can't be tested: it fails undisturbed, does not end, marks nothing,
            or never resumes.
    """
    whole, code = starts.start()
    if code:
        raise ExactError(f"undisturbed, the command ends with exit code {code}\n{starts.tail()}")
    drawn = starts.draw(whole, kills, seed)
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
    """Return the first step that parts from the undisturbed run in any process, and its parts.

    The text is empty if none does.
    """
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


class Calls(Starts):
    """Starts a function again and again, each time in a new process, for its first steps.

    Args:
        make: The function; it gets the folder.
        folder: Empty folder for marks, output and checkpoints.
        num_steps: Steps of a start, at whose end it is killed.
    """

    def __init__(self, make: Callable[[Path], Any], folder: Path, num_steps: int) -> None:
        super().__init__([sys.executable, DIR], folder, CALL_TIMEOUT_S, print)
        self.make = make
        self.num_steps = num_steps

    def start(self, kill_at: str = "") -> tuple[Marks, int]:
        """Return the marks and the exit code of a start, which is 0 if all steps were trained."""
        last = str(self.num_steps)
        marks, code = super().start(kill_at or last)
        if not kill_at and last in steps_of(marks):
            code = 0
        return marks, code

    def draw(self, marks: Marks, kills: int, seed: int) -> list[str]:
        """Return the step at two thirds, which comes after a few checkpoints."""
        draw_kills(marks, kills, seed)  # checks that there is something to compare
        steps = steps_of(marks)
        return [steps[len(steps) * 2 // 3]]

    def launch(self, environment: dict[str, str]) -> Any:
        """Return the process of a start."""
        is_in_file = hasattr(sys.modules["__main__"], "__file__")
        context: Any = multiprocessing.get_context("spawn" if is_in_file else "fork")
        environment[EVERY] = str(max(1, self.num_steps // 8))
        given = (self.make, self.folder / "run", environment, self.output)
        return _Called(context.Process(target=_call, args=given))


class _Called:
    """A process of `multiprocessing` as `subprocess` has it."""

    def __init__(self, process: Any) -> None:
        process.start()
        self._process = process
        self.pid = process.pid

    def wait(self, timeout_s: float | None = None) -> int:
        self._process.join(timeout_s)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("the function", timeout_s or 0)
        return int(self._process.exitcode)


def _call(
    make: Callable[[Path], Any], folder: Path, environment: dict[str, str], output: Path
) -> None:
    """Call a function in this new process."""
    os.setsid()
    os.environ.update(environment)
    with output.open("wb") as to:
        os.dup2(to.fileno(), 1)
        os.dup2(to.fileno(), 2)
    sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - of a notebook
    make(folder)


def test(make: Callable[[Path], Any], *, num_steps: int = 24) -> bool:  # noqa: PT028
    """Train twice in new processes, the second time with a kill, and compare the first steps.

    What was found is printed: that all steps have the same bits, or the first step that differs.
    While it is tested, `Exact` and `Loop` save every few steps. In a script, call it below
    `if __name__ == "__main__":`, as each process imports the script.

    Example of a function:

        def make(folder):
            with Exact(folder, seed=0):
                model.fit(series)

    Args:
        make: Trains in a folder, by `Exact` or `Loop`, from its first line on.
        num_steps: Number of steps that are compared.

    Returns:
        Whether all steps have the same bits.

    Raises:
        ExactError: Nothing can be compared.
    """
    with tempfile.TemporaryDirectory(prefix="leyden-", ignore_cleanup_errors=True) as folder:
        is_same, text = compare_killed(Calls(make, Path(folder), num_steps), 1, 0)
    print(text)
    return is_same


test.__test__ = False  # type: ignore[attr-defined]  # pytest takes it for none of its own
