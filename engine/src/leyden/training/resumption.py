"""A test of whether a training resumes to the same bits: its command runs undisturbed, then with kills, and each step is compared."""

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from omegaconf import DictConfig

from leyden.config.errors import Exit, UserError, leave
from leyden.config.terminal import printable, show
from leyden.exact.marks import KILL_AT, MARKS, PARTS
from leyden.run.process import num_processes

DIR = "{dir}"  # in a command: the folder of its checkpoints
TIMEOUT_S = 600  # of each start of a training of a few batches
_PATIENCE_S = 5  # for a command that ends its own children, as torchrun does
Marks = list[dict[str, str]]


class Starts:
    """Starts a training command again and again, until it ends or is killed.

    Args:
        command: The command; `{dir}` stands for a folder in it.
        folder: Empty folder for marks, output and checkpoints.
        timeout_s: Time limit of each start.

    Raises:
        UserError: The command has no place for the folder, or its program is missing.
    """

    def __init__(self, command: list[str], folder: Path, timeout_s: float) -> None:
        if not any(DIR in word for word in command):
            raise UserError(
                f"the command needs {DIR}, in place of the folder in which it keeps its checkpoints"
            )
        if not shutil.which(command[0]):
            raise UserError(f"{command[0]}: there is no such program")
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
                self.command,
                stdout=to,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        try:
            code = process.wait(self.timeout_s)
        except subprocess.TimeoutExpired as error:
            text = f"start {self.number} did not end within {self.timeout_s / 60:g} min; timeout_min= is the limit"
            raise UserError(f"{text}\n{self.tail()}") from error
        finally:
            _end(process)
        marks = read_marks(path) if path.exists() else []
        steps = f"steps {marks[0]['step']} to {marks[-1]['step']}" if marks else "no step"
        end = "killed" if kill_at and kill_at in steps_of(marks) else f"exit code {code}"
        print(printable(f"start {self.number}: {steps}, {end}, {time.monotonic() - began:.0f} s"))
        sys.stdout.flush()
        return marks, code

    def tail(self) -> str:
        """Return the last lines that the last start has printed."""
        return "\n".join(
            self.output.read_bytes()[-4000:].decode(errors="replace").splitlines()[-20:]
        )


def read_marks(path: Path) -> Marks:
    """Return the marks in a file; the last one may be cut, by a kill.

    Raises:
        UserError: Another one is damaged.
    """
    try:
        found = [json.loads(line) for line in path.read_text(errors="replace").split("\n")[:-1]]
        return [{key: str(mark[key] or "") for key in ("rank", "step", *PARTS)} for mark in found]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError("a mark of the command is damaged; is the disk full?") from error


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
        UserError: Kills at these steps would show nothing.
    """
    if not any(mark[part] for mark in marks for part in PARTS):
        raise UserError(
            "the command marks nothing to compare: let it call leyden.exact.mark(step, model, optimizer, batch)"
        )
    (_, step), number = Counter((mark["rank"], mark["step"]) for mark in marks).most_common(1)[0]
    if number > 1:
        raise UserError(
            f"step {step} is marked {number} times: each step needs a number of its own, in all epochs"
        )
    steps = steps_of(marks)
    if len(steps) < 2:
        raise UserError("the command marks one step; to kill it before its end takes two")
    if not 0 < kills < len(steps):
        raise UserError(
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
        UserError: The command can't be tested: it fails undisturbed, does not end, marks nothing, or never resumes.
    """
    whole, code = starts.start()
    if code:
        raise UserError(f"undisturbed, the command ends with exit code {code}\n{starts.tail()}")
    drawn, steps = draw_kills(whole, kills, seed), steps_of(whole)
    shutil.rmtree(starts.folder / "run")  # the next start is a new run
    expected = {(mark["rank"], mark["step"]): mark for mark in whole}
    done: Counter[str] = Counter()
    begins = []
    for kill_at in [*drawn, ""]:
        marks, code = starts.start(kill_at)
        begins += steps_of(marks)[:1]
        if starts.number == 2 and begins != steps[:1]:
            raise UserError(
                f"start 2 did not begin as start 1: all that the command writes must lie in {DIR}"
            )
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
        raise UserError(
            f"nothing was shown: each start began at step {steps[0]}; had it a checkpoint in {DIR} before {drawn[-1]}?"
        )
    compared = ", ".join(part for part in PARTS if any(mark[part] for mark in whole))
    again = sum(number > 1 for number in done.values())
    return True, f"the same bits in all {len(steps)} steps, {again} done again ({compared})"


def _first_difference(marks: Marks, expected: dict[tuple[str, str], dict[str, str]]) -> str:
    """Return the first step that parts from the undisturbed run in any process, and its parts; empty if none does."""
    nothing = dict.fromkeys(PARTS, "")
    pairs = [(mark, expected.get((mark["rank"], mark["step"]), nothing)) for mark in marks]
    parting = [
        (mark["step"], part) for mark, same in pairs for part in PARTS if mark[part] != same[part]
    ]
    if not parting:
        return ""
    step = parting[0][0]
    parts = ", ".join(part for part in PARTS if (step, part) in parting)
    unknown = step not in {step for _, step in expected}
    return f"step {step}: {'the undisturbed run has no such step' if unknown else parts}"


# Overrides of a training that is tested: two epochs of four batches, with a checkpoint after each.
TESTED = {
    "exact": "report",
    "test": "false",
    "resume": "auto",
    "++trainer.max_epochs": "2",
    "++trainer.limit_train_batches": "4",
    "++trainer.limit_val_batches": "2",
    "callbacks.checkpoint.every_n_steps": "1",
    "run_dir": DIR,
}


def test_resume(cfg: DictConfig, overrides: list[str], *, is_job: bool) -> None:
    """Train a few batches undisturbed and with kills, compare each step, and print what was found; nothing is kept.

    Raises:
        UserError: This can't be tested.
        SystemExit: A resumed run parts.
    """
    if is_job or cfg.fork or num_processes() > 1:
        raise UserError("exact=test: tests one new run; not with -m, fork or torchrun")
    names = {each.lstrip("+") for each in TESTED}
    kept = [each for each in overrides if each.partition("=")[0].lstrip("+~") not in names]
    command = [
        sys.executable,
        "-m",
        "leyden.train",
        *kept,
        *(f"{key}={value}" for key, value in TESTED.items()),
    ]
    with tempfile.TemporaryDirectory(prefix="leyden-") as folder:
        is_same, text = compare_killed(Starts(command, Path(folder), TIMEOUT_S), 2, cfg.seed)
    show(text)
    if not is_same:
        leave(Exit.DIFFERENT)
