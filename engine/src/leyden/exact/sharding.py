"""A model in parts: weights, gradients and optimizer states, sharded by PyTorch's FSDP2.

Checkpoints hold all of them whole, in one file that the process of rank zero writes. So whatever
reads a checkpoint needs no other process.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn

from leyden.exact import lightning
from leyden.exact.files import take_format
from leyden.exact.memory import PLAIN_NAMES

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class FSDP2(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, over all processes, with checkpoints that are whole.

    The module shards its layers in `configure_model`, as `shard` does.
    """

    writes_whole_checkpoints = True

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Start the processes, all of which share the data."""
        lightning.share_data_over_all(self)
        super().setup_environment()

    def training_step(self, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Train on a batch, with equal buffers in all processes, as DDP does.

        Buffers are such as running statistics.
        """
        self._share_buffers()
        return super().training_step(*args, **kwargs)

    def validation_step(self, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Validate a batch, with equal buffers in all processes."""
        self._share_buffers()
        return super().validation_step(*args, **kwargs)

    def _share_buffers(self) -> None:
        if not self.model:
            return
        for buffer in self.model.buffers():
            torch.distributed.broadcast(buffer, 0)

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Load weights and optimizer states, and return what else a checkpoint holds.

        No code of it is executed.
        """
        with torch.serialization.safe_globals(PLAIN_NAMES):
            content = super().load_checkpoint(checkpoint_path, weights_only=True)
        take_format("checkpoint", content)
        return content


def shard(network: nn.Module, mesh: "DeviceMesh") -> None:
    """Shard a network over processes, each of its children with weights as a part of its own; once.

    Weights that several children share, and those of lists of weights, are in the part of the
    network itself.

    Args:
        network: The network.
        mesh: The mesh of the processes that share the data.
    """
    # Late, as few runs need it, and it takes a second.
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if isinstance(network, FSDPModule):
        return
    uses = Counter[int]()
    for _, each in network.named_parameters(remove_duplicate=False):
        uses[id(each)] += 1
    for block in _blocks(network):
        counts = {uses[id(each)] for each in block.parameters()}
        if counts == {1}:
            fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)


CONTAINER_MODULES = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
LISTS_OF_WEIGHTS = (nn.ParameterList, nn.ParameterDict)


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the children of a network; of a list or a row of children, these in its place."""
    for part in network.children():
        if isinstance(part, CONTAINER_MODULES):
            yield from _blocks(part)
        elif not isinstance(part, LISTS_OF_WEIGHTS):
            yield part


def is_sharded(module: nn.Module) -> bool:
    """Return whether a module has weights that are sharded."""
    tensor = sys.modules.get("torch.distributed.tensor")  # without it nothing is sharded
    if tensor is None:
        return False
    return any(isinstance(each, tensor.DTensor) for each in module.parameters())


def load_whole(module: nn.Module, state: dict[str, Any]) -> None:
    """Load whole weights into a module, sharded or not.

    Args:
        module: The module.
        state: Weights by name.

    Raises:
        RuntimeError: They do not fit.
    """
    if is_sharded(module):
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            set_model_state_dict,
        )  # late, too

        set_model_state_dict(module, state, options=StateDictOptions(full_state_dict=True))
    else:
        module.load_state_dict(state)
