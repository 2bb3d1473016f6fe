"""What every network in conf/model must do: a new file needs no new test."""

import hydra
import pytest
import torch

from leyden import build
from leyden.config import CONF
from leyden.data.facts import Facts

MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
FACTS = Facts((1, 28, 28), 10, tuple("0123456789"), (0.0,), (1.0,))


@pytest.fixture(params=MODELS)
def make(request):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("train", overrides=[f"model={request.param}"])

    def make(seed=0, facts=FACTS):
        torch.manual_seed(seed)
        return build.network(cfg, facts)

    return make


def images(num, facts=FACTS):
    return torch.rand(num, *facts.input_shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("num", [1, 3])
def test_images_give_a_logit_a_class(make, num):
    assert make().eval()(images(num)).shape == (num, 10)


def test_the_data_decide_the_shape(make):
    facts = Facts((3, 32, 32), 7, tuple("abcdefg"), (0.0,) * 3, (1.0,) * 3)
    assert make(facts=facts).eval()(images(2, facts)).shape == (2, 7)


def test_the_loss_is_finite_and_every_parameter_gets_a_gradient(make):
    network = make()
    loss = torch.nn.functional.cross_entropy(network(images(8)), torch.arange(8))
    loss.backward()
    assert loss.isfinite()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_the_seed_decides_the_weights(make):
    first, again, other = (make(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_it_learns_a_batch_by_heart(make):
    network = make()
    labels = torch.arange(10)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(100):
        loss = torch.nn.functional.cross_entropy(network(images(10)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (network.eval()(images(10)).argmax(dim=1) == labels).all()
