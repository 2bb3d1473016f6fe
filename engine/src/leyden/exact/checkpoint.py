"""Checkpoints: how files are written and read.

A checkpoint is written to a temporary file, so that a crash or a full disk leaves the previous one.
Reading a checkpoint executes no code from it.
"""

import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from leyden.exact import ExactError
from leyden.exact.files import (
    FORMATS,
    FormatError,
    check_bounds,
    damage,
    make_folder,
    opened,
    replacing,
    take_format,
)
from leyden.exact.memory import Reporter, check_names, read_plain, say, write_plain

# Checkpoint keys of `save_hyperparameters`. They are left out, since their values can have any type
# and are in the configuration.
HYPERPARAMETERS: tuple[str, ...] = ("hyper_parameters", "hparams_name", "hparams_type")
HYPERPARAMETERS += tuple(f"datamodule_{key}" for key in HYPERPARAMETERS)

# Without these no run resumes.
NEEDED = ("state_dict", "loops", "optimizer_states", "lr_schedulers", "objects", "processes")


class SafeCheckpointIO:
    """Writes checkpoints atomically, and reads only tensors and plain values.

    It has the methods of Lightning's `CheckpointIO`. Hyperparameters saved by a module are left
    out.

    Args:
        reporter: Announces what is left out since it can't be read again, or that nothing can be
            written; None to raise.
    """

    def __init__(self, reporter: Reporter | None = None) -> None:
        self._reporter = reporter
        self._left_out: set[tuple[str, ...]] = set()  # keys at the root, or below `callbacks`
        self._is_refused = False
        self._can_be_read = False  # verified with the first checkpoint

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write to a temporary file beside `path`, and rename it: a failure leaves the older one.

        Raises:
            ExactError: The checkpoint contains a value that could not be read again.
        """
        if self._is_refused:
            return
        path = Path(path)
        try:
            make_folder(path.parent)
            with replacing(path) as file:
                self._write(checkpoint, file)
        except (OSError, ExactError) as error:
            if self._reporter is None:
                raise
            if isinstance(error, OSError):
                say(f"the checkpoint could not be written: {error}")
                return
            self._is_refused = True  # each other one would fail, too
            self._reporter.announce(f"this run can't resume: {error}")

    def _write(self, checkpoint: dict[str, Any], file: BinaryIO) -> None:
        """Write a checkpoint without what is left out.

        Read the first file again, but for the values of its tensors.
        """
        _check_keys(checkpoint)
        content = {key: each for key, each in checkpoint.items() if key not in HYPERPARAMETERS}
        content["callbacks"] = dict(content.get("callbacks", {}))
        for *place, key in self._left_out:
            (content["callbacks"] if place else content).pop(key, None)
        try:
            write_plain({"format": FORMATS["checkpoint"], **content}, file)
            file.seek(0)
            if self._can_be_read:
                check_names(file)
            else:
                read_plain(file, "meta")
            self._can_be_read = True
        except Exception as error:
            # That of a full disk, which torch's writer hides behind another one.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            if not self.leave_out(content):
                raise
            file.seek(0)
            file.truncate()
            self._write(checkpoint, file)

    def leave_out(self, content: dict[str, Any]) -> bool:
        """Leave out of all checkpoints what could not be read again; return whether there is any.

        Raises:
            ExactError: There is, and no run can resume without it, or it can't be announced.
        """
        if self._reporter is None:
            _check_keys(content)
        parts: dict[tuple[str, ...], Any] = {(key,): each for key, each in content.items()}
        states = parts.pop(("callbacks",), {})
        for key, each in states.items():
            parts["callbacks", key] = each
        num = len(self._left_out)
        for place, part in parts.items():
            culprit = find_unreadable({place[-1]: part}, place[:-1])
            if not culprit:
                continue
            name, kind = culprit
            if self._reporter is None or place[0] in NEEDED:
                raise ExactError(
                    f"the checkpoint could not be read again: {name} is a {kind}; "
                    "on_save_checkpoint and state_dict of a module or callback may save only "
                    "tensors, arrays and plain values; override on_save_checkpoint in a subclass "
                    "to leave it out"
                )
            self._left_out.add(place)
            self._reporter.announce(
                f"checkpoints leave out {'.'.join(place)}, as {name} is a {kind}"
            )
        return len(self._left_out) > num

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint, always with `weights_only`.

        Raises:
            ValueError: The file contains objects other than tensors and plain values (none of their
                code was executed), more values than any checkpoint, or is not a run's checkpoint.
        """
        checkpoint = read_training(path, map_location)
        if not {"state_dict", "global_step", "callbacks"} <= set(checkpoint):
            raise ValueError(f"{path}: not the checkpoint of a run")
        return checkpoint


def read_training(path: Any, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint, of tensors and plain values.

    Raises:
        ValueError: See `SafeCheckpointIO.load_checkpoint`.
    """
    try:
        with opened(path) as file:
            check_bounds(file)
            checkpoint: dict[str, Any] = read_plain(file, map_location)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is refused: it holds more than tensors and plain values"
        ) from error
    except RuntimeError as error:  # of PyTorch's reader of archives
        raise ValueError(f"{path}: can't be read ({str(error).partition(chr(10))[0]})") from error
    except ValueError as error:  # of `check_bounds`
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path}: not the checkpoint of a run")
    try:
        take_format("checkpoint", checkpoint)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    return checkpoint


def _check_keys(content: Mapping[str, Any]) -> None:
    """Check that nothing else takes the key of a checkpoint's format.

    Raises:
        ExactError: A hook does.
    """
    if "format" in content:
        raise ExactError(
            "on_save_checkpoint saves under the key format, which says the format of the "
            "checkpoint itself; save under another key"
        )


def find_unreadable(content: Any, place: tuple[Any, ...] = ()) -> tuple[str, str] | None:
    """Return key and type of the first value that a checkpoint can't hold; None if there is none.

    Args:
        content: Content of a checkpoint.
        place: The keys that lead to it.
    """
    if isinstance(content, dict):
        children = [*content.items()]
    else:
        children = [*enumerate(content)] if type(content) in (list, tuple) else []
    for key, value in children:
        try:
            buffer = io.BytesIO()
            write_plain(value, buffer)
            buffer.seek(0)
            read_plain(buffer, "meta")
        except Exception:  # user classes may raise anything
            kind = type(value)
            here = ".".join(map(str, (*place, key))), f"{kind.__module__}.{kind.__qualname__}"
            return find_unreadable(value, (*place, key)) or here
    return None


LAST = "last.ckpt"
PREPARED = ".prepared"  # suffix of a checkpoint that is not at its path yet


def check_every_n_steps(value: Any) -> None:
    """Check the steps between checkpoints.

    Raises:
        ValueError: They are no number.
    """
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError(f"every_n_steps={value}: must be a positive whole number or null")


def make_folders(directory: Path) -> None:
    """Make the folder of a training, and that of its checkpoints.

    Raises:
        ExactError: One can't be made, or is a link, through which nothing is written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        make_folder(directory / "checkpoints")
    except OSError as error:
        raise ExactError(f"{error.filename}: {error.strerror}") from error


def last_of(directory: Path) -> Path | None:
    """Return the checkpoint to resume from; None without one.

    Raises:
        ExactError: The checkpoint is damaged.
    """
    last = directory / "checkpoints" / LAST
    if not os.path.lexists(last):
        return None
    problem = damage(last)
    if problem:
        raise ExactError(
            f"{last}: {problem}; nothing was changed: put an intact copy in its place, or delete "
            "it to train anew"
        )
    return last
