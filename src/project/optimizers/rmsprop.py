"""RMSprop as Keras 3 defines it."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class RMSprop(Optimizer):
    """RMSprop with epsilon under the root, and the mean square starting at zero.

        v ← ρ v + (1 - ρ) g²
        w ← w - lr · g / √(v + ε)

    `torch.optim.RMSprop` divides by √v + ε instead, which makes much larger steps while v is small,
    as in the first steps. So did Keras 2: its RMSprop is `optimizer=rmsprop`.

    Source: Tieleman and Hinton, Neural Networks for Machine Learning, lecture 6.5 (2012); the place
    of ε as in `keras.optimizers.RMSprop` since TensorFlow 2.11 and Keras 3.

    Args:
        params: Parameters, or parameter groups.
        lr: Learning rate, positive.
        rho: Decay of the mean square per step, in [0, 1).
        eps: Added to the mean square, positive.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> w = torch.nn.Parameter(torch.ones(1))
        >>> w.grad = torch.ones(1)
        >>> RMSprop([w], lr=0.1, rho=0.9, eps=1e-7).step()
        >>> round(w.item(), 4)  # 1 - 0.1 / √0.1
        0.6838
    """

    def __init__(self, params: Iterable[Any], *, lr: float, rho: float, eps: float) -> None:
        for name, value in (("lr", lr), ("eps", eps)):
            if not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ValueError(f"{name}={value}: must be a positive number")
        if not isinstance(rho, int | float) or not 0 <= rho < 1:
            raise ValueError(f"rho={rho}: must be a number in [0, 1)")
        defaults = {"lr": lr, "rho": rho, "eps": eps}
        super().__init__(params, defaults)
        self._buffers: dict[Tensor, Tensor] = {}  # scratch memory, not part of the state dict

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copied optimizer, whose parameters are new and need new scratch memory."""
        super().__setstate__(state)
        self._buffers = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters once, and return the loss of `closure`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    self._update(w, group)
        return loss

    def _update(self, w: Tensor, group: dict[str, Any]) -> None:
        state = self.state[w]
        if not state:
            state["mean_square"] = torch.zeros_like(w)
        if w not in self._buffers:
            self._buffers[w] = torch.empty_like(w)
        # Five passes over memory without allocation: on a CPU, these limit the step of a small
        # network.
        v = state["mean_square"]
        buffer = self._buffers[w]
        torch.mul(w.grad, w.grad, out=buffer)
        v.lerp_(buffer, 1 - group["rho"])
        torch.add(v, group["eps"], out=buffer)
        buffer.rsqrt_()
        w.addcmul_(w.grad, buffer, value=-group["lr"])
