"""How checkpoints are written and read, so that a crash, a full disk or a stranger's file does no harm."""

import copy
import io
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.plugins.io import CheckpointIO

from leyden.config.mistakes import UserError
from leyden.run.files import replacing

# What Lightning adds of `save_hyperparameters`: arguments of any kind, as networks, which the configuration has already.
HYPERPARAMETERS = tuple(
    key
    for made in (L.LightningModule, L.LightningDataModule)
    for key in (
        made.CHECKPOINT_HYPER_PARAMS_KEY,
        made.CHECKPOINT_HYPER_PARAMS_NAME,
        made.CHECKPOINT_HYPER_PARAMS_TYPE,
    )
)
ARRAYS = "numpy_arrays"  # key of the places of tensors that were arrays


class SafeCheckpointIO(CheckpointIO):
    """Writes a checkpoint whole or not at all, and reads tensors and plain values only.

    Hyperparameters that a module has saved are left out. Arrays of NumPy are kept as tensors, and are arrays again when they are
    read; its scalars are kept as Python's numbers.
    """

    def __init__(self) -> None:
        self._can_be_read = False  # known by the first checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write to a temporary file beside `path`, then rename: whatever happens, the older one survives.

        Raises:
            UserError: The checkpoint holds what could not be read again.
        """
        path = Path(path)
        path.parent.mkdir(exist_ok=True)  # a run directory that was deleted is not made anew
        places: list[list[Any]] = []
        kept = {key: value for key, value in checkpoint.items() if key not in HYPERPARAMETERS}
        kept = _with_tensors(kept, [], places)
        if places:
            kept = {**kept, ARRAYS: places}
        try:
            buffer = _written(kept)
            if not self._can_be_read:
                _read(buffer)
                self._can_be_read = True
        except Exception as error:
            if (culprit := _culprit(kept, ())) is None:
                raise
            key, kind = culprit
            raise UserError(
                f"the checkpoint could not be read again: {key} is a {kind}; what on_save_checkpoint or state_dict of a module "
                "or callback keeps must be tensors, arrays and plain values"
            ) from error
        with replacing(path) as file:
            file.write(buffer.getbuffer())

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint; as weights only, whatever is asked for.

        Raises:
            ValueError: It holds more than tensors and plain values, nothing of which was executed; or it is
                no checkpoint of a run.
        """
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(f"{path} is refused: it holds more than tensors and plain values") from error
        if not isinstance(checkpoint, dict) or not {"state_dict", "global_step", "callbacks"} <= set(checkpoint):
            raise ValueError(f"{path}: not the checkpoint of a run")
        try:
            return _with_arrays(checkpoint, checkpoint.pop(ARRAYS, []))  # type: ignore[no-any-return]
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not the checkpoint of a run: {ARRAYS} names none") from error

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)


def load_weights(module: L.LightningModule, content: dict[str, Any]) -> None:
    """Give a module the weights of a checkpoint, and what it keeps there itself, as Lightning does.

    Raises:
        ValueError: It has no place for some: PyTorch says nothing where a part is None, and may be made later.
    """
    module.configure_model()
    module.on_load_checkpoint(content)
    if lacking := sorted({*content["state_dict"]} - {*module.state_dict()}):
        raise ValueError(f"there is no {lacking[0]}; make all parts in the constructor or in configure_model")
    module.load_state_dict(content["state_dict"])


def _written(content: Any) -> io.BytesIO:
    buffer = io.BytesIO()  # torch's own writer would hide the error of a full disk behind another one
    torch.save(content, buffer)
    return buffer


def _read(buffer: io.BytesIO) -> None:
    buffer.seek(0)
    torch.load(buffer, map_location="meta", weights_only=True)  # all but the numbers


def _children(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, dict):
        yield from node.items()
    elif type(node) in (list, tuple):
        yield from enumerate(node)


def _with_tensors(node: Any, place: list[Any], places: list[list[Any]]) -> Any:
    """Return a node with tensors for the arrays below it, whose places are added to `places`; it is left as it is."""
    if type(node) is np.ndarray and node.dtype.kind in "biufc":
        places.append(place)
        return torch.from_numpy(node.astype(node.dtype.newbyteorder("="), order="C"))
    if isinstance(node, np.generic):
        return node.item()
    changed = {}
    for key, value in _children(node):
        if (new := _with_tensors(value, [*place, key], places)) is not value:
            changed[key] = new
    return _replaced(node, changed) if changed else node


def _with_arrays(node: Any, places: Sequence[Sequence[Any]]) -> Any:
    """Return a node with arrays again for the tensors at these places."""
    if not places:
        return node
    if any(not place for place in places):
        return node.numpy(force=True)
    below: dict[Any, list[Sequence[Any]]] = {}
    for first, *rest in places:
        below.setdefault(first, []).append(rest)
    return _replaced(node, {key: _with_arrays(node[key], inner) for key, inner in below.items()})


def _replaced(node: Any, changed: dict[Any, Any]) -> Any:
    """Return a copy of a dictionary, list or tuple with some of its values replaced."""
    new = list(node) if isinstance(node, tuple) else copy.copy(node)
    for key, value in changed.items():
        new[key] = value
    return tuple(new) if isinstance(node, tuple) else new


def _culprit(node: Any, place: tuple[Any, ...]) -> tuple[str, str] | None:
    """Return the key and the type of the first value that can't be written and read; None where each can."""
    for key, value in _children(node):
        try:
            _read(_written(value))
        except Exception:  # whatever its class raises
            kind = type(value)
            here = ".".join(map(str, (*place, key))), f"{kind.__module__}.{kind.__qualname__}"
            return _culprit(value, (*place, key)) or here
    return None
