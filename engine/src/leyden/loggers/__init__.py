"""Lightning loggers that write to the run directory, and continue there when the run resumes.

A logger is any of Lightning's, with a YAML in `conf/logger/`. It is created with `save_dir`, the run directory. These
are optional:

- `purge_step: ???` in the YAML: it is created with the step that the run resumes from, and drops later points.
- `sizes()`: a plain value that each checkpoint keeps, such as the sizes of its files. A run that resumes sets it as `kept`.
- `needs`: the package that must be installed, checked before training.
- `attach_trainer(trainer)`: called once, for loggers that need the trainer's state.
- `log_image(key, images, step)`: it receives the run's pictures.
- `close()`: called after the run.
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


def truncate_events(directory: Path, step: int, sizes: dict[str, int] | None = None) -> int:
    """Remove what was logged after a checkpoint from the event files, and return the last step that is left, or -1.

    TensorBoard itself can hide some kinds of such events, but it orders files by the times in their names: after a
    change of the clock, it would hide the wrong events.

    Args:
        directory: Folder of the event files.
        step: Without sizes, the events from this step on are removed, and incomplete records of a killed run.
        sizes: Sizes of the files at the checkpoint, by name: whoever logs chooses a step of their own.
    """
    paths = _event_files(directory)
    if sizes is None:
        _truncate_by_step(paths, step)
    else:
        for path in paths:
            size = sizes.get(path.name, 0)
            if size == 0:
                path.unlink()
            elif path.stat().st_size > size:
                write_whole(path, read_bounded(path, MAX_EVENT_BYTES)[:size])
    steps = [-1]
    for path in _event_files(directory):
        content = read_bounded(path, MAX_EVENT_BYTES)
        steps += [event.step for _, event in _records(content) if event.HasField("summary")]
    return max(steps)


def _event_files(directory: Path) -> list[Path]:
    """Return TensorBoard's files in a folder, without links."""
    found = sorted(directory.glob("events.out.tfevents.*"))
    return [path for path in found if path.is_file() and not path.is_symlink()]


def _truncate_by_step(paths: list[Path], step: int) -> None:
    """Truncate files of a run whose checkpoints know no sizes."""
    contents = [read_bounded(path, MAX_EVENT_BYTES) for path in paths]
    records_by_file = [list(_records(content)) for content in contents]
    # Each start records the step from which it resumed; the files of earlier starts are truncated there.
    limits = [step]
    for records in reversed(records_by_file[1:]):
        starts = [event.step for _, event in records if event.HasField("session_log")]
        limits.insert(0, min([limits[0], *starts]))
    for path, content, records, limit in zip(
        paths, contents, records_by_file, limits, strict=False
    ):
        kept = b"".join(record for record, event in records if _is_kept(event, limit))
        if kept != content:
            write_whole(path, kept)


def _records(content: bytes) -> Iterator[tuple[bytes, Event]]:
    """Yield the complete records of a file: length, its checksum, event, and its checksum."""
    offset = 0
    while offset + 12 <= len(content):
        length, length_checksum = content[offset : offset + 8], content[offset + 8 : offset + 12]
        end = offset + 12 + struct.unpack("<Q", length)[0] + 4
        if end > len(content) or length_checksum != _checksum(length):
            return
        record = content[offset:end]
        if record[-4:] == _checksum(record[12:-4]):
            with contextlib.suppress(Exception):  # protobuf raises many types for invalid data
                yield record, Event.FromString(record[12:-4])
        offset = end


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(data))


def _is_kept(event: Event, step: int) -> bool:
    """Return whether to keep an event; markers of earlier starts are dropped, as their deletions are done."""
    return event.HasField("file_version") or (
        event.step < step and not event.HasField("session_log")
    )


class TensorBoard(TensorBoardLogger):
    """Writes event files into a folder for each stage of the run, and continues there when the run resumes.

    TensorBoard draws the curves of several folders in one chart, in different colours.

    Args:
        save_dir: The run directory.
        purge_step: The step from which the run resumes; the events from there on are removed.
    """

    def __init__(self, *, save_dir: str, purge_step: int) -> None:
        super().__init__(save_dir, name="", version="", default_hp_metric=False)
        self.purge_step = purge_step
        self.kept: dict[str, dict[str, int]] | None = (
            None  # sizes of the files at the checkpoint, by stage
        )
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
        return "val" if self._trainer.validating else evaluated_stage(self._trainer)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """TensorBoard's writer of the current stage; the first access truncates all existing files."""
        self._truncate()
        stage = self.stage
        if stage not in self._writers:
            # A resumed run's step makes a TensorBoard that is already open drop the events that it has read from there on.
            directory = str(Path(self.log_dir) / stage)
            self._writers[stage] = SummaryWriter(
                directory, purge_step=self._first_steps[stage] or None
            )
        return self._writers[stage]

    def _truncate(self) -> None:
        """Remove what was logged after the checkpoint, once."""
        directory = Path(self.log_dir)
        check_held(directory)
        self._check_folders()
        if self._first_steps:
            return
        threading.excepthook = _ignore_event_writers
        for stage in STAGES:
            sizes = None if self.kept is None else self.kept.get(stage, {})
            last = truncate_events(directory / stage, self.purge_step, sizes)
            self._first_steps[stage] = max(self.purge_step, last + 1)

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
        try:
            super().log_metrics(
                {self._tag(name): value for name, value in metrics.items() if name != "epoch"}, step
            )
        except ValueError as error:
            if isinstance(
                error.__cause__, OSError
            ):  # Lightning blames the value, whatever has failed
                raise error.__cause__ from None
            raise

    def _tag(self, name: str) -> str:
        """Return a metric's tag: the name itself if another metric of this stage has the tag, such as `val_acc` of `val/acc`."""
        tag = chart_tag(name)
        return tag if self._names.setdefault((self.stage, tag), name) == name else name

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
    """Report exceptions of threads, except of event writers, which raise theirs (a full disk) at the next event."""
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
        """Write the header and the lines to keep; of a file that has lost them, this is announced."""
        self._started = True
        check_held(self.path.parent)
        is_table = has_header(self.path)
        if self.kept is not None and is_table:
            content = read_bounded(self.path, MAX_TABLE_BYTES)
            if len(content) < self.kept:
                warn(
                    f"{self.path}: is shorter than at the checkpoint, so rows of its curves are missing"
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
        return self.path.stat().st_size if self.path.exists() else 0


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
        if (
            not offline
            and os.environ.get("WANDB_MODE", "online") == "online"
            and not wandb.login(prompt=False)
        ):
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
