"""What a trained autoencoder makes of image files. Shapes: N images, C channels, H rows, W columns."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from leyden.data.facts import Facts
from leyden.tasks.task import Task


def reconstruct(
    task: Task, facts: Facts, images: Iterable[tuple[list[str], Tensor]]
) -> Iterator[tuple[list[dict[str, Any]], Tensor]]:
    """Images, as `read_files` gives them, and what comes out for them, in batches.

    Yields:
        A row per image, with the mean squared error of its normalised pixels; and images and reconstructions, each image
        with its own behind it, shape (2 N, C, H, W).

    Raises:
        UserError: A file is no image.
    """
    for names, pixels_NCHW in images:
        with torch.inference_mode():
            inputs_NCHW = facts.normalize(pixels_NCHW.to(task.device))
            made = task.network(inputs_NCHW)
            outputs_NCHW = (made[0] if isinstance(made, tuple) else made).cpu()
            inputs_NCHW = inputs_NCHW.cpu()
        errors_N = (outputs_NCHW - inputs_NCHW).square().flatten(1).mean(dim=1)
        rows = [
            {"image": name, "squared error": error} for name, error in zip(names, errors_N.tolist(), strict=True)
        ]
        yield rows, torch.stack([inputs_NCHW, outputs_NCHW], dim=1).flatten(0, 1)
