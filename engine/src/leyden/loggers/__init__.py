"""Lightning loggers that write to the run directory, and continue there when the run resumes.

A logger is any of Lightning's, with a YAML in `conf/logger/`. It is created with `save_dir`, the run directory. These
are optional:

- `purge_step: ???` in the YAML: it is created with the step that the run resumes from, and drops later points.
- `needs`: the package that must be installed, checked before training.
- `attach_trainer(trainer)`: called once, for loggers that need the trainer's state.
- `log_image(key, images, step)`: it receives the run's pictures.
- `close()`: called after the run.
"""

import contextlib
import csv
import hashlib
import io
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
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread
from torch.utils.tensorboard import SummaryWriter

from leyden.config.terminal import warn
from leyden.exact.files import opened, read_bounded, refuse_link
from leyden.run.files import write_whole
from leyden.run.lock import check_held
from leyden.run.result import HEADER, STAGES, chart_tag, has_header, read_points, write_points
from leyden.tasks import evaluated_stage

MAX_EVENT_BYTES = 2**32  # of a file of events


def truncate_events(directory: Path, step: int) -> None:
    """Remove the events from `step` on, and incomplete records of a killed run, from the event files.

    TensorBoard itself can hide some kinds of such events, but it orders files by the times in their names: after a
    change of the clock, it would hide the wrong events.
    """
    paths = sorted(
        path for path in directory.glob("events.out.tfevents.*") if path.is_file() and not path.is_symlink()
    )
    contents = [read_bounded(path, MAX_EVENT_BYTES) for path in paths]
    records_by_file = [list(_records(content)) for content in contents]
    # Each start records the step from which it resumed; the files of earlier starts are truncated there.
    limits = [step]
    for records in reversed(records_by_file[1:]):
        starts = [event.step for _, event in records if event.HasField("session_log")]
        limits.insert(0, min([limits[0], *starts]))
    for path, content, records, limit in zip(paths, contents, records_by_file, limits, strict=False):
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
    return event.HasField("file_version") or (event.step < step and not event.HasField("session_log"))


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
        self._trainer: L.Trainer | None = None
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
        directory = Path(self.log_dir)
        check_held(directory)
        self._refuse_links()
        if not self._writers:
            threading.excepthook = _ignore_event_writers
            for stage in STAGES:
                truncate_events(directory / stage, self.purge_step)
        if (stage := self.stage) not in self._writers:
            # A resumed run's step makes a TensorBoard that is already open drop the events that it has read from there on.
            self._writers[stage] = SummaryWriter(str(directory / stage), purge_step=self.purge_step or None)
        return self._writers[stage]

    def _refuse_links(self) -> None:
        for stage in STAGES:
            refuse_link(Path(self.log_dir, stage))

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
            if isinstance(error.__cause__, OSError):  # Lightning blames the value, whatever has failed
                raise error.__cause__ from None
            raise

    def _tag(self, name: str) -> str:
        """Return a metric's tag: the name itself if another metric of this stage has the tag, such as `val_acc` of `val/acc`."""
        tag = chart_tag(name)
        return tag if self._names.setdefault((self.stage, tag), name) == name else name

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing; `report/outcome.py` writes them with the results when the run ends."""

    @rank_zero_only
    def save(self) -> None:
        """Flush the writers; unlike Lightning's method, don't write an empty `hparams.yaml`."""
        check_held(Path(self.log_dir))
        self._refuse_links()
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
    if not isinstance(args.thread, _AsyncWriterThread):
        threading.__excepthook__(args)


class MetricsCSV(Logger):
    """Appends a line `step,metric,value` for each logged value; the step counts optimizer steps.

    When a run resumes, the lines from its checkpoint's step on are deleted, so that no point is duplicated.

    Args:
        save_dir: The run directory.
        purge_step: The step from which the run resumes; 0 for a new run.
    """

    def __init__(self, *, save_dir: str, purge_step: int) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.purge_step = purge_step
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
        text = io.StringIO(newline="")
        table = csv.writer(text)
        with opened(self.path, "ab") as file:
            check_held(self.path.parent)  # checked while the file is open, so that it stays this run's file
            if file.tell() == 0:  # the file was deleted
                table.writerow(HEADER)
            table.writerows((step, name, value) for name, value in metrics.items() if name != "epoch")
            file.write(text.getvalue().encode())

    @rank_zero_only
    def save(self) -> None:
        """Write the file's beginning; Lightning calls this before the first batch, too."""
        if not self._started:
            self._start()

    def _start(self) -> None:
        """Write the header and the lines to keep; of a file that has lost them, this is announced."""
        self._started = True
        check_held(self.path.parent)
        kept = [point for point in read_points(self.path) if point[0] < self.purge_step]
        if self.purge_step and not kept and not has_header(self.path):
            warn(f"{self.path}: is missing or damaged, so the curves begin at step {self.purge_step}")
        write_points(self.path, kept)


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
        if not offline and os.environ.get("WANDB_MODE", "online") == "online" and not wandb.login(prompt=False):
            raise ValueError("not logged in; run `wandb login`, or set logger.wandb.offline=true")
        identity = hashlib.sha256(save_dir.encode()).hexdigest()[:12]
        super().__init__(
            name=Path(save_dir).name, save_dir=save_dir, version=identity, project=project, offline=offline
        )

    def close(self) -> None:
        """Finish the W&B run in this process.

        Otherwise the next run would continue in it, and unsaved data would be lost.
        """
        if self._experiment is not None:  # `self.experiment` would create one
            self._experiment.finish()
