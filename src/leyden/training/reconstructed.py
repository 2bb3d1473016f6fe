"""What a trained autoencoder makes of image files. Shapes: N images, C channels, H rows, W columns."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from leyden.run.directory import Run
from leyden.training.predictions import read_files
from leyden.training.trained import trained_task


def reconstruct(
    run: Run, checkpoint: Path, paths: Sequence[Path], *, invert: bool
) -> Iterator[tuple[list[dict[str, str | float]], Tensor]]:
    """Images and what comes out for them, in batches.

    Yields:
        A row per image, with the mean squared error of its normalised pixels; and images and reconstructions, each image
        with its own behind it, shape (2 N, C, H, W).

    Raises:
        UserError: The run has learned something else, or a file is no image.
    """
    task, facts = trained_task(run, checkpoint, "reconstruction")
    for names, pixels_NCHW in read_files(run, facts, paths, invert=invert):
        with torch.inference_mode():
            inputs_NCHW = facts.normalize(pixels_NCHW)
            made = task.network(inputs_NCHW)
            outputs_NCHW = made[0] if isinstance(made, tuple) else made
        errors_N = (outputs_NCHW - inputs_NCHW).square().flatten(1).mean(dim=1)
        rows = [
            {"image": name, "squared error": error} for name, error in zip(names, errors_N.tolist(), strict=True)
        ]
        yield rows, torch.stack([inputs_NCHW, outputs_NCHW], dim=1).flatten(0, 1)
