"""The run directory: reading and writing its files, and deciding whether a start may resume the run in it.

The directory alone is enough to evaluate a run, to predict with it or to resume it. Each start, that is
each launch of the run, replaces `config.yaml` and the checkpoints, and appends an entry to `provenance.json`. Old
results are kept.
"""

import contextlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from leyden.config.errors import UserError
from leyden.config.paths import current_target
from leyden.config.terminal import some_of, warn
from leyden.config.values import is_plain
from leyden.run import lock
from leyden.run.charts import EVENT_FOLDERS
from leyden.run.code import changed_code, code_of
from leyden.run.files import damage, read_json, read_text, refuse_links, write_whole
from leyden.run.identity import RunIdentity
from leyden.run.process import is_main_process
from leyden.run.provenance import origin
from leyden.run.result import Result
from leyden.scheduler import SCHEDULERS

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's loader is ten times as fast
MAX_CONFIG_BYTES = 2**20
MAX_NAMES = 5  # of files in a message


class RunContents:
    """Read-only access to a run directory, whose contents are untrusted.

    Args:
        directory: Path of the run directory, absolute or relative to the working directory.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).absolute()

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration as plain values, with targets under the project package's current name.

        `make rename` may have renamed the package since the run was made.

        Raises:
            UserError: The directory is not a run directory.
        """
        config: dict[str, Any] = _with_current_targets(self.recorded)
        return config

    @property
    def recorded(self) -> dict[str, Any]:
        """The configuration exactly as recorded in `config.yaml`.

        Raises:
            UserError: The directory is not a run directory.
        """
        return self.parse_config(self.config_text)[0]

    @property
    def config_text(self) -> str:
        """The content of `config.yaml`.

        Raises:
            UserError: The directory is not a run directory.
        """
        try:
            return read_text(self.directory / "config.yaml", max_bytes=MAX_CONFIG_BYTES)
        except (OSError, ValueError) as error:
            raise self._unreadable_config(error) from error

    def parse_config(self, text: str) -> tuple[dict[str, Any], Any]:
        """Return the configuration in the content of `config.yaml`, and the YAML node that it was made from.

        Raises:
            UserError: The content is not the configuration of a run.
        """
        try:
            if re.search(r"(:\d{1,2}){20}", text):
                raise ValueError("it holds a number to base 60, which would take too long to parse")
            loader = LOADER(text)
            try:
                node: Any = loader.get_single_node()
                config: Any = None if node is None else loader.construct_document(node)
            finally:
                loader.dispose()
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            raise self._unreadable_config(error) from error
        is_config = isinstance(config, dict) and is_plain(config)
        if not is_config or not isinstance(config.get("name", ""), str):
            raise UserError(f"{self.directory}: not a run directory, config.yaml is not the configuration of a run")
        if not (name := config.get("name", "")).isprintable():  # it could forge lines in lists and terminals
            raise UserError(f"{self.directory}: not a run directory, its name in config.yaml is {name!r}")
        return config, node

    def _unreadable_config(self, error: Exception) -> UserError:
        why = " ".join(str(getattr(error, "strerror", None) or error).split())
        return UserError(f"{self.directory}: not a run directory, config.yaml can't be read ({why})")

    @property
    def result(self) -> Result | None:
        """The result in `result.json`; None if the run has not ended.

        Raises:
            UserError: `result.json` can't be read or is not a valid result.
        """
        path = self.directory / "result.json"
        content = read_json(path, None)
        try:
            return None if content is None else Result.from_json(content)
        except ValueError as error:
            raise UserError(f"{path}: {error}; remove it and run the same command again") from error

    @property
    def starts(self) -> list[dict[str, Any]]:
        """The provenance of each start, as returned by `origin`.

        Raises:
            UserError: `provenance.json` is damaged.
        """
        path = self.directory / "provenance.json"
        starts = read_json(path, [])
        if not isinstance(starts, list) or not all(
            isinstance(start, dict)
            and isinstance(start.get("overrides"), list)
            and all(isinstance(override, str) for override in start["overrides"])
            for start in starts
        ):
            raise UserError(f"{path}: is not a valid list of starts; remove it, and the run continues without it")
        return starts

    @property
    def overrides(self) -> list[str]:
        """The overrides of the first start."""
        starts = self.starts  # read once, since the file can vanish in between
        return list(starts[0]["overrides"]) if starts else []

    @property
    def changed_code(self) -> str:
        """The files that define the run's classes and have changed since its last start, as text; empty if none has."""
        names = changed_code(starts[-1].get("code")) if (starts := self.starts) else []
        return some_of(names, MAX_NAMES)

    def warn_of_changed_code(self, effect: str) -> None:
        """Warn in one line if files that define the run's classes have changed.

        Args:
            effect: The end of the sentence: what happens nevertheless.
        """
        if is_main_process() and (names := self.changed_code):
            warn(f"{self.directory}: {names} changed since the run was trained; {effect}")

    @property
    def submission(self) -> dict[str, str]:
        """Scheduler, job id and log path of a run that was submitted to a cluster; empty for other runs.

        Raises:
            UserError: `job.json` is damaged.
        """
        path = self.directory / "job.json"
        submission = read_json(path, {})
        if submission and not (
            isinstance(submission, dict)
            and submission.get("scheduler") in SCHEDULERS
            and {"job_id", "log"} <= {*submission}
        ):
            raise UserError(f"{path}: is not a valid job; remove it")
        return dict(submission)

    @submission.setter
    def submission(self, value: dict[str, str]) -> None:
        write_whole(self.directory / "job.json", json.dumps(value) + "\n")

    def checkpoint(self, name: str) -> Path:
        """Return the path of a checkpoint.

        Args:
            name: `best`, `last`, or the name of a kept checkpoint, such as `epoch_3`.

        Raises:
            UserError: The checkpoint is missing or damaged.
        """
        if not re.fullmatch("best|last|(epoch|step)_[0-9]+", name):
            raise UserError(f"checkpoint={name}: must be best, last, or a kept one, such as epoch_3")
        path = self.directory / "checkpoints" / f"{name}.ckpt"
        if self.config and (problem := damage(path)):
            available = ", ".join(sorted(other.stem for other in path.parent.glob("*.ckpt"))) or "none"
            raise UserError(f"{path}: {problem} (checkpoints there: {available})")
        return path

    def newest_checkpoint(self) -> Path | None:
        """Return the newest intact checkpoint, None if none was saved; warn about damaged ones.

        Raises:
            UserError: All saved checkpoints are damaged.
        """
        any_damaged = False
        for name in ("last", "best"):
            path = self.directory / "checkpoints" / f"{name}.ckpt"
            problem = damage(path)
            if not problem:
                return path
            if path.exists():
                any_damaged = True
                warn(f"{path} is damaged ({problem}): using the previous checkpoint")
        if any_damaged:
            raise UserError(f"{self.directory}: no intact checkpoint is left; choose another run_dir")
        return None


def _with_current_targets(node: Any) -> Any:
    """Return a configuration with each `_target_` under the project package's current name."""
    if isinstance(node, list):
        return [_with_current_targets(value) for value in node]
    if not isinstance(node, dict):
        return node
    return {
        key: current_target(value) if key == "_target_" and isinstance(value, str) else _with_current_targets(value)
        for key, value in node.items()
    }


class Run(RunContents):
    """A run directory that can be locked and written to.

    Args:
        directory: Path of the run directory, absolute or relative to the working directory.

    Example:
        >>> run = Run("outputs/mnist_mlp/2026-11-24_12-00-00_000000")
        >>> run.directory.name
        '2026-11-24_12-00-00_000000'
    """

    def __init__(self, directory: str | Path) -> None:
        super().__init__(directory)
        # Path of the archived result and content of the previous config.yaml, if the run already had a result.
        self._previous: tuple[Path, bytes] | None = None

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
            resume: `auto` resumes an existing run; `never` allows only a new directory, `must` only an existing
                run; `changed` resumes even if the code has changed.
            timeout_s: Seconds to wait while another process holds the lock; None to wait indefinitely.
            ended_job: Id of a cluster's job that has ended, so that its lock is free.

        Raises:
            UserError: The directory is refused; the message says why.
        """
        self.accept(identity, resume)
        # With several processes (DDP), only rank 0 locks and writes.
        if self.is_finished(identity) or not is_main_process():
            yield
            return
        with lock.acquire(self.directory, timeout_s, ended_job=ended_job):
            self.accept(identity, resume)  # again, since the previous holder may have changed it
            yield

    def accept(self, identity: RunIdentity, resume: str) -> None:
        """Check that the directory is empty or holds a run with this identity.

        Raises:
            UserError: The directory is refused; the message says why.
        """
        try:
            is_new = not lock.list_files(self.directory)
            refuse_links(self.directory, *(self.directory / name for name in ("checkpoints", *EVENT_FOLDERS)))
        except OSError as error:
            raise UserError(f"{self.directory}: can't be read ({error.strerror})") from error
        if is_new:
            if resume == "must":
                raise UserError(f"resume=must: nothing to resume in {self.directory}")
            return
        if resume == "never" and is_main_process():
            raise UserError(f"resume=never: {self.directory} already holds a run")
        overrides = [override for start in self.starts for override in start["overrides"]]
        deleted = {override[1:].partition("=")[0] for override in overrides if override.startswith("~")}
        if differences := identity.differences(self.config, deleted=deleted):
            advice = f"repeat that run's overrides: {shlex.join(self.overrides)}"
            if not self.overrides:
                advice = f"use that run's settings: {shlex.join(identity.corrections(self.config))}"
            raise UserError(
                f"{self.directory} holds a run with different settings: {'; '.join(differences)}\n"
                f"choose another run_dir, or {advice}"
            )
        may_change = "changed" in (resume, identity.config.get("resume"))  # a job's own lock asks for `auto`
        if may_change or self.is_finished(identity) or not any(self.directory.glob("checkpoints/*.ckpt")):
            return
        if names := self.changed_code:
            raise UserError(
                f"{self.directory}: {names} changed since the run's last start, so it would end as another run; undo the change, "
                "choose another run_dir, or resume with the new code by resume=changed"
            )

    def is_finished(self, identity: RunIdentity) -> bool:
        """Return whether the run is complete, and neither more epochs nor a first test evaluation is requested."""
        result = self.result
        if result is None or not result.is_complete:
            return False
        if identity.config.get("test") is True and not result.is_tested:
            return False
        return not identity.is_longer_than(self.config)

    def begin(
        self,
        identity: RunIdentity,
        overrides: list[str],
        parent: dict[str, Any] | None = None,
        machine: dict[str, Any] | None = None,
        data: dict[str, str] | None = None,
        step: int | None = None,
    ) -> None:
        """Record the configuration and the provenance of a start, the first or a later one.

        Args:
            identity: Identity of the run.
            overrides: Overrides on the command line.
            parent: Checkpoint that the weights come from, see `origin`.
            machine: Description of the machine, see `origin`.
            data: Hashes of the training data, see `origin`.
            step: Number of optimizer steps in the checkpoint that it resumes from, see `origin`.
        """
        if is_main_process():
            # Can raise, so it comes before any file is changed.
            starts = [*self.starts, origin(overrides, parent, machine, data, step, code_of(identity.config))]
            if (archived := self._archive_result()) is not None:
                self._previous = archived, (self.directory / "config.yaml").read_bytes()
            write_whole(self.directory / "config.yaml", yaml.safe_dump(identity.saved_config, sort_keys=False))
            write_whole(self.directory / "provenance.json", json.dumps(starts, indent=2) + "\n")

    def restore_result(self) -> bool:
        """Undo `begin` for a run that had a result: restore its previous result and configuration.

        Returns:
            Whether the run had a result.
        """
        if self._previous is None:
            return False
        archived, config = self._previous
        write_whole(self.directory / "config.yaml", config)
        archived.replace(self.directory / "result.json")
        return True

    def end(self, result: Result) -> None:
        """Write `result.json`, which marks the run as ended; only an error is recorded by any process, the first one."""
        if is_main_process() or (result.error and self.result is None):
            write_whole(self.directory / "result.json", result.to_json())

    def _archive_result(self) -> Path | None:
        """Rename the result of a run that is started again and return the new path; None if there is no result."""
        if self.result is None:
            return None
        archived = [path.stem.partition("_")[2] for path in self.directory.glob("result_*.json")]
        number = 1 + max((int(text) for text in archived if text.isdecimal()), default=0)
        return (self.directory / "result.json").rename(self.directory / f"result_{number}.json")


def trained_on(run: RunContents) -> dict[str, str]:
    """Return the hashes of the training data, by name, from the last start that recorded them; empty if none did.

    Raises:
        UserError: `provenance.json` is damaged.
    """
    return data_hashes(run.starts)


def data_hashes(starts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the hashes of the training data, by name, from the last of these starts that recorded them."""
    for start in reversed(starts):
        data = start.get("data")
        if isinstance(data, dict) and data and all(isinstance(digest, str) for digest in data.values()):
            return data
    return {}


def changed_names(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Return the names that have different hashes in both mappings.

    Example:
        >>> changed_names({"a.csv": "1", "b.csv": "1"}, {"a.csv": "2", "c.csv": "1"})
        ['a.csv']
    """
    return [name for name in there if name in here and here[name] != there[name]]


def check_resumable(run: RunContents, here: Mapping[str, str]) -> None:
    """Check that a run is resumed with the data that it was trained on.

    Raises:
        UserError: The data have changed; the message names the files.
    """
    if names := changed_names(trained_on(run), here):
        raise UserError(
            f"{run.directory}: the data differ from those that it was trained on: {', '.join(names)}; restore those "
            "data to resume it, or choose another run_dir"
        )
