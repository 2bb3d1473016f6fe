"""Transformer that predicts the next token.

Shapes: N texts in a batch, T tokens per text, D features per token, K tokens in the vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Transformer(nn.Module):
    """Decoder-only transformer with causal attention, as GPT-2: pre-norm blocks, learned positions.

    Source: Vaswani et al., Attention is all you need (2017); Radford et al., Language models are
    unsupervised multitask learners (2019).

    Args:
        input_shape: (T,), the maximum context length in tokens.
        vocab_size: K, the size of the vocabulary.
        num_layers: Number of blocks.
        num_heads: Number of attention heads per block.
        hidden_size: D, a multiple of `num_heads`.
        dropout: Dropout probability, in [0, 1).

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> network = Transformer(
        ...     input_shape=(8,), vocab_size=5, num_layers=1, num_heads=2, hidden_size=4, dropout=0.0
        ... )
        >>> network(torch.zeros(3, 8, dtype=torch.int64)).shape
        torch.Size([3, 8, 5])
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int],
        vocab_size: int,
        num_layers: int,
        num_heads: int,
        hidden_size: int,
        dropout: float,
    ) -> None:
        super().__init__()
        sizes = {"num_layers": num_layers, "num_heads": num_heads, "hidden_size": hidden_size}
        for name, size in sizes.items():
            if type(size) is not int or size < 1:
                raise ValueError(f"{name}={size}: must be a positive whole number")
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size={hidden_size}: no multiple of num_heads={num_heads}")
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: must be a number in [0, 1)")
        (context,) = input_shape
        self.tokens = nn.Embedding(vocab_size, hidden_size)
        self.positions = nn.Embedding(context, hidden_size)
        blocks = [Block(hidden_size, num_heads, dropout) for _ in range(num_layers)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(hidden_size)
        self.head = nn.Linear(hidden_size, vocab_size)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, tokens_NT: Tensor) -> Tensor:
        """Return logits of each next token, shape (N, T, K), for tokens, shape (N, T), int64."""
        num_tokens = tokens_NT.shape[1]
        positions_T = torch.arange(num_tokens, device=tokens_NT.device)
        hidden_NTD = self.tokens(tokens_NT) + self.positions(positions_T)
        hidden_NTD = self.blocks(hidden_NTD)
        hidden_NTD = self.norm(hidden_NTD)
        logits_NTK: Tensor = self.head(hidden_NTD)
        return logits_NTK


class Block(nn.Module):
    """Transformer block: causal self-attention, then a two-layer MLP, both residual.

    Args:
        hidden_size: D, a multiple of `num_heads`.
        num_heads: Number of attention heads.
        dropout: Dropout probability, in [0, 1).
    """

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(hidden_size)
        self.norm2 = nn.LayerNorm(hidden_size)
        self.attend = nn.Linear(hidden_size, 3 * hidden_size)
        self.project = nn.Linear(hidden_size, hidden_size)
        self.dense = nn.Sequential(
            nn.Linear(hidden_size, 4 * hidden_size),
            nn.GELU(),
            nn.Linear(4 * hidden_size, hidden_size),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_NTD: Tensor) -> Tensor:
        """Map features of shape (N, T, D) to the same shape."""
        update_NTD = self._attended(self.norm1(hidden_NTD))
        hidden_NTD = hidden_NTD + self.dropout(update_NTD)
        update_NTD = self.dense(self.norm2(hidden_NTD))
        return hidden_NTD + self.dropout(update_NTD)

    def _attended(self, hidden_NTD: Tensor) -> Tensor:
        """Return for each token what it takes from itself and the tokens before it."""
        all_parts = self.attend(hidden_NTD)
        query, key, value = all_parts.chunk(3, dim=2)
        attended_NHTD = F.scaled_dot_product_attention(
            self._by_head(query),
            self._by_head(key),
            self._by_head(value),
            is_causal=True,
        )
        attended_NTHD = attended_NHTD.transpose(1, 2)
        update_NTD: Tensor = self.project(attended_NTHD.flatten(2))
        return update_NTD

    def _by_head(self, part_NTD: Tensor) -> Tensor:
        """Return features by head, shape (N, heads, T, D / heads)."""
        part_NTHD = part_NTD.unflatten(2, (self.num_heads, -1))
        return part_NTHD.transpose(1, 2)
