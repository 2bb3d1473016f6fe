"""The run directory: its files, read and written; a start in it resumes the run or is refused.

It alone is enough to evaluate a run, to predict with it or to resume it. A later start replaces `config.yaml` (more
epochs), checkpoints, and adds itself to `provenance.json`; a result is kept.
"""

import contextlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from leyden.config.errors import UserError
from leyden.config.paths import current_target
from leyden.config.terminal import warn
from leyden.config.values import is_plain
from leyden.run import lock
from leyden.run.files import damage, read_json, read_text, refuse_links, write_whole
from leyden.run.identity import RunIdentity
from leyden.run.process import is_main_process
from leyden.run.provenance import origin
from leyden.run.result import Result
from leyden.scheduler import SCHEDULERS

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast
MAX_CONFIG_BYTES = 2**20


class RunContents:
    """The contents of a run directory, which anybody may have made.

    Args:
        directory: Its path; relative to the working directory.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).absolute()

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration as plain values, with the names of today: `make rename` may have renamed the owner's package.

        Raises:
            UserError: The directory is not that of a run.
        """
        config: dict[str, Any] = _with_names_of_today(self.recorded)
        return config

    @property
    def recorded(self) -> dict[str, Any]:
        """The same as it was kept.

        Raises:
            UserError: As above.
        """
        try:
            text = read_text(self.directory / "config.yaml", max_bytes=MAX_CONFIG_BYTES)
            if re.search(r"(:\d{1,2}){20}", text):
                raise ValueError("it holds a number to the base of 60, which would take for ever")
            config: dict[str, Any] = yaml.load(text, LOADER)
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            why = " ".join(str(getattr(error, "strerror", None) or error).split())
            raise UserError(f"{self.directory}: not a run directory, config.yaml can't be read ({why})") from error
        is_config = isinstance(config, dict) and is_plain(config)
        if not is_config or not isinstance(config.get("name", ""), str):
            raise UserError(f"{self.directory}: not a run directory, config.yaml holds no configuration of a run")
        if not (name := config.get("name", "")).isprintable():  # it would forge lines of lists and terminals
            raise UserError(f"{self.directory}: not a run directory, its name in config.yaml is {name!r}")
        return config

    @property
    def result(self) -> Result | None:
        """What `result.json` holds; None for a run that has not ended.

        Raises:
            UserError: It can't be read, or is none.
        """
        path = self.directory / "result.json"
        content = read_json(path, None)
        try:
            return None if content is None else Result.from_json(content)
        except ValueError as error:
            raise UserError(f"{path}: {error}; remove it, and the same command makes it anew") from error

    @property
    def starts(self) -> list[dict[str, Any]]:
        """Where each start came from, as `origin` tells it.

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
            raise UserError(f"{path}: tells no starts of a run; remove it, and the run goes on without")
        return starts

    @property
    def overrides(self) -> list[str]:
        """What the user had typed at the first start."""
        starts = self.starts  # read once: it can vanish meanwhile
        return list(starts[0]["overrides"]) if starts else []

    @property
    def submission(self) -> dict[str, str]:
        """Scheduler, job id and log of a run that was submitted to a cluster; empty for one that was not.

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
            raise UserError(f"{path}: names no job; remove it")
        return dict(submission)

    @submission.setter
    def submission(self, value: dict[str, str]) -> None:
        write_whole(self.directory / "job.json", json.dumps(value) + "\n")

    def checkpoint(self, name: str) -> Path:
        """Path of the checkpoint `name`: `best`, `last`, or one that is kept.

        Raises:
            UserError: There is none, or it is damaged.
        """
        if not re.fullmatch("best|last|(epoch|step)_[0-9]+", name):
            raise UserError(f"checkpoint={name}: must be best, last, or one that is kept, as epoch_3")
        path = self.directory / "checkpoints" / f"{name}.ckpt"
        if self.config and (problem := damage(path)):
            there = ", ".join(sorted(other.stem for other in path.parent.glob("*.ckpt"))) or "none"
            raise UserError(f"{path}: {problem} (checkpoints there: {there})")
        return path

    def newest_checkpoint(self) -> Path | None:
        """The newest checkpoint that is whole, None if none was saved; a damaged one is named on stderr.

        Raises:
            UserError: All that there are are damaged.
        """
        damaged = False
        for name in ("last", "best"):
            path = self.directory / "checkpoints" / f"{name}.ckpt"
            problem = damage(path)
            if not problem:
                return path
            if path.exists():
                damaged = True
                warn(f"{path} is damaged ({problem}): the one before it is taken")
        if damaged:
            raise UserError(f"{self.directory}: no good checkpoint is left; choose another run_dir")
        return None


def _with_names_of_today(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_names_of_today(value) for value in node]
    if not isinstance(node, dict):
        return node
    return {
        key: current_target(value) if key == "_target_" and isinstance(value, str) else _with_names_of_today(value)
        for key, value in node.items()
    }


class Run(RunContents):
    """A run directory.

    Args:
        directory: Its path; relative to the working directory.

    Example:
        >>> run = Run("outputs/mnist_mlp/2026-11-24_12-00-00_000000")
        >>> run.directory.name
        '2026-11-24_12-00-00_000000'
    """

    def __init__(self, directory: str | Path) -> None:
        super().__init__(directory)
        self._before: tuple[Path, bytes] | None = (
            None  # result and configuration of a run that has been begun again
        )

    @contextlib.contextmanager
    def locked(
        self, choices: RunIdentity, *, resume: str, timeout_s: float = lock.LOCK_TIMEOUT_S
    ) -> Iterator[None]:
        """Hold the directory for a run of these choices, new or continued.

        A directory that is refused is left as it was, and so is one for which `begin` was not called.

        Args:
            choices: Of the run.
            resume: `auto` continues what is there; `never` takes a new directory only; `must` an old one only.
            timeout_s: How long to wait while another process holds it; negative: for ever.

        Raises:
            UserError: The directory is refused; the message says why.
        """
        self.accept(choices, resume)
        # Of several processes (DDP) the first one alone locks and writes.
        if self.is_finished(choices) or not is_main_process():
            yield
            return
        with lock.acquire(self.directory, timeout_s):
            self.accept(choices, resume)  # again: the holder before us may have changed it
            yield

    def accept(self, choices: RunIdentity, resume: str) -> None:
        """Make sure that the directory is free for these choices, or holds a run of them.

        Raises:
            UserError: It is not; the message says why.
        """
        try:
            is_new = not lock.content(self.directory)
            refuse_links(self.directory, self.directory / "checkpoints")
        except OSError as error:
            raise UserError(f"{self.directory}: can't be read ({error.strerror})") from error
        if is_new:
            if resume == "must":
                raise UserError(f"resume=must: nothing to resume in {self.directory}")
            return
        if resume == "never" and is_main_process():
            raise UserError(f"resume=never: {self.directory} already holds a run")
        typed = [override for start in self.starts for override in start["overrides"]]
        deleted = {override[1:].partition("=")[0] for override in typed if override.startswith("~")}
        if differences := choices.differences(self.config, deleted=deleted):
            told = f"repeat what that run was started with: {shlex.join(self.overrides)}"
            if not self.overrides:
                told = f"type what that run has: {shlex.join(choices.corrections(self.config))}"
            raise UserError(
                f"{self.directory} holds a run with other choices: {'; '.join(differences)}\n"
                f"choose another run_dir, or {told}"
            )

    def is_finished(self, choices: RunIdentity) -> bool:
        """Whether it has ended well, and no more is asked for: no more epochs, and no first test."""
        result = self.result
        if result is None or not result.has_ended_well:
            return False
        if choices.config.get("test") is True and not result.is_tested:
            return False
        return not choices.is_longer_than(self.config)

    def begin(
        self,
        choices: RunIdentity,
        overrides: list[str],
        parent: dict[str, Any] | None = None,
        machine: dict[str, Any] | None = None,
        data: dict[str, str] | None = None,
    ) -> None:
        """Write down what this run is, and that it starts or goes on now.

        Args:
            choices: Of the run.
            overrides: What the user has typed.
            parent: As `origin` has it.
            machine: As `origin` has it.
            data: As `origin` has it.
        """
        if is_main_process():
            starts = [
                *self.starts,
                origin(overrides, parent, machine, data),
            ]  # what can be refused is, before anything changes
            if (archived := self._archive_result()) is not None:
                self._before = archived, (self.directory / "config.yaml").read_bytes()
            write_whole(self.directory / "config.yaml", yaml.safe_dump(choices.kept, sort_keys=False))
            write_whole(self.directory / "provenance.json", json.dumps(starts, indent=2) + "\n")

    def take_back(self) -> bool:
        """Undo `begin` for a run that had a result and could not go on: the result and the configuration of before.

        Returns:
            Whether there was one.
        """
        if self._before is None:
            return False
        archived, config = self._before
        write_whole(self.directory / "config.yaml", config)
        archived.replace(self.directory / "result.json")
        return True

    def end(self, result: Result) -> None:
        """Write `result.json`: the run has ended."""
        if is_main_process():
            write_whole(self.directory / "result.json", result.to_json())

    def _archive_result(self) -> Path | None:
        """A run that goes on after its end keeps the old result under another name, which is returned."""
        if self.result is None:
            return None
        kept = [path.stem.partition("_")[2] for path in self.directory.glob("result_*.json")]
        number = 1 + max((int(text) for text in kept if text.isdecimal()), default=0)
        return (self.directory / "result.json").rename(self.directory / f"result_{number}.json")


def trained_on(run: RunContents) -> dict[str, str]:
    """Return what the run's last start recorded; empty where no start did, as of data that nothing identifies.

    Raises:
        UserError: `provenance.json` is damaged.
    """
    for start in reversed(run.starts):
        data = start.get("data")
        if isinstance(data, dict) and data and all(isinstance(digest, str) for digest in data.values()):
            return data
    return {}


def changed(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Return the names that are not the same in both; of data that one does not know, nothing is said.

    Example:
        >>> changed({"a.csv": "1", "b.csv": "1"}, {"a.csv": "2", "c.csv": "1"})
        ['a.csv']
    """
    return [name for name in there if name in here and here[name] != there[name]]


def check_resumable(run: RunContents, here: Mapping[str, str]) -> None:
    """Make sure that a run is resumed on the data that it was trained on.

    Raises:
        UserError: They have changed; it names them.
    """
    if names := changed(trained_on(run), here):
        raise UserError(
            f"{run.directory}: the data differ from those that it was trained on: {', '.join(names)}; put the former "
            "data back to resume it, or choose another run_dir"
        )
