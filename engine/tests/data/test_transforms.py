import pytest
import torch

from leyden.data.transforms import Normalize

PIXELS = torch.randint(256, (50, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_unit_is_division_by_255_to_the_bit():
    assert torch.equal(Normalize((0.0,) * 3, (1.0,) * 3)(PIXELS), PIXELS.float() / 255)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float64, torch.float16])
def test_what_it_is_given_stays_as_it_is(kind):
    given = PIXELS.to(kind)
    first = Normalize((0.1,) * 3, (0.3,) * 3)(given)
    assert torch.equal(given, PIXELS.to(kind))
    assert torch.equal(Normalize((0.1,) * 3, (0.3,) * 3)(given), first)


def test_standardize_gives_each_channel_mean_0_and_deviation_1():
    images = Normalize.standardize_pixels([PIXELS[:20], PIXELS[20:]])(PIXELS).double()
    assert images.mean(dim=(0, 2, 3)).abs().max() < 1e-6
    assert (images.std(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-6


def test_a_constant_channel_does_not_divide_by_zero():
    black = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    assert not Normalize.standardize_pixels([black])(black).any()
