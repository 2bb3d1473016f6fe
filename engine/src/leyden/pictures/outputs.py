"""Pictures of outputs, one per kind of task: reconstructions, predicted values, generated text."""

from typing import Any

import lightning as L
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from leyden.callbacks.display import DisplayCallback
from leyden.data.text import text_of
from leyden.exact.logged_metrics import logged_steps
from leyden.pictures.base import (
    SPLIT_NAMES,
    OnEvaluation,
    add_image,
    save_picture,
    sheet,
    tensorboard_writer,
    wrapped,
)
from leyden.tasks.language import generate
from leyden.tasks.task import Task


class Reconstructions(OnEvaluation):
    """Shows the first images of the final evaluation with their reconstructions.

    Draws `reconstructions.png` and logs the picture. Data that are not images have no such picture.

    Args:
        num_images: Number of images.
    """

    kind = "reconstruction"

    def __init__(self, *, num_images: int) -> None:
        if type(num_images) is not int or num_images < 1:
            raise ValueError(f"num_images={num_images}: must be a positive whole number")
        self.max_samples = num_images

    def draw(self, trainer: L.Trainer, split: str, predictions: Tensor, targets: Tensor) -> None:
        """Draw images, shape (C, H, W), each above its reconstruction."""
        if targets.ndim != 4 or targets.shape[1] not in (1, 3):
            return
        pairs_NCHW = torch.cat([targets, predictions.to(targets)], dim=2).float().numpy()
        figure = sheet(pairs_NCHW, (), f"{SPLIT_NAMES[split]}: each image above its reconstruction")
        pixels = save_picture(trainer, figure, "reconstructions.png")
        add_image(trainer, f"reconstructions/{split}", pixels, trainer.global_step)


MAX_PANELS = 6
MAX_POINTS = 2_000  # more points would hide each other; their density is drawn instead


class Predicted(OnEvaluation):
    """Draws predicted against true values of the final evaluation, as `predicted.png` and in the loggers.

    Args:
        target_names: Target names of the data.
    """

    kind = "values"

    def __init__(self, *, target_names: tuple[str, ...]) -> None:
        self.target_names = target_names

    def draw(self, trainer: L.Trainer, split: str, predictions: Tensor, targets: Tensor) -> None:
        """Draw from numbers, both of shape (N,) or (N, T)."""
        predicted_NT, true_NT = (
            values.float().reshape(len(values), -1).numpy() for values in (predictions, targets)
        )
        figure = prediction_figure(
            predicted_NT, true_NT, self.target_names, f"{SPLIT_NAMES[split]}, {len(targets):,} samples"
        )
        pixels = save_picture(trainer, figure, "predicted.png")
        add_image(trainer, f"predicted/{split}", pixels, trainer.global_step)


def prediction_figure(
    predicted_NT: NDArray[Any], true_NT: NDArray[Any], names: tuple[str, ...], title: str
) -> Figure:
    """Return one panel per target, with equal axes, the diagonal of exact predictions, and R²."""
    num = min(len(names), MAX_PANELS)
    is_density = len(true_NT) > MAX_POINTS
    figure = Figure(figsize=((4.9 if is_density else 4.1) * num, 4.5), layout="constrained")
    figure.suptitle(wrapped(title, figure.get_figwidth(), 10), fontsize=10)
    for t, name in enumerate(names[:num]):
        axes: Any = figure.add_subplot(1, num, t + 1)
        true, predicted = true_NT[:, t], predicted_NT[:, t]
        if is_density:
            cells = axes.hexbin(true, predicted, gridsize=60, bins="log", cmap="Blues", mincnt=1, linewidths=0.1)
            figure.colorbar(cells, ax=axes, label="samples per cell", format="{x:g}", fraction=0.046, pad=0.03)
        else:
            axes.scatter(true, predicted, s=8, alpha=0.5, linewidths=0)
        low, high = min(true.min(), predicted.min()), max(true.max(), predicted.max())
        axes.plot([low, high], [low, high], color="#d95f02", linewidth=1, linestyle="--", label="exact")
        axes.legend(loc="upper left", fontsize=8)
        spread = np.square(true - true.mean()).sum()
        r2 = f"R² {1 - np.square(predicted - true).sum() / spread:.4f}" if spread > 0 else ""
        axes.set_title(r2, fontsize=10)
        axes.set_xlabel(f"true {name}")
        axes.set_ylabel(f"predicted {name}")
        margin = 0.03 * ((high - low) or 1.0)
        axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), box_aspect=1)
        axes.grid(alpha=0.3)
    return figure


class Generated(DisplayCallback):
    """Writes a generated text to TensorBoard after each epoch, always sampled with the same seed.

    The prompt is a newline, if it is in the vocabulary, otherwise the vocabulary's first token.

    Args:
        num_tokens: Length of the text.
        temperature: Sampling temperature; near 0, the most likely token is chosen.
        vocabulary: Text of each token.
        input_shape: Shape of one sample, (T,): the maximum number of tokens that the network accepts.
    """

    def __init__(
        self, *, num_tokens: int, temperature: float, vocabulary: tuple[str, ...], input_shape: tuple[int, ...]
    ) -> None:
        if type(num_tokens) is not int or num_tokens < 1:
            raise ValueError(f"num_tokens={num_tokens}: must be a positive whole number")
        if not isinstance(temperature, int | float) or not temperature > 0:
            raise ValueError(f"temperature={temperature}: must be a positive number")
        self.num_tokens, self.temperature = num_tokens, temperature
        self.vocabulary, self.max_context = vocabulary, input_shape[0]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the text for this epoch."""
        writer = tensorboard_writer(trainer)
        if writer is None or not isinstance(pl_module, Task) or pl_module.kind != "text":
            return
        first = self.vocabulary.index("\n") if "\n" in self.vocabulary else 0
        network = pl_module.network
        was_training = network.training
        network.eval()
        try:
            tokens_T = generate(
                network,
                torch.tensor([first], device=pl_module.device),
                num_tokens=self.num_tokens,
                max_context=self.max_context,
                temperature=self.temperature,
                seed=0,
            )
        finally:
            network.train(was_training)
        text = text_of(tokens_T, self.vocabulary)
        verbatim = "\n".join(f"    {line}" for line in text.splitlines())  # as Markdown shows it
        writer.add_text("generated", verbatim, logged_steps(trainer) - 1)
