"""A model in parts: weights, gradients and optimizer states that are sharded over processes, by PyTorch's FSDP2.

Checkpoints hold all of them whole, in one file that the process of rank zero writes. So whatever reads a checkpoint needs
no other process.
"""

from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from leyden.exact import lightning
from leyden.exact.memory import PLAIN_NAMES


class FSDP2(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, over all processes, with checkpoints that are whole.

    The module shards its layers in `configure_model`, as `shard` does.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Start the processes, all of which share the data."""
        lightning.share_data_over_all(self)
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = True) -> dict[str, Any]:
        """Load weights and optimizer states, and return what else a checkpoint holds; no code of it is executed."""
        with torch.serialization.safe_globals(PLAIN_NAMES):
            return super().load_checkpoint(checkpoint_path, weights_only=True)


def shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a network over processes, each of its children with weights as a part of its own; once.

    Args:
        network: The network.
        mesh: The mesh of the processes that share the data.
    """
    if isinstance(network, FSDPModule):
        return
    for part in network.children():
        blocks = part.children() if isinstance(part, nn.ModuleList | nn.Sequential) else [part]
        for block in blocks:
            if any(True for _ in block.parameters()):
                fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)


def is_sharded(module: nn.Module) -> bool:
    """Return whether a module has weights that are sharded."""
    return any(isinstance(each, DTensor) for each in module.parameters())


def load_whole(module: nn.Module, state: dict[str, Any], *, strict: bool = True) -> None:
    """Load whole weights into a module, sharded or not.

    Args:
        module: The module.
        state: Weights by name.
        strict: False if the module may have weights that are not among these.

    Raises:
        RuntimeError: They do not fit.
    """
    if is_sharded(module):
        set_model_state_dict(module, state, options=StateDictOptions(full_state_dict=True, strict=strict))
    else:
        module.load_state_dict(state, strict=strict)
