"""The run directory: open it, continue or refuse, lock, end.

It alone is enough to evaluate a run, to predict with it or to go on with it; nothing in it is ever overwritten but
checkpoints by later ones.
"""

import contextlib
import json
import os
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import yaml

from leyden.cluster.slurm import num_requeues
from leyden.config import UserError, objectives
from leyden.plain import flatten, is_plain
from leyden.provenance import provenance

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast
# Keys that steer a start of the program and are no part of what a run is.
LOCK_TIMEOUT_S = 2.0  # long enough for who only looks whether it is held
PLACE = ("data.root", "data.download")  # may differ from start to start
CONTROL = ("run_dir", "sweep_name", "outputs", "resume", "test", "dry_run", "cluster")


class Run:
    """A run directory.

    Args:
        directory: Its path; relative to the working directory.

    Example:
        >>> run = Run("outputs/mnist_mlp/2026-11-24_12-00-00_000000")
        >>> run.directory.name
        '2026-11-24_12-00-00_000000'
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).absolute()

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration as plain values.

        Raises:
            UserError: The directory is not that of a run.
        """
        try:
            config = yaml.load((self.directory / "config.yaml").read_text(), LOADER)
            is_config = isinstance(config, dict) and is_plain(config)
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise UserError(
                f"{self.directory}: not a run directory, config.yaml can't be read ({error})"
            ) from error
        if not is_config:
            raise UserError(f"{self.directory}: not a run directory, config.yaml holds no configuration")
        return dict(config)

    @property
    def result(self) -> dict[str, Any] | None:
        """What `result.json` holds; None for a run that has not ended."""
        result: dict[str, Any] | None = read_json(self.directory / "result.json", None)
        return result

    def checkpoint(self, name: str) -> Path:
        """Path of the checkpoint `name`, `best` or `last`.

        Raises:
            UserError: There is none, or it is damaged.
        """
        path = self.directory / "checkpoints" / f"{name}.ckpt"
        if self.config and (problem := _damage(path)):
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
            problem = _damage(path)
            if not problem:
                return path
            if path.exists():
                damaged = True
                print(f"leyden: {path} is damaged ({problem}): the one before it is taken", file=sys.stderr)
        if damaged:
            raise UserError(f"{self.directory}: no good checkpoint is left; choose another run_dir")
        return None

    @contextlib.contextmanager
    def locked(self, config: dict[str, Any], *, resume: str, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """Hold the directory for a run with this configuration, new or continued.

        A directory that is refused is left as it was, and so is one for which `begin` was not called.

        Args:
            config: The resolved configuration.
            resume: `auto` continues what is there; `never` takes a new directory only; `must` an old one only.
            timeout_s: How long to wait while another process holds it; negative: for ever.

        Raises:
            UserError: The directory is refused; the message says why.
        """
        self.accept(config, resume)
        # Of several processes (DDP) the first one alone locks and writes.
        if self.is_finished(config) or not is_main_process():
            yield
            return
        lock = filelock.FileLock(self.directory / ".lock")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=timeout_s)
        except filelock.Timeout:
            raise UserError(f"{self.directory}: in use by {self._holder()}") from None
        except OSError as error:
            raise UserError(f"{self.directory}: can't be written to ({error.strerror})") from error
        try:
            self.accept(config, resume)  # again: the holder before us may have changed it
            yield
        finally:
            if self._content() == set():
                (self.directory / ".lock").unlink()
                with contextlib.suppress(OSError):
                    self.directory.rmdir()
            lock.release()

    def begin(self, config: dict[str, Any], overrides: list[str]) -> None:
        """Write down what this run is, and that it starts or goes on now, by what the user has typed."""
        if is_main_process():
            self._archive_result()
            config = {key: value for key, value in config.items() if key not in CONTROL}
            write_whole(self.directory / "config.yaml", yaml.safe_dump(config, sort_keys=False))
            starts = [*self.starts, provenance(overrides)]
            write_whole(self.directory / "provenance.json", json.dumps(starts, indent=2) + "\n")

    def is_finished(self, config: dict[str, Any]) -> bool:
        """Whether it has ended well, or was pruned, and no more epochs are asked for."""
        result = self.result
        if result is None or result["status"] == "failed":
            return False
        return bool(self.config["trainer"]["max_epochs"] >= config["trainer"]["max_epochs"])

    def end(self, result: dict[str, Any]) -> None:
        """Write `result.json`: the run has ended."""
        if is_main_process():
            write_whole(self.directory / "result.json", json.dumps(result, indent=2) + "\n")

    def fail(self, config: dict[str, Any], kind: str, message: str, *, epochs: int = 0, num_steps: int = 0) -> None:
        """Write the result of a run that ended by an error of this kind."""
        self.end(
            {
                "status": "failed",
                "objective": with_values(config["objective"], {}),
                "metrics": {},
                "epochs": epochs,
                "optimizer_steps": num_steps,
                "seconds": None,
                "samples_per_second": None,
                "checkpoint": None,
                "requeues": num_requeues(),
                "error": {"type": kind, "message": message},
            }
        )

    @property
    def submission(self) -> dict[str, str]:
        """Job id and log of a run that was submitted to a cluster; empty for one that was not."""
        submission: dict[str, str] = read_json(self.directory / "slurm.json", {})
        return submission

    @submission.setter
    def submission(self, value: dict[str, str]) -> None:
        write_whole(self.directory / "slurm.json", json.dumps(value) + "\n")

    @property
    def starts(self) -> list[dict[str, Any]]:
        """Provenance of each start."""
        starts: list[dict[str, Any]] = read_json(self.directory / "provenance.json", [])
        return starts

    @property
    def overrides(self) -> list[str]:
        """What the user had typed at the first start."""
        return list(self.starts[0]["overrides"]) if self.starts else []

    @property
    def is_locked(self) -> bool:
        """Whether a process works on it."""
        lock = filelock.FileLock(self.directory / ".lock")
        if not (self.directory / ".lock").exists():
            return False
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return True
        lock.release()
        return False

    def _content(self) -> set[str]:
        """Names of the files but the lock and what a process that was killed had not finished writing."""
        names = {path.name for path in self.directory.iterdir()} if self.directory.is_dir() else set()
        return {name for name in names if name != ".lock" and not name.endswith(".tmp")}

    def accept(self, config: dict[str, Any], resume: str) -> None:
        """Make sure that the directory is free for this configuration, or holds a run of it.

        Raises:
            UserError: It is not; the message says why.
        """
        if not self._content():
            if resume == "must":
                raise UserError(f"resume=must: nothing to resume in {self.directory}")
            return
        if resume == "never" and is_main_process():
            raise UserError(f"resume=never: {self.directory} already holds a run")
        differences = []
        flat_there, flat_here = dict(flatten(self.config)), dict(flatten(config))
        flat_here = {key: value for key, value in flat_here.items() if key.split(".")[0] not in CONTROL}
        for key in [*flat_there, *(key for key in flat_here if key not in flat_there)]:
            old, new = flat_there.get(key, "absent"), flat_here.get(key, "absent")
            # A schedule of the learning rate ends with the run that it was made for.
            may_grow = key == "trainer.max_epochs" and not config.get("scheduler")
            longer = may_grow and isinstance(old, int) and new > old
            if old != new and not longer and key not in PLACE:
                differences.append(f"{key}: {old} there, {new} here")
        if differences:
            typed = " ".join(self.overrides) or "nothing"
            raise UserError(
                f"{self.directory} holds a run with other choices: {'; '.join(differences)}\n"
                f"choose another run_dir, or repeat what that run was started with: {typed}"
            )

    def _archive_result(self) -> None:
        """A run that goes on after its end keeps the old result under another name."""
        if self.result is not None:
            number = 1 + len(list(self.directory.glob("result_*.json")))
            (self.directory / "result.json").rename(self.directory / f"result_{number}.json")

    def _holder(self) -> str:
        last = (self.starts or [{}])[-1]
        return f"process {last.get('pid', '?')} on {last.get('host', '?')}, started {last.get('time', '?')}"


def with_values(objective: Any, metrics: dict[str, Any]) -> Any:
    """An objective (or several, or none) with what was reached; None where there is no such metric."""
    valued = [{**each, "value": metrics.get(each["metric"])} for each in objectives(objective)]
    return valued if len(valued) > 1 else valued[0] if valued else None


def is_main_process() -> bool:
    """Whether this is the first of the processes of a run, by the variables that launchers set."""
    # In this order, as Lightning: what it starts itself inside of a Slurm job inherits the job's SLURM_PROCID.
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return int(next((rank for rank in ranks if rank), "0")) == 0


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint file, a zip archive with checksums; None for nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            corrupt = archive.testzip()
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, EOFError) as error:
        return getattr(error, "strerror", None) or str(error)
    return f"{corrupt} is corrupt" if corrupt else None


def read_json(path: Path, missing: Any) -> Any:
    """The content of a file, or what stands for one that is not there.

    Raises:
        UserError: It is damaged.
    """
    try:
        return json.loads(path.read_text()) if path.exists() else missing
    except ValueError as error:
        raise UserError(f"{path}: can't be read ({error})") from error


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
