"""The network as a graph."""

import copy
import warnings

import lightning as L
import torch

from leyden.callbacks.showing import Showing
from leyden.callbacks.writer import tensorboard_writer
from leyden.tasks.task import network_of


class Graph(Showing):
    """Writes the graph of the network's operations for TensorBoard, traced on a copy of it.

    A network that can't be traced has none; a line says so, and training goes on. A LightningModule that has no part
    called `network` has none either.

    Args:
        input_shape: Of one sample, as (C, H, W).
        vocabulary: Of texts, whose samples are whole numbers; None: they are none.
    """

    def __init__(self, *, input_shape: tuple[int, ...], vocabulary: tuple[str, ...] | None = None) -> None:
        self.sample = torch.zeros(1, *input_shape, dtype=torch.float32 if vocabulary is None else torch.int64)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write it, once for all starts."""
        writer = tensorboard_writer(trainer)
        network = network_of(pl_module)
        if writer is None or trainer.global_step != 0 or network is pl_module:
            return
        device = trainer.strategy.root_device
        devices = [device] if device.type == "cuda" else []
        with warnings.catch_warnings(), torch.random.fork_rng(devices):
            warnings.simplefilter("ignore")  # torch.jit is deprecated, but TensorBoard reads nothing newer
            network = copy.deepcopy(network).cpu()
            # As if `compile` was false: what is traced is Python. PyTorch has no public way back from `compile()`.
            network._compiled_call_impl = None
            try:
                writer.add_graph(network, self.sample)
            except Exception as error:  # whatever a network does that a trace can't follow
                print(f"no graph for TensorBoard: {type(error).__name__}: {str(error).splitlines()[0]}")
