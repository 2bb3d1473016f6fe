"""How checkpoints are written and read, so that a crash, a full disk or a stranger's file does no harm."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from leyden.run.files import replacing


class SafeCheckpointIO(CheckpointIO):
    """Writes a checkpoint whole or not at all, and reads tensors and plain values only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write to a temporary file beside `path`, then rename: whatever happens, the older one survives."""
        path = Path(path)
        path.parent.mkdir(exist_ok=True)  # a run directory that was deleted is not made anew
        buffer = io.BytesIO()  # torch's own writer would hide the error of a full disk behind another one
        torch.save(checkpoint, buffer)
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
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)
