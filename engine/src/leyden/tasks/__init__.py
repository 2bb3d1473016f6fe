"""Tasks: classification, regression, autoencoders and language modelling.

Shapes: N samples of a batch, C channels, H rows and W columns of an image, K classes or vocabulary entries, T targets or
tokens per sample, Z code dimensions.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leyden.tasks.task import Outcome, Task


class Classification(Task):
    """Trains a network to predict classes: logits, shape (N, K), for class indices, shape (N,).

    Logs the accuracy as `train/acc`, beside the loss.

    Args:
        label_smoothing: Part of a label's weight that is spread over all classes, in training only, in [0, 1).
        class_weights: Factor of a sample's cross-entropy by its class, in training only: a number per class, 0 or
            larger; `balanced`: inversely proportional to the number of its samples, 1 on average over the training split;
            None: 1 each.
        loss: Function of logits and class indices that returns the mean loss; None: cross-entropy.
        class_counts: Samples of each class in the training split, if the data report them; for `balanced`.
        kwargs: Arguments of `Task`: `network`, `optimizer`, `scheduler`, `metrics`.

    Raises:
        ValueError: `label_smoothing` or `class_weights` is out of its range, or combined with a custom loss.
    """

    class_weights_K: Tensor | None

    kind = "classes"
    sums = {"acc": 0}  # noqa: RUF012 - class constant

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | str | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        class_counts: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(label_smoothing, int | float) or not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing}: must be a number in [0, 1)")
        if loss is not None and (label_smoothing or class_weights is not None):
            raise ValueError("label_smoothing and class_weights apply to cross-entropy only, not to a custom loss")
        # Not in checkpoints: the configuration and the facts determine them.
        self.register_buffer("class_weights_K", _class_weights(class_weights, class_counts), persistent=False)
        self.label_smoothing, self.loss = label_smoothing, loss

    def step(self, batch: tuple[Tensor, Tensor]) -> Outcome:
        """Return logits and loss for normalised images, shape (N, C, H, W), and their classes, shape (N,)."""
        inputs, labels_N = batch
        logits_NK = self(inputs)
        weights_K, smoothing = self.class_weights_K, self.label_smoothing if self.training else 0.0
        if weights_K is not None and weights_K.shape != logits_NK.shape[1:]:
            raise ValueError(
                f"class_weights: must be {logits_NK.shape[1]} numbers, one per class; found {len(weights_K)}"
            )
        if self.loss is not None:
            loss = self.loss(logits_NK, labels_N)
        elif self.training and weights_K is not None:
            losses_N = F.cross_entropy(logits_NK, labels_N, label_smoothing=smoothing, reduction="none")
            # A mean over samples, unlike PyTorch's, which divides by the weights of a batch (or of a process's part of it).
            loss = (weights_K[labels_N] * losses_N).mean()
        else:
            loss = F.cross_entropy(logits_NK, labels_N, label_smoothing=smoothing)
        num_correct = (logits_NK.argmax(dim=1) == labels_N).sum()
        return Outcome(loss, logits_NK, labels_N, {"acc": num_correct})


def _class_weights(given: Sequence[float] | str | None, counts: Sequence[int] | None) -> Tensor | None:
    """Return the factor of each class, shape (K,); None for 1 each."""
    if given is None:
        return None
    if given == "balanced":
        if counts is None:
            raise ValueError(
                "class_weights=balanced: these data do not report the class of each sample; give a number per class"
            )
        counts_K = torch.tensor(counts, dtype=torch.float32)
        return counts_K.sum() / counts_K.count_nonzero() / counts_K.clamp(min=1)
    weights: list[Any] = [] if isinstance(given, str) or not isinstance(given, Sequence) else list(given)
    if not any(weights) or not all(type(each) in (int, float) and 0 <= each < math.inf for each in weights):
        raise ValueError(
            f"class_weights={given}: must be balanced, or a number per class, 0 or larger and not all 0"
        )
    return torch.tensor(weights, dtype=torch.float32)


class Regression(Task):
    """Trains a network to predict numbers, shape (N,) or (N, T), like the targets.

    Logs the mean absolute error as `train/mae`, beside the loss.

    Args:
        loss: Function of predictions and targets that returns the mean loss; None: the mean squared error.
        kwargs: Arguments of `Task`: `network`, `optimizer`, `scheduler`, `metrics`.
    """

    kind = "values"
    sums = {"mae": 0.0}  # noqa: RUF012 - class constant

    def __init__(self, *, loss: Callable[[Tensor, Tensor], Tensor] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.loss = F.mse_loss if loss is None else loss

    def step(self, batch: tuple[Tensor, Tensor]) -> Outcome:
        """Return predictions and loss for inputs and targets."""
        inputs, targets = batch
        predictions = self(inputs)
        if targets.ndim == 1 and predictions.shape[1:] == (1,):
            predictions = predictions[:, 0]
        if predictions.shape != targets.shape:
            raise ValueError(
                f"predictions of shape {tuple(predictions.shape)} for targets of {tuple(targets.shape)}"
            )
        errors = (predictions.detach() - targets).abs()
        loss = self.loss(predictions, targets)
        return Outcome(loss, predictions, targets, {"mae": errors.mean() * len(targets)})


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
        self._checked = not isinstance(loss, nn.BCELoss)  # which checks only outputs

    def step(self, batch: Any) -> Outcome:
        """Return reconstruction and loss for inputs, shape (N, ...); targets, if the data have any, are ignored."""
        inputs: Tensor = batch[0] if isinstance(batch, list | tuple) else batch
        if not self._checked and len(inputs) and inputs.device.type != "meta":
            self._checked = True
            if not 0 <= inputs.min() <= inputs.max() <= 1:
                raise ValueError("BCELoss needs inputs in [0, 1], such as pixels with data.normalize=unit")
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


class Language(Task):
    """Trains a network to predict the next token at each position of a text, by logits, shape (N, T, K).

    Logs the loss, in nats per token, and the accuracy of the most likely token, as `train/acc`.

    Args:
        loss: Function of logits, shape (N, K, T), and tokens, shape (N, T), that returns the mean loss; None:
            cross-entropy.
        kwargs: Arguments of `Task`: `network`, `optimizer`, `scheduler`, `metrics`; metrics receive (N, T, K) and
            (N, T).
    """

    kind = "text"
    sums = {"acc": 0.0}  # noqa: RUF012 - class constant

    def __init__(self, *, loss: Callable[[Tensor, Tensor], Tensor] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.loss = _cross_entropy if loss is None else loss

    def step(self, batch: tuple[Tensor, Tensor]) -> Outcome:
        """Return logits and loss for tokens and their next tokens, both of shape (N, T)."""
        tokens_NT, next_NT = batch
        logits_NTK = self(tokens_NT)
        num_correct_N = (logits_NTK.argmax(dim=2) == next_NT).float().mean(dim=1)
        loss = self.loss(logits_NTK.transpose(1, 2), next_NT)
        return Outcome(loss, logits_NTK, next_NT, {"acc": num_correct_N.sum()})


def _cross_entropy(logits_NKT: Tensor, tokens_NT: Tensor) -> Tensor:
    # PyTorch's own mean over several axes is nondeterministic on CUDA, and raises with trainer.deterministic.
    return F.cross_entropy(logits_NKT, tokens_NT, reduction="none").mean()


@torch.no_grad()
def generate(
    network: nn.Module, prompt_T: Tensor, *, num_tokens: int, max_context: int, temperature: float, seed: int
) -> Tensor:
    """Sample a continuation of a prompt, token by token, from the network's probabilities.

    Args:
        network: Returns logits, shape (1, T, K), for tokens, shape (1, T); in evaluation mode.
        prompt_T: Tokens, shape (T,), at least one.
        num_tokens: Number of tokens to generate.
        max_context: Maximum number of tokens that the network accepts; it gets the last ones.
        temperature: Sampling temperature; near 0, the most likely token is chosen.
        seed: Seed of the sampling, which uses a generator of its own.

    Returns:
        Prompt and continuation, shape (T + num_tokens,).
    """
    generator = torch.Generator().manual_seed(seed)
    tokens_T = prompt_T
    for _ in range(num_tokens):
        logits_K = network(tokens_T[None, -max_context:])[0, -1].float().cpu()
        chosen = torch.multinomial((logits_K / temperature).softmax(dim=0), 1, generator=generator)
        tokens_T = torch.cat([tokens_T, chosen.to(tokens_T.device)])
    return tokens_T
