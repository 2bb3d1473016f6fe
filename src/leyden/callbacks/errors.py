"""Where the network is sure and wrong."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from numpy.typing import NDArray

from leyden.callbacks.classes import ClassEvaluation, OnClasses
from leyden.callbacks.writer import add_image
from leyden.data.contract import DataModule
from leyden.images.render import render
from leyden.images.sheet import sheet


class Errors(OnClasses):
    """Shows the most confidently wrong images of the evaluation at the end: `errors.png`, and the loggers' images.

    Args:
        num_images: How many, at most.
        class_names: Of the data.
    """

    def __init__(self, *, num_images: int, class_names: tuple[str, ...]) -> None:
        super().__init__(class_names=class_names)
        if type(num_images) is not int or num_images < 1:
            raise ValueError(f"num_images={num_images}: must be a positive whole number")
        self.num_images = num_images

    def draw_classes(self, trainer: L.Trainer, evaluation: ClassEvaluation) -> None:
        """Draw them, the surest first, with both classes and the probability of the wrong one."""
        chosen = most_confident(evaluation)[: self.num_images]
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        images_NCHW = data.inputs(evaluation.split, chosen).numpy()
        names, probabilities_NK = evaluation.class_names, evaluation.probabilities_NK
        between = "\n" if max(map(len, names)) > 3 else " "
        captions = []
        for n in chosen:
            k = probabilities_NK[n].argmax()
            true, predicted = names[evaluation.labels_N[n]], names[k]
            captions.append(f"{true}{between}as {predicted}\n{probabilities_NK[n, k]:.3f}")
        pixels = render(
            sheet(images_NCHW, captions, f"{evaluation.title}\nmost confident mistakes"),
            Path(trainer.default_root_dir) / "errors.png",
        )
        add_image(trainer, f"errors/{evaluation.split}", pixels, trainer.global_step)


def most_confident(evaluation: ClassEvaluation) -> NDArray[Any]:
    """Indices of the images that the network gets wrong, the surest first."""
    predicted = evaluation.probabilities_NK.argmax(axis=1)
    wrong = np.flatnonzero(predicted != evaluation.labels_N)
    order = np.argsort(-evaluation.probabilities_NK[wrong, predicted[wrong]], kind="stable")
    return wrong[order]
