"""Pictures of the network: graph, histograms of weights and gradients, first layer; and the printed summary."""

import copy
import warnings
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.callbacks.display import DisplayCallback
from leyden.callbacks.logged_metrics import logged_steps
from leyden.config.console import Terminal
from leyden.data.contract import sizes_of
from leyden.pictures.base import add_image, image_loggers, tensorboard_writer
from leyden.tasks.task import network_of


class Graph(DisplayCallback):
    """Writes the graph of the network's operations to TensorBoard, traced on a copy of the network.

    If the network can't be traced, a line reports this, and training continues. A LightningModule without a part
    called `network` has no graph.

    Args:
        input_shape: Shape of one sample, such as (C, H, W).
        vocabulary: Vocabulary of texts, whose samples are integers; None for other data.
    """

    def __init__(self, *, input_shape: tuple[int, ...], vocabulary: tuple[str, ...] | None = None) -> None:
        self.sample = torch.zeros(1, *input_shape, dtype=torch.float32 if vocabulary is None else torch.int64)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the graph, once for all starts."""
        writer = tensorboard_writer(trainer)
        network = network_of(pl_module)
        if writer is None or trainer.global_step != 0 or network is pl_module:
            return
        device = trainer.strategy.root_device
        devices = [device] if device.type == "cuda" else []
        with warnings.catch_warnings(), torch.random.fork_rng(devices):
            warnings.simplefilter("ignore")  # torch.jit is deprecated, but TensorBoard reads nothing newer
            network = copy.deepcopy(network).cpu()
            # Trace the uncompiled module. PyTorch has no public way to undo `compile()`.
            network._compiled_call_impl = None
            try:
                writer.add_graph(network, self.sample)
            except Exception as error:  # networks that can't be traced raise many types
                print(f"no graph for TensorBoard: {type(error).__name__}: {str(error).splitlines()[0]}")


class Histograms(DisplayCallback):
    """Writes histograms of each parameter, and of its gradient in the last step, to TensorBoard.

    Args:
        every_n_epochs: Epochs between histograms; None for none.
    """

    def __init__(self, *, every_n_epochs: int | None) -> None:
        if every_n_epochs is not None and (type(every_n_epochs) is not int or every_n_epochs < 1):
            raise ValueError(f"every_n_epochs={every_n_epochs}: must be a positive whole number or null")
        self.every_n_epochs = every_n_epochs

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Write histograms of the gradients, which are gone at the end of the epoch."""
        if trainer.is_last_batch:
            self._write_histograms(trainer, pl_module, "gradients", logged_steps(trainer))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write histograms of the weights."""
        self._write_histograms(trainer, pl_module, "weights", logged_steps(trainer) - 1)

    def _write_histograms(self, trainer: L.Trainer, pl_module: L.LightningModule, kind: str, step: int) -> None:
        if self.every_n_epochs is None or (trainer.current_epoch + 1) % self.every_n_epochs != 0:
            return
        if writer := tensorboard_writer(trainer):
            for name, parameter in network_of(pl_module).named_parameters():
                tensor = parameter.detach() if kind == "weights" else parameter.grad
                if tensor is not None:
                    writer.add_histogram(f"{kind}/{name}", tensor, step)


NUM_COLUMNS = 8
MIN_PIXELS = 28  # minimum side of a tile; smaller tiles are enlarged


class Weights(DisplayCallback):
    """Shows the weights of the first layer as images, after each epoch, if the layer's inputs are pixels.

    Blue is negative, white is zero, red is positive; weights of three channels are shown as RGB.

    Args:
        num_images: Number of units to show.
        input_shape: Shape of one image, (C, H, W).
    """

    def __init__(self, *, num_images: int, input_shape: tuple[int, int, int]) -> None:
        if type(num_images) is not int or num_images < 1:
            raise ValueError(f"num_images={num_images}: must be a positive whole number")
        self.num_images, self.input_shape = num_images, input_shape

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the weights after the epoch."""
        if not image_loggers(trainer):
            return
        weights_NCHW = first_weights(network_of(pl_module), self.input_shape)
        if weights_NCHW is not None:
            tiles = mosaic(colours(weights_NCHW[: self.num_images].float().cpu().numpy()))
            add_image(trainer, "weights/first_layer", tiles, logged_steps(trainer) - 1)


def first_weights(network: nn.Module, input_shape: tuple[int, int, int]) -> Tensor | None:
    """Return the first layer's weights, shape (N, C, H, W); None if its inputs are not the pixels of an image."""
    if len(input_shape) != 3:
        return None
    channels, height, width = input_shape
    layers = (module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d))
    first = next(layers, None)
    if isinstance(first, nn.Linear) and first.in_features == channels * height * width:
        return first.weight.detach().reshape(-1, channels, height, width)
    if isinstance(first, nn.Conv2d) and first.in_channels == channels and first.groups == 1:
        return first.weight.detach()
    return None


def colours(weights_NCHW: NDArray[Any]) -> NDArray[np.uint8]:
    """Return weights as RGB, shape (N, H, W, 3), scaled by the largest absolute value."""
    scaled = weights_NCHW / (np.abs(weights_NCHW).max() or 1.0)
    if scaled.shape[1] == 3:
        rgb = (scaled.transpose(0, 2, 3, 1) + 1) / 2
    else:
        w = scaled.mean(axis=1)
        rgb = np.stack([1 - np.maximum(-w, 0), 1 - np.abs(w), 1 - np.maximum(w, 0)], axis=-1)
    return (rgb * 255).astype(np.uint8)


def mosaic(tiles_NHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return tiles in rows, separated by grey lines, shape (H, W, 3)."""
    factor = max(1, -(-MIN_PIXELS // max(tiles_NHWC.shape[1:3])))
    tiles_NHWC = tiles_NHWC.repeat(factor, axis=1).repeat(factor, axis=2)
    num, height, width, _ = tiles_NHWC.shape
    num_columns = min(NUM_COLUMNS, num)
    num_rows = -(-num // num_columns)
    picture = np.full((num_rows * (height + 1) + 1, num_columns * (width + 1) + 1, 3), 128, dtype=np.uint8)
    for n, tile in enumerate(tiles_NHWC):
        top, left = n // num_columns * (height + 1) + 1, n % num_columns * (width + 1) + 1
        picture[top : top + height, left : left + width] = tile
    return picture


class Summary(DisplayCallback):
    """Prints the layers with their parameters, the sizes of the splits, and the device."""

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the table, and the checkpoint from which the run resumes."""
        network = network_of(pl_module)
        table = Table("layer", "type", "parameters", box=None)
        table.columns[2].justify = "right"
        for name, module in network.named_modules():
            own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
            if own > 0:
                table.add_row(name, type(module).__name__, f"{own:,}")
        total = sum(parameter.numel() for parameter in network.parameters())
        table.add_row("total", type(network).__name__, f"{total:,}")
        # Use the existing loaders: requesting new ones would replace the data module's samplers.
        num_by_split = sizes_of(trainer.datamodule, trainer.train_dataloader, trainer.val_dataloaders)  # type: ignore[attr-defined]
        sizes = ", ".join(split if num is None else f"{num:,} {split}" for split, num in num_by_split.items())
        device = f"{trainer.world_size} x {trainer.strategy.root_device.type}, {trainer.precision}"
        console = Terminal()
        console.print(table)
        console.print(f"samples: {sizes}; device: {device}")
        console.print(f"run directory: {trainer.default_root_dir}")
        if trainer.ckpt_path:
            console.print(f"resumes from {trainer.ckpt_path}, step {trainer.global_step}")
