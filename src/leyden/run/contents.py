"""What lies in a run directory, read: its configuration, its result, its starts, its checkpoints."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from leyden.config.mistakes import UserError
from leyden.config.paths import in_own_package
from leyden.config.terminal import warn
from leyden.config.values import is_plain
from leyden.run.files import damage, read_json, read_text, write_whole
from leyden.run.result import Result

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
        """Job id and log of a run that was submitted to a cluster; empty for one that was not.

        Raises:
            UserError: `slurm.json` is damaged.
        """
        path = self.directory / "slurm.json"
        submission = read_json(path, {})
        if submission and not (isinstance(submission, dict) and {"job_id", "log"} <= set(submission)):
            raise UserError(f"{path}: names no job; remove it")
        return dict(submission)

    @submission.setter
    def submission(self, value: dict[str, str]) -> None:
        write_whole(self.directory / "slurm.json", json.dumps(value) + "\n")

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
        key: in_own_package(value) if key == "_target_" and isinstance(value, str) else _with_names_of_today(value)
        for key, value in node.items()
    }
