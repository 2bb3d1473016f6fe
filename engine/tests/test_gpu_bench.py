"""The benchmark for a GPU, on a machine without one: all of its programs run, and its loops are right."""

import importlib

import pytest
import torch

from tests import ENGINE

SMALL = ("model.hidden_sizes=[16]", "data.batch_size=50")


@pytest.fixture
def bench(monkeypatch):
    """Imports a module of bench/."""
    monkeypatch.syspath_prepend(ENGINE / "bench")
    return importlib.import_module


@pytest.fixture
def problem(bench, mnist_root):
    """A recipe and its data, on a device."""

    def problem(*overrides, device="cpu"):
        made = bench("gpu_loops").read(list(overrides), torch.device("cpu"))()
        return made._replace(**{name: getattr(made, name).to(device) for name in ("inputs", "targets")})

    return problem


def test_what_fails_has_a_row(bench):
    rounds = bench("rounds")
    why = rounds.reason("Traceback\ntorch.OutOfMemoryError: CUDA | out of memory\nset a variable\n", 1)
    runs = {"a": [{"s": 2.0}, {"s": 3.0}], "b": [{"failed": why}, {"s": 1.0}], "c": [{"s": 1.0}, {"s": 6.0}]}
    assert rounds.table(
        "name", runs, rounds.Column("seconds", "s"), rounds.Column("÷ c", "s", "c")
    ).splitlines() == [
        "| name | seconds | ÷ c |",
        "| --- | --- | --- |",
        "| a | 2.5 (2 to 3) | 1.25 |",
        "| b | failed: torch.OutOfMemoryError: CUDA / out of memory |  |",
        "| c | 3.5 (1 to 6) | 1 |",
    ]


def test_copies_by_vmap_are_those_trained_one_after_another(bench, problem):
    given = problem(*SMALL)
    orders_CSN = torch.randint(len(given.inputs), (3, 5, 50), generator=torch.Generator().manual_seed(0))
    found = {}
    for way in ("in turn", "vmap"):
        run, parameters = bench("gpu_loops").prepare(given, way, 3, graph=False)
        run(orders_CSN)
        found[way] = parameters
    first, second, _ = found["in turn"]
    assert not torch.allclose(first["layers.1.weight"], second["layers.1.weight"])  # each has its own
    for one, other in zip(*found.values(), strict=True):
        for name, weights in one.items():
            torch.testing.assert_close(other[name], weights.detach(), rtol=0, atol=1e-5)
