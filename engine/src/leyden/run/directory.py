"""The run directory: its files, whether a start may resume it, and the session of one.

The directory alone is enough to evaluate a run, to predict with it or to resume it. Each start,
that is each launch of the run, replaces the checkpoints and is added to the record, `run.json` and
`starts.json`. Old results are kept there.
"""

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from leyden.base.errors import Exit, UserError, is_mistake, leave
from leyden.base.terminal import leyden_command, one_line, quoted_override, some_of, warn
from leyden.config.values import dict_at
from leyden.exact.files import damage, opened
from leyden.exact.processes import LostError, is_communication_error
from leyden.run import lock
from leyden.run.files import read_json, sha256_of, write_json, write_whole
from leyden.run.identity import RunIdentity, has_length, key_of
from leyden.run.keys import NOTES
from leyden.run.lock import check_held
from leyden.run.owner import KEY
from leyden.run.process import is_main_process
from leyden.run.provenance import changed_code, code_of, installed_versions, machine, origin
from leyden.run.record import (
    RECORD,
    STARTS,
    RunRecord,
    data_hashes,
    read_record,
)
from leyden.run.result import Failure, Result

MAX_FILE_NAMES = 5  # of files in a message
MAX_HOST = 100  # characters in a message
# To wait for another process that records its error; less than until a scheduler kills this one.
PEER_S = 3.0


class Run:
    """A run directory, whose contents are untrusted; it can be locked and written to.

    Args:
        directory: Path of the run directory, absolute or relative to the working directory.
        trust: Whether the user trusts what the record names, whoever wrote it.

    Example:
        >>> run = Run("outputs/mnist_mlp/2026-11-24_12-00-00_000000")
        >>> run.directory.name
        '2026-11-24_12-00-00_000000'
    """

    def __init__(self, directory: str | Path, *, trust: bool = False) -> None:
        self.directory = Path(directory).absolute()
        self.trust = trust
        self._checked: RunRecord | None = None
        self._previous: RunRecord | None = None  # before `begin`, if the run had a result

    def check_owner(self) -> None:
        """Check that the record has this user's signature, before what it names is used.

        What was checked is used from then on, though the file be replaced.

        Raises:
            UserError: It was not, and the user does not trust it.
        """
        record = self.record
        self._check_own(record)
        self._checked = record

    def _check_own(self, record: RunRecord | None) -> None:
        """Check a record as `check_owner` does."""
        if record and not record.is_own and not self.trust:
            hosts = [str(start.get("host")) for start in record.starts] or ["None"]
            host = hosts[-1][:MAX_HOST]
            raise UserError(
                f"{self.directory}: is not a run of yours (recorded on {one_line(host)}, and not "
                "signed with your key), so nothing that it names is used; trust=true executes "
                f"what it names, and {KEY} sets the key of a run from elsewhere"
            )

    @property
    def is_of_sweep(self) -> bool:
        """True for a directory in the folder of a sweep."""
        return (self.directory.parent / "sweep.json").exists()

    @property
    def record(self) -> RunRecord | None:
        """The record; None if no start is recorded.

        Raises:
            UserError: `run.json` is not the record of a run.
        """
        return self._checked or read_record(self.directory)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration as plain values.

        Raises:
            UserError: The directory is not a run directory.
        """
        return self.require().config

    def require(self) -> RunRecord:
        """Return the record.

        Raises:
            UserError: The directory is not a run directory.
        """
        record = self.record
        if record is None:
            raise UserError(f"{self.directory}: not a run directory, it has no {RECORD}")
        return record

    @property
    def result(self) -> Result | None:
        """The result; None if the run has not ended.

        Raises:
            UserError: `run.json` is not the record of a run.
        """
        record = self.record
        if record:
            return record.result
        return None

    @property
    def starts(self) -> list[dict[str, Any]]:
        """The provenance of each start, as returned by `origin`; empty without a record.

        Raises:
            UserError: `run.json` is not the record of a run.
        """
        record = self.record
        if record:
            return record.starts
        return []

    @property
    def overrides(self) -> list[str]:
        """The overrides of the first start."""
        starts = self.starts  # read once, since the file can vanish in between
        if starts:
            return list(starts[0]["overrides"])
        return []

    @property
    def changed_code(self) -> str:
        """The user's own files that have changed since the run's last start, as text.

        Empty if none has.
        """
        return some_of(changed_code(self.starts), MAX_FILE_NAMES)

    def warn_of_changed_code(self, effect: str) -> None:
        """Warn in one line if the user's own files have changed.

        Args:
            effect: The end of the sentence: what happens nevertheless.
        """
        names = ""
        if is_main_process():
            names = self.changed_code
        if names:
            warn(f"{self.directory}: {names} changed since the run was trained; {effect}")

    @property
    def submission(self) -> dict[str, str]:
        """Scheduler, job id and log path of a run that was submitted to a cluster.

        Empty for other runs.

        Raises:
            UserError: `job.json` is damaged.
        """
        path = self.directory / "job.json"
        found = read_json(path, {})
        texts = isinstance(found, dict) and all(isinstance(each, str) for each in found.values())
        if not texts or (found and "job_id" not in found):
            raise UserError(f"{path}: is damaged")
        return dict(found)

    @submission.setter
    def submission(self, value: dict[str, str]) -> None:
        write_json(self.directory / "job.json", value)

    def checkpoint(self, name: str) -> Path:
        """Return the path of a checkpoint.

        Args:
            name: `best`, `last`, or the name of a kept checkpoint, such as `epoch_3`.

        Raises:
            UserError: The checkpoint is missing or damaged.
        """
        if not re.fullmatch("best|last|(epoch|step)_[0-9]+", name):
            raise UserError(
                f"checkpoint={name}: must be best, last, or a kept one, such as epoch_3"
            )
        path = self._path(name)
        self.require()
        problem = damage(path)
        if problem:
            available = sorted(other.stem for other in path.parent.glob("*.ckpt"))
            found = ", ".join(available) or "none"
            raise UserError(f"{path}: {problem} (checkpoints there: {found})")
        self._check_saved(name)
        return path

    def other_checkpoint(self, name: str) -> str:
        """Return, in words, that a checkpoint is another than this user's run has saved.

        Empty if it isn't, or none is known.
        """
        record = self.record
        if record is None or not record.is_own or name not in record.checkpoints:
            return ""
        path = self._path(name)
        if _sha256(path) == record.checkpoints[name]:
            return ""
        return (
            f"{path}: is not the checkpoint that this run has saved (another SHA-256 than in "
            f"{RECORD})"
        )

    def _check_saved(self, name: str) -> None:
        other = ""
        if not self.trust:
            other = self.other_checkpoint(name)
        if other:
            raise UserError(f"{other}, so it is not used; trust=true uses it")

    def _path(self, name: str) -> Path:
        return self.directory / "checkpoints" / f"{name}.ckpt"

    def _saved(self) -> dict[str, str]:
        """Return the SHA-256 of the checkpoints, by name."""
        found = {name: _sha256(self._path(name)) for name in ("best", "last")}
        return {name: digest for name, digest in found.items() if digest}

    def newest_checkpoint(self) -> Path | None:
        """Return the newest intact checkpoint, None if none was saved; warn about damaged ones.

        Raises:
            UserError: All saved checkpoints are damaged.
        """
        any_damaged = False
        for name in ("last", "best"):
            path = self._path(name)
            problem = damage(path)
            if not problem:
                self._check_saved(name)
                return path
            if os.path.lexists(path):
                any_damaged = True
                warn(f"{path} is damaged ({problem}): using the previous checkpoint")
        if any_damaged:
            raise UserError(
                f"{self.directory}: no intact checkpoint is left; choose another run_dir"
            )
        return None

    @contextlib.contextmanager
    def locked(
        self,
        identity: RunIdentity,
        *,
        resume: str,
        timeout_s: float | None = lock.LOCK_TIMEOUT_S,
        ended_job: str = "",
    ) -> Iterator[None]:
        """Lock the directory for a new or resumed run with this identity.

        A refused directory is left unchanged, and so is one for which `begin` is not called.

        Args:
            identity: Identity of the run.
            resume: `auto` resumes an existing run; `never` allows only a new directory, `must` only
                an existing run; `changed` resumes even if the code has changed.
            timeout_s: Seconds to wait while another process holds the lock; None to wait
                indefinitely.
            ended_job: Id of a cluster's job that has ended, so that its lock is free.

        Raises:
            UserError: The directory is refused; the message says why.
        """
        self.accept(identity, resume)
        # With several processes (DDP), only rank 0 locks and writes.
        if self.is_finished(identity) or not is_main_process():
            yield
            return
        with lock.hold_directory(self.directory, timeout_s, ended_job=ended_job):
            self.accept(identity, resume)  # again, since the previous holder may have changed it
            yield

    def accept(self, identity: RunIdentity, resume: str) -> None:
        """Check that the directory is empty or holds a run with this identity.

        Raises:
            UserError: The directory is refused; the message says why.
        """
        try:
            found = lock.list_files(self.directory)
        except OSError as error:
            raise UserError(f"{self.directory}: can't be read ({error.strerror})") from error
        # A run that was killed in its first start may have its starts alone, which are written
        # first.
        if found <= {STARTS}:
            if resume == "must":
                raise UserError(f"resume=must: nothing to resume in {self.directory}")
            return
        there = self.require()
        self._check_own(there)
        folder = self.directory / "checkpoints"
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder}: must be a folder; move away what has this name")
        if folder.is_symlink() and not self.is_finished(identity):
            raise UserError(
                f"{folder}: is a link, through which nothing is written; put the folder itself "
                "there"
            )
        if resume == "never" and is_main_process():
            raise UserError(f"resume=never: {self.directory} already holds a run")
        config = there.config
        overrides = [override for start in there.starts for override in start["overrides"]]
        differences = identity.differences(config, overrides)
        if differences:
            why = ""
            if has_length(identity.config) and identity.is_longer_than(config):
                why = " (its learning rate schedule is made for that number: fork=DIR trains on)"
            key, _, _ = differences[0].partition(":")
            raise UserError(
                f"{self.directory} holds a run with different settings: "
                f"{'; '.join(differences)}{why}\n"
                f"choose another run_dir, or type the values that are there, as {key}=..."
            )
        # A job's own lock asks for `auto`.
        may_change = "changed" in (resume, identity.config.get("resume"))
        if may_change or self.is_finished(identity):
            return
        has_checkpoints = any(self.directory.glob("checkpoints/*.ckpt"))
        names = ""
        if has_checkpoints:
            names = self.changed_code
        if names:
            raise UserError(
                f"{self.directory}: {names} changed since the run's last start, so it would end as "
                "another run; undo the change, choose another run_dir, or resume with the new "
                "code by resume=changed"
            )

    def is_finished(self, identity: RunIdentity) -> bool:
        """Return whether the run is complete, and no more epochs or first test are asked for."""
        result = self.result
        if result is None or not result.is_complete:
            return False
        if identity.config.get("test") is True and not result.is_tested:
            return False
        return not identity.is_longer_than(self.config)

    def begin(self, identity: RunIdentity, overrides: list[str], **facts: Any) -> None:
        """Record the configuration and the provenance of a start, the first or a later one.

        Args:
            identity: Identity of the run.
            overrides: Overrides on the command line.
            facts: Other arguments of `origin`, for example `job`.
        """
        if is_main_process():
            before = self.record
            self._check_own(before)
            config = identity.saved_config
            starts: list[dict[str, Any]] = []
            if before:
                starts = [*before.starts]
                typed = set(map(key_of, overrides))
                for key in ("name", *NOTES):  # these stay until others are typed
                    if key in before.config and key not in typed:
                        config[key] = before.config[key]
            if before and before.result:
                self._previous = before
                if starts:
                    starts[-1] = {**starts[-1], "result": before.result.to_dict()}
            starts.append(origin(overrides, groups=identity.groups, code=code_of(), **facts))
            self._write(RunRecord(config, starts))

    def _write(self, record: RunRecord) -> None:
        """Write a record, then its configuration for people.

        A folder with files but no record is none of a run.
        """
        record.write(self.directory)
        write_whole(self.directory / "config.yaml", yaml.safe_dump(record.config, sort_keys=False))

    def note(self, identity: RunIdentity, overrides: Sequence[str]) -> None:
        """Set a note or tags that are typed for a run that has finished."""
        new = {*NOTES} & {*map(key_of, overrides)}
        if new:
            self.annotate({key: identity.config.get(key) for key in new})

    def annotate(self, notes: Mapping[str, Any]) -> None:
        """Set the note or the tags in the record of a run that no process uses.

        Raises:
            UserError: The directory is not a run directory, or it is in use.
        """
        self.require()
        with lock.hold_directory(self.directory, timeout_s=0):
            record = self.require()
            self._write(replace(record, config={**record.config, **notes}))

    def restore_result(self) -> bool:
        """Undo `begin` for a run that had a result: restore its previous result and configuration.

        Returns:
            Whether the run had a result.
        """
        before = self._previous
        if before is None:
            return False
        starts = [*before.starts, *self.starts[-1:]]
        self._write(replace(before, starts=starts))
        return True

    def end(self, result: Result) -> None:
        """Record the result, which marks the run as ended.

        Only an error is recorded by any process, the first one.
        """
        record = self.record
        if record is None:
            raise UserError(f"{self.directory}: {RECORD} is gone")
        is_main = is_main_process()
        if is_main or (result.error and record.result is None):
            saved = self._saved() if is_main else {}  # another process may still save
            known = record.starts[-1].get("code") or {}
            code = {**known, **code_of()}  # with what was imported while it trained
            self._change(record, {"code": code}, result=result, checkpoints=saved)

    def stop(self) -> None:
        """Record the checkpoints of a run that a signal has ended."""
        record = self.record
        if record and is_main_process():
            check_held(self.directory)
            self._change(record, {}, checkpoints=self._saved())

    def set_overrides(self, overrides: list[str], groups: Mapping[str, Any]) -> None:
        """Record other overrides and options of the last start, by which the run resumes."""
        record = self.record
        if record:
            self._change(record, {"overrides": overrides, "groups": groups})

    def _change(self, record: RunRecord, of_last: Mapping[str, Any], **changes: Any) -> None:
        """Write a record with other parts, and another provenance of the last start."""
        *earlier, last = record.starts
        starts = [*earlier, {**last, **of_last}]
        replace(record, starts=starts, **changes).write(self.directory)


def _sha256(path: Path) -> str:
    """Return the SHA-256 of a file; empty if it can't be read."""
    try:
        with opened(path) as file:
            return sha256_of(file)
    except OSError:
        return ""


def trained_on(run: Run) -> Mapping[str, str]:
    """Return the hashes of the training data, by name, from the last start that recorded them.

    Empty if none did.

    Raises:
        UserError: `run.json` is not the record of a run.
    """
    return data_hashes(run.starts)


def changed_names(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Return the names that have different hashes in both mappings.

    Example:
        >>> changed_names({"a.csv": "1", "b.csv": "1"}, {"a.csv": "2", "c.csv": "1"})
        ['a.csv']
    """
    return [name for name in there if name in here and here[name] != there[name]]


class ThisJob(NamedTuple):
    """The cluster's job that this process belongs to.

    Args:
        id: Its id; None outside of a job.
        restarts: How often it was restarted.
        requeue: Puts it back into the queue after a failure of communication, and returns whether
            it could.
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


@contextlib.contextmanager
def session(
    run: Run,
    identity: RunIdentity,
    overrides: list[str],
    *,
    position: Callable[[], Position],
    before_end: Callable[[Run, Result], None],
    job: ThisJob = NO_JOB,
    **facts: Any,
) -> Iterator[Callable[[Result], Result]]:
    """Begin a launch of a run.

    Yield a function that ends it with a result, whose objective gets its value.

    An error that ends it is recorded as its result. If a run that had a result fails before it
    trains, its previous result is restored.

    Args:
        run: The run directory, locked by this process.
        identity: Identity of the run.
        overrides: Overrides on the command line.
        position: Returns the progress of the training.
        before_end: Called with the result before it is written.
        job: The cluster's job of this process.
        facts: Other arguments of `origin`: `parent`, `data` and `step`.

    Raises:
        UserError: The run has failed because of a user's mistake, or another cause that is not a
            bug.
        SystemExit: The run was interrupted or its job requeued, and can be resumed.
    """

    def end(result: Result) -> Result:
        """Write the result as the run's last file; after a kill, the next start does it."""
        valued = result.with_objective(identity.objective)
        check_held(run.directory)
        before_end(run, valued)
        run.end(valued)
        return valued

    here = machine(position().num_processes)
    changed = ""
    if is_main_process():
        changed = _changes_here(run.starts, here)
    if changed:
        warn(f"{run.directory}: {changed}; the last bits may differ from those of the start before")
    run.begin(identity, overrides, machine=here, job=job.id, **facts)
    try:
        yield end
    except Exception as error:
        reached = position()
        is_lost = is_communication_error(error, reached.num_processes)
        if is_lost:
            _leave_lost(run, error, reached.num_processes, job)
        if is_main_process() or (reached.has_trained and not is_lost):
            failed = Result.failed(
                identity.objective,
                Failure.of(error),
                epochs=reached.epochs,
                num_steps=reached.num_steps,
                requeues=job.restarts,
            )
            try:
                if reached.has_trained or not run.restore_result():
                    end(failed)
            except (OSError, UserError) as second:
                warn(f"the failure can't be recorded: {second}")
        if not is_mistake(error):
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        if not message.startswith(f"{run.directory}:"):
            message = f"{run.directory} failed: {message}"
        raise UserError(message) from error
    except SystemExit as stop:
        _leave_stopped(run, stop.code, job)


def _leave_lost(run: Run, error: Exception, num_processes: int, job: ThisJob) -> None:
    """End a process whose connection to another one is broken; return if there is no other one.

    Raises:
        UserError: The other process has failed: its error is the run's.
        SystemExit: The job was requeued, or the other process has died; the run can be resumed.
    """
    are_several = num_processes > 1
    result = None
    if are_several:
        result = wait_for_result(run)
    if result and result.error:
        first = result.error
        raise UserError(
            f"{run.directory} failed in another process: {first.type}: {first.message}"
        ) from error
    if job.requeue(error):
        leave(Exit.REQUEUED, error)
    if are_several:
        why = "another process has died"
        if isinstance(error, LostError):
            why = str(error)
        if is_main_process():
            warn(f"{run.directory}: {why}; {_how_to_resume(run)}")
        leave(Exit.DIED, error)


def _how_to_resume(run: Run) -> str:
    """Return what the same command does with a run that was stopped."""
    saved = (run.directory / "checkpoints" / "last.ckpt").exists()
    effect = "starts over, nothing was saved yet"
    if saved:
        effect = "resumes the run"
    return f"{leyden_command('train')} {quoted_override('run_dir', run.directory)} {effect}"


def _leave_stopped(run: Run, code: Any, job: ThisJob) -> None:
    """Record the checkpoints of a stopped run, print the command that resumes it, and exit."""
    if is_main_process():
        try:
            run.stop()
        except (OSError, UserError) as error:
            warn(f"the checkpoints can't be recorded: {error}")
        print(f"Interrupted. {_how_to_resume(run)}.", file=sys.stderr)
    # For Ctrl-C Lightning exits with 1, for SIGTERM with 0.
    codes: dict[Any, int] = {None: Exit.TERMINATED, 0: Exit.TERMINATED, 1: Exit.INTERRUPTED}
    if job.id:
        codes[128 + getattr(signal, "SIGUSR1", 0)] = Exit.REQUEUED
    leave(codes.get(code, code))


def _changes_here(starts: Sequence[Mapping[str, Any]], here: Mapping[str, Any]) -> str:
    """Return what changes bits and is another than at the last start that recorded it, in words."""
    there: dict[str, Any] = {}
    for start in starts:
        for key in ("machine", "versions"):
            there |= dict_at(start, key)
    now = {**here, **installed_versions()}
    changed = []
    for name in ("cpu", "capability", "threads", "gpus", "torch", "lightning", "numpy"):
        if name in there and there[name] != now.get(name):
            changed.append(f"{name} {now.get(name)}, was {there[name]}")
    return ", ".join(changed)


def wait_for_result(run: Run) -> Result | None:
    """Return a run's result once another process of the run has recorded it.

    None after `PEER_S` seconds.
    """
    end = time.monotonic() + PEER_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError, UserError):  # it is damaged
            result = run.result
            if result is not None:
                return result
        time.sleep(0.1)
    return None
