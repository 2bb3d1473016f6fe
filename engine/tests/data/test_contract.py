"""What is read of loaders that anybody made."""

import pytest
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, WeightedRandomSampler

from leyden.data.contract import num_samples

ROWS = range(7)


class Pairs:
    """A batch sampler of one's own."""

    def __len__(self):
        return 20

    def __iter__(self):
        yield from [[0, 1]] * 20


@pytest.mark.parametrize(
    ("given", "num"),
    [
        ({"batch_size": 2}, 7),
        ({"batch_size": None}, 7),
        ({"sampler": WeightedRandomSampler([1.0] * 7, 30)}, 30),
        ({"sampler": RandomSampler(ROWS, num_samples=3)}, 3),
        ({"batch_sampler": BatchSampler(SequentialSampler(ROWS), 2, drop_last=False)}, 7),
        ({"batch_sampler": Pairs()}, None),
    ],
)
def test_the_samples_of_an_epoch_are_those_that_its_sampler_draws(given, num):
    assert num_samples(DataLoader(ROWS, **given)) == num
