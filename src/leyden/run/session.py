"""A run from its beginning to its end, whatever ends it."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from leyden.config.errors import UserError, is_mistake, last_frame
from leyden.config.terminal import quoted_override, warn
from leyden.run.directory import Run
from leyden.run.identity import RunIdentity
from leyden.run.lock import check_held
from leyden.run.process import is_main_process
from leyden.run.provenance import machine
from leyden.run.result import Failure, Result


class Position(NamedTuple):
    """How far a training has come.

    Args:
        epochs: That were completed, over all starts.
        num_steps: Optimizer steps, over all starts.
        has_trained: Whether a step can have been taken in this start; not so while a checkpoint is restored.
    """

    epochs: int
    num_steps: int
    has_trained: bool


class Session:
    """What goes on in a run directory once it has begun; a result ends it.

    Args:
        run: The directory.
        choices: Of the run.
        before_end: Is called with the result before that is written.
    """

    def __init__(self, run: Run, choices: RunIdentity, before_end: Callable[[Run, Result], None]) -> None:
        self.run, self.choices, self.before_end = run, choices, before_end
        self.before = run.result

    def end(self, result: Result) -> Result:
        """Write the result, with what was reached of the objectives; it is the last thing that is written."""
        result = result.reached(self.choices.objectives)
        before = self.before
        # Nothing was trained in this start, as for a first test evaluation: the checkpoint is a little older than the end.
        if before and before.has_ended_well and before.optimizer_steps == result.optimizer_steps:
            names = ("epochs", "seconds", "samples_per_second")
            result = replace(result, **{name: value for name in names if (value := getattr(before, name))})
        self.write(result)
        return result

    def write(self, result: Result) -> None:
        """Write a result as it is. Whatever is not there yet when the run is killed is made again."""
        check_held(self.run.directory)
        self.before_end(self.run, result)
        self.run.end(result)


@contextlib.contextmanager
def session(
    run: Run,
    choices: RunIdentity,
    overrides: list[str],
    *,
    parent: dict[str, Any] | None = None,
    data: dict[str, str] | None = None,
    position: Callable[[], Position],
    before_end: Callable[[Run, Result], None],
) -> Iterator[Session]:
    """Begin a run; if something ends it before it has a result, that is what it is told to have failed by.

    A run that had a result, and fails before it trains, has that result again.

    Args:
        run: The directory, which this process has locked.
        choices: Of the run.
        overrides: What the user has typed.
        parent: As `origin` has it.
        data: As `origin` has it.
        position: Tells how far the training has come.
        before_end: Is called with the result before that is written.

    Raises:
        UserError: The run has failed by a mistake, or by something that is no bug.
        SystemExit: It was stopped from outside, and can go on.
    """
    begun = Session(run, choices, before_end)
    run.begin(choices, overrides, parent, machine(), data)
    try:
        yield begun
    except Exception as error:
        mistaken = is_mistake(error, runs=True)
        _fail(begun, Failure(type(error).__name__, str(error), "" if mistaken else last_frame(error)), position())
        if mistaken:
            told = " ".join(str(error).split()) or type(error).__name__
            is_named = told.startswith(f"{run.directory}:")
            raise UserError(told if is_named else f"{run.directory} failed: {told}") from error
        raise
    except SystemExit as stop:  # by Ctrl-C or SIGTERM; Lightning would end with 1 and 0
        if is_main_process():
            saved = (run.directory / "checkpoints" / "last.ckpt").exists()
            then = "goes on" if saved else "starts over, nothing was saved yet"
            print(
                f"Interrupted. The same command with {quoted_override('run_dir', run.directory)} {then}.",
                file=sys.stderr,
            )
        codes: dict[Any, int] = {None: 128 + signal.SIGTERM, 0: 128 + signal.SIGTERM, 1: 128 + signal.SIGINT}
        raise SystemExit(codes.get(stop.code, stop.code)) from None


def _fail(begun: Session, failure: Failure, position: Position) -> None:
    result = Result.failed(begun.choices.objectives, failure, epochs=position.epochs, num_steps=position.num_steps)
    try:
        if position.has_trained or not begun.run.take_back():
            begun.write(result)
    except (OSError, UserError) as second:
        warn(f"that it failed can't be written down: {second}")
