"""From the memory of this machine to where training runs, without waiting for it."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def send(values: Tensor, device: torch.device) -> Tensor:
    """Values on a device, which may still be copied while this process goes on.

    CUDA copies in the background from pinned memory only. On a Mac a copy in the background reads memory that is used again by then.
    """
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=device.type not in ("cpu", "mps"))


class Sending(TorchFunctionMode):
    """Lets what somebody else's code makes of numbers on a device be sent there.

    `torch.tensor(numbers, device=...)`, and a tensor of the processor that is written into another one, would each wait until the
    device has done all that it was given.

    Example:
        >>> with Sending():
        ...     torch.tensor([1.0, 2.0], device="meta").device
        device(type='meta')
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of PyTorch."""
        kwargs = kwargs or {}
        if func is torch.tensor and (device := kwargs.get("device")) is not None:
            return send(torch.tensor(*args, **{**kwargs, "device": "cpu"}), torch.device(device))
        if func is Tensor.__setitem__ and isinstance(args[2], Tensor) and args[2].device != args[0].device:
            args = (*args[:2], send(args[2], args[0].device))
        return func(*args, **kwargs)
