"""What a trained network makes of image files, batch by batch: of any number of them."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from leyden.config.mistakes import UserError
from leyden.config.terminal import warn
from leyden.data.facts import Facts
from leyden.data.samples import Samples
from leyden.data.stream import StreamLoader
from leyden.images.read import read_image
from leyden.run.directory import Run
from leyden.tasks.task import Task
from leyden.training.trained import image_reader

BATCH_SIZE = 64
NUM_WORKERS, MANY = 4, 1000  # processes that read, of more files than this


@dataclass(frozen=True)
class Prediction:
    """The probabilities of the classes of an image.

    Args:
        image: Path of the file.
        probabilities: By name of the class, in the order of the data.
    """

    image: str
    probabilities: dict[str, float]

    @property
    def likeliest(self) -> list[tuple[str, float]]:
        """Names and probabilities, the likeliest first."""
        return sorted(self.probabilities.items(), key=lambda item: -item[1])


class Files(Dataset[tuple[Tensor, int]]):
    """Images by their files, each with its number.

    Args:
        paths: The files.
        read: Gives the pixels of one, shape (C, H, W).
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[Path], Tensor]) -> None:
        self.paths = np.array([os.fsencode(path) for path in paths])  # a list would be copied to each worker
        self.read = read

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        """The file of an image."""
        return os.fsdecode(self.paths[index])

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Pixels, shape (C, H, W), and the number."""
        return self.read(Path(self.path(index))), index


def classify(
    task: Task, facts: Facts, images: Iterable[tuple[list[str], Tensor]]
) -> Iterator[tuple[list[Prediction], Tensor]]:
    """The classes of image files, in batches.

    Args:
        task: What was learned.
        facts: Of the data that it was learned of.
        images: As `read_files` gives them.

    Yields:
        The predictions, and the images as the network gets them, shape (N, C, H, W), uint8.

    Raises:
        UserError: A file is no image.
    """
    classes = facts.class_names or ()
    for names, pixels_NCHW in images:
        with torch.inference_mode():
            logits_NK = task.network(facts.normalize(pixels_NCHW.to(task.device)))
            probabilities_NK = logits_NK.softmax(dim=1).cpu()
        yield (
            [
                Prediction(name, dict(zip(classes, row, strict=True)))
                for name, row in zip(names, probabilities_NK.tolist(), strict=True)
            ],
            pixels_NCHW,
        )


def read_files(
    run: Run, facts: Facts, paths: Sequence[Path], *, invert: bool
) -> Iterator[tuple[list[str], Tensor]]:
    """Image files as the network of a run gets them, in batches: their names, and pixels, shape (N, C, H, W), uint8.

    Raises:
        UserError: A file is no image, or the network takes no images from files.
    """
    shape: Any = facts.input_shape or ()
    own = image_reader(run)
    if own and invert:
        raise UserError(f"invert=true: the data set of {run.directory} reads its files in a way of its own")
    if not own and (len(shape) != 3 or shape[0] not in (1, 3)):
        raise UserError(f"{run.directory}: was trained on samples of shape {shape}; an image has 1 or 3 channels")
    read = own or functools.partial(read_image, input_shape=shape, invert=invert)
    files = Files(paths, read)
    loader = StreamLoader(
        Samples(files, 0, None),
        torch.arange(len(paths)),
        batch_size=BATCH_SIZE,
        num_workers=min(NUM_WORKERS, os.cpu_count() or 1) if len(paths) > MANY else 0,
        shuffle=False,
    )
    light: list[str] = []
    num_light = 0
    with contextlib.closing(loader):
        for pixels_NCHW, indices_N in loader:
            names = [files.path(index) for index in indices_N.tolist()]
            if not own:
                is_light_N = pixels_NCHW.float().mean((1, 2, 3)) > 127
                num_light += int(is_light_N.sum())
                light = [*light, *(name for name, is_light in zip(names, is_light_N, strict=True) if is_light)][:5]
            yield names, pixels_NCHW
    if light:
        more = f" and {num_light - len(light)} more" * (num_light > len(light))
        warn(f"mostly light, did you mean invert={str(not invert).lower()}? {', '.join(light)}{more}")
