"""Texts: the next token. Shapes: N samples of a batch, T tokens of each, K words of the vocabulary."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leyden.tasks.task import Outcome, Task


class Language(Task):
    """Trains a network to tell the next token at each place of a text, by logits, shape (N, T, K).

    It logs the loss, in nats per token, and how often the likeliest token is the right one, as `train/acc`.

    Args:
        loss: Takes logits, shape (N, K, T), and tokens, shape (N, T), and gives the mean loss; None: cross-entropy.
        further: As `Task` has it: `network`, `optimizer`, `scheduler`, `metrics`; metrics take (N, T, K) and (N, T).
    """

    kind = "text"
    sums = {"acc": 0.0}  # noqa: RUF012 - a constant of the class

    def __init__(self, *, loss: Callable[[Tensor, Tensor], Tensor] | None = None, **further: Any) -> None:
        super().__init__(**further)
        self.loss = _cross_entropy if loss is None else loss

    def step(self, batch: tuple[Tensor, Tensor]) -> Outcome:
        """Logits and loss of tokens and of those that follow each of them, both of shape (N, T)."""
        tokens_NT, next_NT = batch
        logits_NTK = self(tokens_NT)
        if logits_NTK.shape[:2] != next_NT.shape:
            raise ValueError(f"logits of shape {tuple(logits_NTK.shape)} for tokens of {tuple(next_NT.shape)}")
        num_correct_N = (logits_NTK.argmax(dim=2) == next_NT).float().mean(dim=1)
        loss = self.loss(logits_NTK.transpose(1, 2), next_NT)
        return Outcome(loss, logits_NTK, next_NT, {"acc": num_correct_N.sum()})


def _cross_entropy(logits_NKT: Tensor, tokens_NT: Tensor) -> Tensor:
    # Its own mean over several axes is another one each time on CUDA, where PyTorch refuses it by trainer.deterministic.
    return F.cross_entropy(logits_NKT, tokens_NT, reduction="none").mean()


@torch.no_grad()
def generate(
    network: nn.Module, prompt_T: Tensor, *, num_tokens: int, max_context: int, temperature: float, seed: int
) -> Tensor:
    """A text that goes on from a prompt, token by token, as the network's probabilities say.

    Args:
        network: Gives logits, shape (1, T, K), of tokens, shape (1, T); in evaluation mode.
        prompt_T: Tokens, shape (T,), at least one.
        num_tokens: How many come after it.
        max_context: Tokens that the network takes at once; it sees the last ones.
        temperature: Of the probabilities; near 0 the likeliest token follows.
        seed: Of the choices, which draw no other random numbers.

    Returns:
        Prompt and text, shape (T + num_tokens,).
    """
    chance = torch.Generator().manual_seed(seed)
    tokens_T = prompt_T
    for _ in range(num_tokens):
        logits_K = network(tokens_T[None, -max_context:])[0, -1].float().cpu()
        chosen = torch.multinomial((logits_K / temperature).softmax(dim=0), 1, generator=chance)
        tokens_T = torch.cat([tokens_T, chosen.to(tokens_T.device)])
    return tokens_T
