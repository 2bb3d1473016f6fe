import functools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leyden.testing.contracts import compose
from tests.example import RMSprop

DEFAULTS = {"lr": 1e-3, "rho": 0.9, "eps": 1e-7}


GRADIENTS = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=8)


def assert_follows(gradients, optimizer_of, step, rho, **close):
    """The weight that it steps goes where a formula of the gradient and of the mean of its squares says."""
    w = torch.nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
    optimizer, expected, v = optimizer_of([w]), 0.5, 0.0
    for g in gradients:
        w.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
        v = rho * v + (1 - rho) * g**2
        expected -= step(g, v)
        assert w.item() == pytest.approx(expected, **close)


@given(GRADIENTS, st.floats(1e-5, 1), st.floats(0, 0.99), st.floats(1e-8, 1))
def test_follows_the_formula(gradients, lr, rho, eps):
    made = functools.partial(RMSprop, lr=lr, rho=rho, eps=eps)
    assert_follows(gradients, made, lambda g, v: lr * g / (v + eps) ** 0.5, rho, rel=1e-9, abs=1e-9)


def test_that_of_keras_2_is_optimizer_rmsprop():
    """The note is of 2021, when Keras 2 was current, which stepped by lr g / (√v + ε)."""
    node = compose("optimizer=rmsprop").optimizer
    assert (node.lr, node.alpha, node.eps, node.weight_decay) == (1e-3, 0.9, 1e-7, 0.0)
    made = functools.partial(torch.optim.RMSprop, lr=node.lr, alpha=node.alpha, eps=node.eps)
    gradients = (1e-9, -3.0, 1e-4, 0.2, 0.0, 50.0)
    assert_follows(gradients, made, lambda g, v: 1e-3 * g / (v**0.5 + 1e-7), 0.9, rel=0, abs=1e-15)


@pytest.mark.parametrize("wrong", [{"lr": 0}, {"lr": float("nan")}, {"rho": 1}, {"rho": -0.1}, {"eps": 0}])
def test_refuses_what_is_out_of_range(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        RMSprop([torch.nn.Parameter(torch.ones(1))], **{**DEFAULTS, **wrong})
