"""TensorBoard logger that writes to the run directory and supports resuming."""

import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread

from leyden.run.files import write_whole
from leyden.run.lock import check_held


def truncate_events(directory: Path, step: int) -> None:
    """Remove the events from `step` on, and incomplete records of a killed run, from the event files.

    TensorBoard itself can hide some kinds of such events, but it orders files by the times in their names: after a
    change of the clock, it would hide the wrong events. So later times in the names are set to before now.
    """
    paths = sorted(directory.glob("events.out.tfevents.*"))
    contents = [path.read_bytes() for path in paths]
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
    _date_back(paths)


def _date_back(paths: list[Path]) -> None:
    """Change the times in the file names to before now, in the same order."""
    now = int(time.time())
    for path, before in zip(paths, range(len(paths), 0, -1), strict=True):
        name = path.name.split(".")  # events, out, tfevents, the time, the writer
        if name[3].isdecimal() and int(name[3]) > now - before:  # ascending: the order never changes
            name[3] = f"{now - before:010d}"
            path.rename(path.with_name(".".join(name)))


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
            try:
                event = Event.FromString(record[12:-4])
            except Exception:  # protobuf raises many types for invalid data
                event = None
            if event is not None:
                yield record, event
        offset = end


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(data))


def _is_kept(event: Event, step: int) -> bool:
    """Return whether to keep an event; markers of earlier starts are dropped, as their deletions are done."""
    return event.HasField("file_version") or (event.step < step and not event.HasField("session_log"))


class TensorBoard(TensorBoardLogger):
    """Writes event files into the run directory itself, and continues there when the run resumes.

    Args:
        save_dir: The run directory.
        purge_step: The step from which the run resumes; the events from there on are removed.
    """

    def __init__(self, *, save_dir: str, purge_step: int) -> None:
        # Makes a TensorBoard that is already open drop the events it has read; not needed for a new run.
        to_viewers = purge_step if any(Path(save_dir).glob("events*")) else None
        super().__init__(save_dir, name="", version="", default_hp_metric=False, purge_step=to_viewers)
        self.purge_step = purge_step
        self._started = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """TensorBoard's writer; the first access truncates the existing files and creates it."""
        check_held(Path(self.log_dir))
        if not self._started:
            self._started = True
            threading.excepthook = _ignore_event_writers
            truncate_events(Path(self.log_dir), self.purge_step)
        return super().experiment

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Log the metrics, without the epoch number that Lightning adds."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing; `hparams.py` writes them with the results when the run ends."""

    @rank_zero_only
    def save(self) -> None:
        """Flush the writer; unlike Lightning's method, don't write an empty `hparams.yaml`."""
        self.experiment.flush()


def _ignore_event_writers(args: threading.ExceptHookArgs) -> None:
    """Report exceptions of threads, except of event writers, which raise theirs (a full disk) at the next event."""
    if not isinstance(args.thread, _AsyncWriterThread):
        threading.__excepthook__(args)
