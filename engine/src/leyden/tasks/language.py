"""Language modelling: next-token prediction.

Shapes: N samples of a batch, T tokens per sample, K vocabulary entries.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leyden.tasks.task import Outcome, Task


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
        if logits_NTK.shape[:2] != next_NT.shape:
            raise ValueError(f"logits of shape {tuple(logits_NTK.shape)} for tokens of {tuple(next_NT.shape)}")
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
