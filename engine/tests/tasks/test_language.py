import math

import pytest
import torch
from torch import nn

from leyden.tasks import Language, generate


class Next(nn.Module):
    """Is nearly sure that the next number of K follows."""

    def __init__(self, num_words=5, sureness=20.0):
        super().__init__()
        self.sureness = nn.Parameter(torch.tensor(sureness))
        self.num_words, self.longest = num_words, 0

    def forward(self, tokens_NT):
        self.longest = max(self.longest, tokens_NT.shape[1])
        return self.sureness * nn.functional.one_hot((tokens_NT + 1) % self.num_words, self.num_words).float()


def test_the_loss_is_the_mean_over_all_tokens():
    tokens_NT = torch.arange(12).reshape(3, 4) % 5
    task = Language(network=Next(sureness=1.0))
    right, wrong = task.step((tokens_NT, (tokens_NT + 1) % 5)), task.step((tokens_NT, tokens_NT))
    total = math.log(math.e + 4)
    torch.testing.assert_close(right.loss, torch.tensor(total - 1))
    torch.testing.assert_close(wrong.loss, torch.tensor(total))
    assert (right.sums["acc"], wrong.sums["acc"]) == (3, 0)


def test_a_text_goes_on_as_the_network_says():
    network = Next()
    tokens_T = generate(network, torch.tensor([2]), num_tokens=6, max_context=3, temperature=1.0, seed=0)
    assert tokens_T.tolist() == [2, 3, 4, 0, 1, 2, 3]
    assert network.longest == 3


def test_the_seed_decides_the_text_and_nothing_else_is_drawn():
    before = torch.get_rng_state()
    unsure = Next(sureness=0.1)
    texts = [
        generate(unsure, torch.tensor([0]), num_tokens=30, max_context=9, temperature=1.0, seed=seed).tolist()
        for seed in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(torch.get_rng_state(), before)
    cold = generate(Next(), torch.tensor([0]), num_tokens=9, max_context=9, temperature=1e-3, seed=5)
    assert cold.tolist() == [n % 5 for n in range(10)]


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"logits of shape \(2, 7\) for tokens of \(2, 3\)"):
        Language(network=nn.Linear(3, 7)).step((torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64)))
