"""The run directory: continued or refused, begun, ended.

It alone is enough to evaluate a run, to predict with it or to go on with it. What comes later takes the place of what was
there in `config.yaml` (more epochs), `provenance.json` (one start more) and checkpoints; a result is kept.
"""

import contextlib
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from leyden.config.mistakes import UserError
from leyden.run import lock
from leyden.run.choices import Choices
from leyden.run.contents import RunContents
from leyden.run.files import refuse_links, write_whole
from leyden.run.origin import origin
from leyden.run.process import is_main_process
from leyden.run.result import Result


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
    def locked(self, choices: Choices, *, resume: str, timeout_s: float = lock.LOCK_TIMEOUT_S) -> Iterator[None]:
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
        with lock.hold(self.directory, timeout_s):
            self.accept(choices, resume)  # again: the holder before us may have changed it
            yield

    def accept(self, choices: Choices, resume: str) -> None:
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

    def is_finished(self, choices: Choices) -> bool:
        """Whether it has ended well, and no more is asked for: no more epochs, and no first test."""
        result = self.result
        if result is None or not result.has_ended_well:
            return False
        if choices.config.get("test") is True and not result.is_tested:
            return False
        return not choices.is_longer_than(self.config)

    def begin(
        self,
        choices: Choices,
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
