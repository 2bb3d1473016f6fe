"""Lightning loggers that write to the run directory, and continue there when the run resumes.

A logger is any of Lightning's, with a YAML in `conf/logger/`. It is created with `save_dir`, the
run directory. These are optional:

- `purge_step: ???` in the YAML: it is created with the step that the run resumes from, and drops
later points. - `sizes()`: a plain value that each checkpoint keeps, such as the sizes of its files.
A run that resumes sets it as `kept`. - `needs`: the package that must be installed, checked before
training. - `attach_trainer(trainer)`: called once, for loggers that need the trainer's state. -
`log_image(key, images, step)`: it receives the run's pictures. - `close()`: called after the run.
"""

import contextlib
import hashlib
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from torch.utils.tensorboard import SummaryWriter

from leyden.base.errors import UserError
from leyden.base.metric_names import STAGES, chart_tag
from leyden.base.terminal import warn
from leyden.exact.files import opened, read_bounded
from leyden.run.curves import HEADER, has_header, read_points, write_points
from leyden.run.files import MAX_TABLE_BYTES, csv_lines, write_whole
from leyden.run.lock import check_held
from leyden.tasks import evaluated_stage

__all__ = ["MetricsCSV", "TensorBoard", "Wandb"]

MAX_EVENT_BYTES = 2**32  # of a file of events


def truncate_events(directory: Path, sizes: dict[str, int]) -> None:
    """Remove what was logged after a checkpoint from the event files.

    TensorBoard itself can hide some kinds of such events, but it orders files by the times in their
    names: after a change of the clock, it would hide the wrong events.

    Args:
        directory: Folder of the event files.
        sizes: Sizes of the files at the checkpoint, by name: whoever logs chooses a step of their
            own.
    """
    for path in _event_files(directory):
        size = sizes.get(path.name, 0)
        if size == 0:
            path.unlink()
        elif path.stat().st_size > size:
            write_whole(path, read_bounded(path, MAX_EVENT_BYTES)[:size])


def last_step(directory: Path) -> int:
    """Return the last step in the event files of a folder; -1 without any."""
    steps = [-1]
    for path in _event_files(directory):
        for event in _events(read_bounded(path, MAX_EVENT_BYTES)):
            if event.HasField("summary"):
                steps.append(event.step)
    return max(steps)


def _event_files(directory: Path) -> list[Path]:
    """Return TensorBoard's files in a folder, without links."""
    found = sorted(directory.glob("events.out.tfevents.*"))
    return [path for path in found if path.is_file() and not path.is_symlink()]


def _events(content: bytes) -> Iterator[Event]:
    """Yield the whole events of a file.

    Each record has a length, its checksum, an event, and its checksum.
    """
    start = 0
    while start + 12 <= len(content):
        length = content[start : start + 8]
        begin = start + 12
        end = begin + struct.unpack("<Q", length)[0]
        if end + 4 > len(content) or content[start + 8 : begin] != _checksum(length):
            return
        event = content[begin:end]
        if content[end : end + 4] == _checksum(event):
            with contextlib.suppress(Exception):  # protobuf raises many types for invalid data
                yield Event.FromString(event)
        start = end + 4


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(data))


class TensorBoard(TensorBoardLogger):
    """Writes event files, a folder per stage of the run, and continues when the run resumes.

    TensorBoard draws the curves of several folders in one chart, in different colours.

    Args:
        save_dir: The run directory.
        purge_step: The step from which the run resumes; 0 for a new run.
    """

    def __init__(self, *, save_dir: str, purge_step: int) -> None:
        super().__init__(save_dir, name="", version="", default_hp_metric=False)
        self.purge_step = purge_step
        # Sizes of the files at the checkpoint, by stage; None if it has none of this logger's.
        self.kept: dict[str, dict[str, int]] | None = None
        self._trainer: L.Trainer | None = None
        self._first_steps: dict[str, int] = {}  # of this start, by stage
        self._writers: dict[str, SummaryWriter] = {}  # by stage
        self._names: dict[tuple[str, str], str] = {}  # metric names by stage and tag

    def attach_trainer(self, trainer: L.Trainer) -> None:
        """Take the stage of what is logged from this trainer."""
        self._trainer = trainer

    @property
    def stage(self) -> str:
        """The stage of the trainer: `val`, or what is evaluated at the end, otherwise `train`."""
        if self._trainer is None or not (self._trainer.validating or self._trainer.testing):
            return "train"
        if self._trainer.validating:
            return "val"
        return evaluated_stage(self._trainer)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """TensorBoard's writer of the current stage.

        The first access truncates all existing files.
        """
        self._truncate()
        stage = self.stage
        if stage not in self._writers:
            # A resumed run's step makes a TensorBoard that is already open drop the events that it
            # has read from there on.
            directory = str(Path(self.log_dir) / stage)
            step = self._first_steps[stage] or None
            self._writers[stage] = SummaryWriter(directory, purge_step=step)
        return self._writers[stage]

    def _truncate(self) -> None:
        """Remove what was logged after the checkpoint, once."""
        directory = Path(self.log_dir)
        check_held(directory)
        self._check_folders()
        if self._first_steps:
            return
        threading.excepthook = _ignore_event_writers
        is_kept = self.purge_step > 0 and self.kept is None  # an earlier start has logged there
        for stage in STAGES:
            folder = directory / stage
            if not is_kept:
                truncate_events(folder, (self.kept or {}).get(stage, {}))
            self._first_steps[stage] = max(self.purge_step, last_step(folder) + 1)

    def sizes(self) -> dict[str, dict[str, int]]:
        """Return the sizes of the event files, by stage and name."""
        self._truncate()
        self.save()
        sizes = {}
        for stage in STAGES:
            files = (Path(self.log_dir) / stage).glob("events.out.tfevents.*")
            sizes[stage] = {path.name: path.stat().st_size for path in files}
        return sizes

    def _check_folders(self) -> None:
        """Check that TensorBoard would write to no place outside.

        Raises:
            UserError: Something else is in the place of a stage's folder.
        """
        for stage in STAGES:
            folder = Path(self.log_dir, stage)
            if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
                raise UserError(
                    f"{folder}: must be a folder, and no link; move away what has this name"
                )

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Log the metrics by `chart_tag`, without the epoch number that Lightning adds.

        Raises:
            OSError: The writer's file can't be made, for example on a full disk.
        """
        values = {self._tag(name): value for name, value in metrics.items() if name != "epoch"}
        try:
            super().log_metrics(values, step)
        except ValueError as error:  # Lightning blames the value, whatever has failed
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            raise

    def _tag(self, name: str) -> str:
        """Return a metric's tag: its name, if another metric of the stage has the tag.

        Such as `val_acc` of `val/acc`.
        """
        tag = chart_tag(name)
        first = self._names.setdefault((self.stage, tag), name)
        if first == name:
            return tag
        return name

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing; `report/hparams.py` writes them with the results when the run ends."""

    @rank_zero_only
    def save(self) -> None:
        """Flush the writers; unlike Lightning's method, don't write an empty `hparams.yaml`."""
        check_held(Path(self.log_dir))
        self._check_folders()
        for writer in self._writers.values():
            writer.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write all events to their files, and close these."""
        for writer in self._writers.values():
            writer.flush()
            writer.close()


def _ignore_event_writers(args: threading.ExceptHookArgs) -> None:
    """Report exceptions of threads, but of event writers, which raise theirs at the next event."""
    if type(args.thread).__module__ != EventFileWriter.__module__:
        threading.__excepthook__(args)


class MetricsCSV(Logger):
    """Appends a line `step,metric,value` for each logged value; the step counts optimizer steps.

    When a run resumes, the lines after its checkpoint are deleted, so that no point is duplicated.

    Args:
        save_dir: The run directory.
        purge_step: The step from which the run resumes; 0 for a new run.
    """

    def __init__(self, *, save_dir: str, purge_step: int) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.purge_step = purge_step
        self.kept: int | None = None  # size of the file at the checkpoint
        self._started = False

    @property
    def experiment(self) -> Any:
        """Dummy that ignores what modules add to a logger's experiment, such as images."""
        return DummyLogger().experiment

    @property
    def name(self) -> str:
        """Empty name, since the file is in the run directory itself."""
        return ""

    @property
    def version(self) -> str:
        """Empty version, since the file is in the run directory itself."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing; the configuration is saved beside the file."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append the values."""
        if not self._started:
            self._start()
        rows: list[list[object]] = []
        for name, value in metrics.items():
            if name != "epoch":
                rows.append([step, name, value])
        with opened(self.path, "ab") as file:
            # Checked while the file is open, so that it stays this run's file.
            check_held(self.path.parent)
            if file.tell() == 0:  # the file was deleted
                rows.insert(0, [*HEADER])
            file.write(csv_lines(rows).encode())

    @rank_zero_only
    def save(self) -> None:
        """Write the file's beginning; Lightning calls this before the first batch, too."""
        if not self._started:
            self._start()

    def _start(self) -> None:
        """Write the header and the lines to keep.

        Of a file that has lost them, this is announced.
        """
        self._started = True
        check_held(self.path.parent)
        is_table = has_header(self.path)
        if self.kept is not None and is_table:
            content = read_bounded(self.path, MAX_TABLE_BYTES)
            if len(content) < self.kept:
                warn(
                    f"{self.path}: is shorter than at the checkpoint, so rows of its curves are "
                    "missing"
                )
            write_whole(self.path, content[: self.kept])
            return
        kept = [point for point in read_points(self.path) if point[0] < self.purge_step]
        if self.purge_step and not kept and not is_table:
            warn(
                f"{self.path}: is missing or damaged, so the curves begin at step {self.purge_step}"
            )
        write_points(self.path, kept)

    def sizes(self) -> int:
        """Return the size of the file."""
        if not self._started:
            self._start()
        if self.path.exists():
            return self.path.stat().st_size
        return 0


class Wandb(WandbLogger):
    """Logs to a Weights & Biases run whose ID is derived from the path of the run directory.

    A resumed run continues in it, and logs the points after its checkpoint again.

    Args:
        save_dir: The run directory, which contains the files to upload.
        project: The project in Weights & Biases.
        offline: Whether to upload nothing; `wandb sync` uploads later.
    """

    needs = "wandb"

    def __init__(self, *, save_dir: str, project: str, offline: bool) -> None:
        import wandb

        # Checked here, before training starts.
        is_online = not offline and os.environ.get("WANDB_MODE", "online") == "online"
        if is_online and not wandb.login(prompt=False):
            raise ValueError("not logged in; run `wandb login`, or set logger.wandb.offline=true")
        identity = hashlib.sha256(save_dir.encode()).hexdigest()[:12]
        super().__init__(
            name=Path(save_dir).name,
            save_dir=save_dir,
            version=identity,
            project=project,
            offline=offline,
        )

    def close(self) -> None:
        """Finish the W&B run in this process.

        Otherwise the next run would continue in it, and unsaved data would be lost.
        """
        import wandb

        run = wandb.run  # the one of this process; `self.experiment` would create one
        if run is not None and run.id == self.version:
            run.finish()
