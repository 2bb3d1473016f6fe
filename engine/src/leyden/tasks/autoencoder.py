"""Autoencoders, plain and variational. Shapes: N samples of a batch, Z code dimensions."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from leyden.tasks.task import Outcome, Task


class Autoencoder(Task):
    """Trains a network to reconstruct its input.

    A network that returns only the reconstruction is a plain autoencoder. A variational one (Kingma and Welling
    2014, Auto-encoding variational Bayes) returns a tuple: the reconstruction, and mean and log-variance of the
    code, both of shape (N, Z). Its loss is the negative evidence lower bound, up to a constant. Both terms of the
    loss are logged, as `train/reconstruction` and `train/kl`, summed over the values of a sample, in nats.

    Args:
        beta: Weight of the Kullback-Leibler term (Higgins et al. 2017).
        loss: Function of outputs and inputs that returns the mean over all values; None: half of the mean squared
            error, the negative log-likelihood of a normal distribution with standard deviation 1.
            `torch.nn.BCELoss` is for pixels in [0, 1].
        kwargs: Arguments of `Task`: `network`, `optimizer`, `scheduler`, `metrics`.

    Raises:
        ValueError: `beta` is out of its range.
    """

    kind = "reconstruction"
    sums = {"reconstruction": 0.0, "kl": 0.0}  # noqa: RUF012 - class constant

    def __init__(
        self, *, beta: float = 1.0, loss: Callable[[Tensor, Tensor], Tensor] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(beta, int | float) or not beta >= 0:
            raise ValueError(f"beta={beta}: must be a number, 0 or larger")
        self.beta = beta
        self.loss = _half_squared_error if loss is None else loss
        self._checked = False

    def step(self, batch: Any) -> Outcome:
        """Return reconstruction and loss for inputs, shape (N, ...); targets, if the data have any, are ignored."""
        inputs: Tensor = batch[0] if isinstance(batch, list | tuple) else batch
        if not self._checked and isinstance(self.loss, nn.BCELoss) and len(inputs):  # BCELoss checks only outputs
            self._checked = True
            if inputs.device.type != "meta" and not 0 <= inputs.min() <= inputs.max() <= 1:
                raise ValueError("BCELoss needs inputs in [0, 1], such as pixels with data.normalize=unit")
        if not inputs.is_floating_point():
            raise ValueError(f"an autoencoder needs real numbers; these inputs are {inputs.dtype}, like tokens")
        made = self.network(inputs)
        outputs, *code = made if isinstance(made, tuple) else (made,)
        if outputs.shape != inputs.shape:
            raise ValueError(f"outputs of shape {tuple(outputs.shape)} for inputs of {tuple(inputs.shape)}")
        reconstruction = self.loss(outputs, inputs) * inputs.shape[1:].numel()
        kl = reconstruction.new_zeros(())
        if code:
            mean_NZ, log_variance_NZ = code
            kl = 0.5 * (mean_NZ.square() + log_variance_NZ.exp() - 1 - log_variance_NZ).sum(dim=1).mean()
        num = len(inputs)
        sums = {"reconstruction": reconstruction.detach() * num, "kl": kl.detach() * num}
        return Outcome(reconstruction + self.beta * kl, outputs, inputs, sums)


def _half_squared_error(outputs: Tensor, inputs: Tensor) -> Tensor:
    return 0.5 * F.mse_loss(outputs, inputs)
