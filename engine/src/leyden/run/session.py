"""The session of a run: one launch, until it succeeds, fails or is interrupted."""

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from leyden.config.errors import Exit, UserError, is_mistake, last_frame, leave
from leyden.config.terminal import quoted_override, warn
from leyden.run.directory import Run
from leyden.run.identity import RunIdentity
from leyden.run.lock import check_held
from leyden.run.process import is_main_process
from leyden.run.provenance import machine
from leyden.run.result import Failure, Result

# Begins the message of an error of communication in gloo, which is a plain RuntimeError.
GLOO = re.compile(r"(Gloo connectFullMesh failed with )?\[(enforce fail at )?\S*gloo/transport/\S+:\d+\]")
PEER_S = 3.0  # to wait for another process that records its error; less than until a scheduler kills this one


class ThisJob(NamedTuple):
    """The cluster's job that this process belongs to.

    Args:
        id: Its id; None outside of a job.
        restarts: How often it was restarted.
        requeue: Puts it back into the queue after a failure of communication, and returns whether it could.
    """

    id: str | None = None
    restarts: int = 0
    requeue: Callable[[Exception], bool] = lambda error: False


NO_JOB = ThisJob()


class Position(NamedTuple):
    """Progress of the training.

    Args:
        epochs: Number of completed epochs over all starts.
        num_steps: Number of optimizer steps over all starts.
        has_trained: Whether this start may have trained; false while a checkpoint is restored.
        num_processes: Number of processes that train together.
    """

    epochs: int
    num_steps: int
    has_trained: bool
    num_processes: int


def is_communication_error(error: BaseException, num_processes: int) -> bool:
    """Return whether an error is a failure of communication between the processes of a run, or caused by one."""
    of_torch = getattr(sys.modules.get("torch.distributed"), "DistError", ())
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        if isinstance(cause, of_torch):
            return True
        if type(cause) is RuntimeError and num_processes > 1 and GLOO.match(str(cause)):
            return True
        chain, cause = [*chain, cause], cause.__cause__
    return False


class Session:
    """One launch of a run, called a start elsewhere; it ends by writing a result.

    Args:
        run: The run directory.
        identity: Identity of the run.
        before_end: Called with the result before it is written.
    """

    def __init__(self, run: Run, identity: RunIdentity, before_end: Callable[[Run, Result], None]) -> None:
        self.run, self.identity, self.before_end = run, identity, before_end
        self.previous_result = run.result

    def end(self, result: Result) -> Result:
        """Write the result with the values of the objectives, as the last file of the run, and return it."""
        result = result.with_objectives(self.identity.objectives)
        previous = self.previous_result
        # If this start trained nothing (for example, it only tested), keep the times of the previous result: those
        # in the checkpoint lack the last moments of the training.
        if previous and previous.is_complete and previous.optimizer_steps == result.optimizer_steps:
            names = ("epochs", "seconds", "samples_per_second")
            result = replace(result, **{name: value for name in names if (value := getattr(previous, name))})
        self.write(result)
        return result

    def write(self, result: Result) -> None:
        """Call `before_end`, then write a result as it is; if the process is killed, the next start does both."""
        check_held(self.run.directory)
        self.before_end(self.run, result)
        self.run.end(result)


@contextlib.contextmanager
def session(
    run: Run,
    identity: RunIdentity,
    overrides: list[str],
    *,
    parent: dict[str, Any] | None = None,
    data: dict[str, str] | None = None,
    step: int = 0,
    job: ThisJob = NO_JOB,
    position: Callable[[], Position],
    before_end: Callable[[Run, Result], None],
) -> Iterator[Session]:
    """Begin a launch of a run; an error that ends it is recorded as its result.

    If a run that had a result fails before it trains, its previous result is restored.

    Args:
        run: The run directory, locked by this process.
        identity: Identity of the run.
        overrides: Overrides on the command line.
        parent: Checkpoint that the weights come from, see `origin`.
        data: Hashes of the training data, see `origin`.
        step: Number of optimizer steps in the checkpoint that it resumes from, see `origin`.
        job: The cluster's job of this process.
        position: Returns the progress of the training.
        before_end: Called with the result before it is written.

    Raises:
        UserError: The run has failed because of a user's mistake, or another cause that is not a bug.
        SystemExit: The run was interrupted or its job requeued, and can be resumed.
    """
    begun = Session(run, identity, before_end)
    run.begin(identity, overrides, parent=parent, machine=machine(), data=data, step=step, job=job.id)
    try:
        yield begun
    except Exception as error:
        is_lost = is_communication_error(error, position().num_processes)
        if is_lost:
            # A process that fails breaks the connections to the others: then its error is the run's.
            if position().num_processes > 1 and (result := wait_for_result(run)) and (first := result.error):
                raise UserError(
                    f"{run.directory} failed in another process: {first.type}: {first.message}"
                ) from error
            if job.requeue(error):
                leave(Exit.REQUEUED, error)
        mistaken = is_mistake(error)
        if is_main_process() or (position().has_trained and not is_lost):
            failure = Failure(type(error).__name__, str(error), "" if mistaken else last_frame(error))
            _fail(begun, failure, position(), job.restarts)
        if mistaken:
            message = " ".join(str(error).split()) or type(error).__name__
            names_run = message.startswith(f"{run.directory}:")
            raise UserError(message if names_run else f"{run.directory} failed: {message}") from error
        raise
    except SystemExit as stop:  # Ctrl-C or SIGTERM, for which Lightning exits with 1 or 0
        if is_main_process():
            saved = (run.directory / "checkpoints" / "last.ckpt").exists()
            effect = "resumes the run" if saved else "starts over, nothing was saved yet"
            print(
                f"Interrupted. The same command with {quoted_override('run_dir', run.directory)} {effect}.",
                file=sys.stderr,
            )
        code: Any = stop.code
        codes: dict[Any, int] = {None: Exit.TERMINATED, 0: Exit.TERMINATED, 1: Exit.INTERRUPTED}
        leave(codes.get(code, code))


def wait_for_result(run: Run) -> Result | None:
    """Return a run's result once another process of the run has recorded it; None after `PEER_S` seconds."""
    end = time.monotonic() + PEER_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError, UserError):  # it is damaged
            if (result := run.result) is not None:
                return result
        time.sleep(0.1)
    return None


def _fail(begun: Session, failure: Failure, position: Position, restarts: int) -> None:
    """Write the result of a failed run, or restore the previous result if nothing was trained."""
    progress = {"epochs": position.epochs, "num_steps": position.num_steps, "requeues": restarts}
    result = Result.failed(begun.identity.objectives, failure, **progress)
    try:
        if position.has_trained or not begun.run.restore_result():
            begun.write(result)
    except (OSError, UserError) as second:
        warn(f"the failure can't be recorded: {second}")
