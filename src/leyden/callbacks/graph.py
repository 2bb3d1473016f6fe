"""The network as a graph."""

import copy
import warnings
from typing import Any

import lightning as L
import torch

from leyden.callbacks.sparse import Sparse
from leyden.callbacks.writer import tensorboard_writer


class Graph(Sparse):
    """Writes the graph of the network's operations for TensorBoard, traced on a copy of it.

    A network that can't be traced has none; a line says so, and training goes on.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write it, once for all starts."""
        writer = tensorboard_writer(trainer)
        if writer is None or trainer.global_step != 0:
            return
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        device = trainer.strategy.root_device
        devices = [device] if device.type == "cuda" else []
        with warnings.catch_warnings(), torch.random.fork_rng(devices):
            warnings.simplefilter("ignore")  # torch.jit is deprecated, but TensorBoard reads nothing newer
            network = copy.deepcopy(pl_module.get_submodule("network")).cpu()
            network._compiled_call_impl = None  # as if `compile` was false: what is traced is Python
            try:
                writer.add_graph(network, torch.zeros(1, *datamodule.facts.input_shape))
            except Exception as error:  # whatever a network does that a trace can't follow
                print(f"no graph for TensorBoard: {type(error).__name__}: {str(error).splitlines()[0]}")
