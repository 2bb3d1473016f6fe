"""Curves and pictures of a run for TensorBoard, in its directory, also where the run is resumed."""

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
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread  # a full disk is met there alone

from leyden.run.files import write_whole
from leyden.run.lock import check_held


def cut(directory: Path, step: int) -> None:
    """Cut off the events from `step` on, and what a killed run had not finished writing.

    TensorBoard could do so itself when it reads, but not for each kind of event, and in the order of the times in
    the names: a clock that was set back would let it drop the wrong ones. So the names come before now, too.
    """
    paths = sorted(directory.glob("events.out.tfevents.*"))
    contents = [path.read_bytes() for path in paths]
    found = [list(_records(content)) for content in contents]
    # Each start tells where it goes on from, which is what earlier ones are to be cut at.
    limits = [step]
    for records in reversed(found[1:]):
        starts = [event.step for _, event in records if event.HasField("session_log")]
        limits.insert(0, min([limits[0], *starts]))
    for path, content, records, limit in zip(paths, contents, found, limits, strict=False):
        kept = b"".join(record for record, event in records if _stays(event, limit))
        if kept != content:
            write_whole(path, kept)
    _date_back(paths)


def _date_back(paths: list[Path]) -> None:
    """Let the times in the names come before now, in the same order."""
    now = int(time.time())
    for path, before in zip(paths, range(len(paths), 0, -1), strict=True):
        name = path.name.split(".")  # events, out, tfevents, the time, who wrote it
        if name[3].isdecimal() and int(name[3]) > now - before:  # the first one first: they never get out of order
            name[3] = f"{now - before:010d}"
            path.rename(path.with_name(".".join(name)))


def _records(content: bytes) -> Iterator[tuple[bytes, Event]]:
    """The whole records of a file, each a length, its checksum, an event, and its checksum."""
    begin = 0
    while begin + 12 <= len(content):
        head, head_sum = content[begin : begin + 8], content[begin + 8 : begin + 12]
        end = begin + 12 + struct.unpack("<Q", head)[0] + 4
        if end > len(content) or head_sum != _checksum(head):
            return
        record = content[begin:end]
        if record[-4:] == _checksum(record[12:-4]):
            try:
                event = Event.FromString(record[12:-4])
            except Exception:  # whatever protobuf makes of what is no event
                event = None
            if event is not None:
                yield record, event
        begin = end


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(data))


def _stays(event: Event, step: int) -> bool:
    """Whether an event is kept; what an earlier start has said of dropping others is done by now."""
    return event.HasField("file_version") or (event.step < step and not event.HasField("session_log"))


class TensorBoard(TensorBoardLogger):
    """Writes event files into the run directory itself, so that a resumed run goes on in it.

    Args:
        save_dir: The run directory.
        purge_step: The step that the run goes on from; what the files have from there on is dropped.
    """

    def __init__(self, *, save_dir: str, purge_step: int) -> None:
        # For a TensorBoard that is open and has read it; where nothing is there, there is nothing to drop.
        to_viewers = purge_step if any(Path(save_dir).glob("events*")) else None
        super().__init__(save_dir, name="", version="", default_hp_metric=False, purge_step=to_viewers)
        self.purge_step = purge_step
        self._started = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """TensorBoard's writer; the first use makes it, and drops what is dropped."""
        check_held(Path(self.log_dir))
        if not self._started:
            self._started = True
            threading.excepthook = _without_writers
            cut(Path(self.log_dir), self.purge_step)
        return super().experiment

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Add a point to each curve; the number of the epoch, which Lightning adds, is none."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: `hparams.py` writes them when the run ends, with what came of it."""

    @rank_zero_only
    def save(self) -> None:
        """Let TensorBoard see what was written; without Lightning's `hparams.yaml`, which would be empty."""
        self.experiment.flush()


def _without_writers(args: threading.ExceptHookArgs) -> None:
    """Show what ends a thread; not of a writer of events, which raises it again where the next one is logged."""
    if not isinstance(args.thread, _AsyncWriterThread):
        threading.__excepthook__(args)
