"""`mark`: hashes are equal for equal content, and it never harms."""

import collections
import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from leyden.exact import mark
from tests.strangers.kinds import nested

module = sys.modules["leyden.exact.marks"]
X = torch.arange(12.0).reshape(3, 4)
Z = torch.view_as_complex(torch.arange(8.0).reshape(4, 2))
with warnings.catch_warnings():  # both are in beta
    warnings.simplefilter("ignore")
    ROWS = X.to_sparse_csr()
    torch.nested.nested_tensor([X[0]])


class Own:
    pass


class Broken:
    def state_dict(self):
        raise RuntimeError("no\nstate")


class Strange:
    def __getattr__(self, name):
        raise KeyError(name)


@pytest.fixture
def marks(tmp_path, monkeypatch):
    """The lines that were marked so far."""
    monkeypatch.setenv("LEYDEN_MARKS", str(tmp_path / "marks"))
    monkeypatch.setattr(module, "_warned", set())
    return lambda: [json.loads(line) for line in (tmp_path / "marks").read_text().splitlines()]


def hash_of(value, marks):
    mark(0, batch=value)
    return marks()[-1]["batch"]


def network():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2)


EQUAL = {
    "NaN": (torch.tensor([float("nan"), -0.0]), torch.tensor([float("nan"), -0.0])),
    "strides": (X, X.t().contiguous().t()),
    "conjugate": (Z.conj(), Z.conj().resolve_conj()),
    "sparse": (X.to_sparse(), X.to_sparse()),
    "nested": (nested(X[0], X[1, :2]), nested(X[0], X[1, :2])),
    "module": (network(), network()),
    "mapping": (collections.UserDict({1: 2, "a": [X]}), collections.UserDict({1: 2, "a": (X,)})),
    "set": ({"a", "b", "c"}, frozenset(("c", "b", "a"))),
    "objects": (np.array(["a", None, X], object), np.array(["a", None, X], object)),
    "own": ([Own()], [Own()]),
}
DIFFERENT = {
    "item": (X, torch.where(X == 5, 5.5, X)),
    "type": (X, X.double()),
    "shape": (torch.empty(0, 3), torch.empty(3, 0)),
    "sign of zero": (torch.tensor(0.0), torch.tensor(-0.0)),
    "sparse": (ROWS, 2 * ROWS),
    "nested": (nested(X[0], X[1]), nested(X[0], X[2])),
    "number": ({"a": 1}, {"a": 1.0}),
    "texts": (["ab", "c"], ["a", "bc"]),
    "attributes": (SimpleNamespace(nodes=X), SimpleNamespace(nodes=X + 1)),
    "class": ([Own()], [Strange]),
}


@pytest.mark.parametrize(("values", "is_equal"), [(EQUAL, True), (DIFFERENT, False)])
def test_equal_content_has_equal_hashes_and_other_content_another(values, is_equal, marks, capsys):
    for name, pair in values.items():
        a, b = (hash_of(value, marks) for value in pair)
        assert None not in (a, b), name
        assert (a == b) == is_equal, name
    assert capsys.readouterr().err == ""


@pytest.mark.gpu
def test_a_tensor_has_the_same_hash_on_every_device(marks):
    assert (
        hash_of(X, marks)
        == hash_of(X.cuda(), marks)
        == hash_of(X.t().contiguous().t().cuda(), marks)
    )


def test_an_optimizer_has_the_same_hash_after_it_was_loaded(marks, tmp_path):
    net, other = network(), network()
    optimizer = torch.optim.AdamW(net.parameters(), amsgrad=True)
    net(torch.ones(3)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "saved")
    loaded = torch.optim.AdamW(other.parameters(), amsgrad=True)
    mark(1, net, [optimizer])
    loaded.load_state_dict(torch.load(tmp_path / "saved", weights_only=True))
    mark(torch.tensor(1), net, [loaded])
    first, second = marks()
    assert first == second
    assert None not in (first["weights"], first["optimizer"])


@pytest.mark.parametrize(
    "make", [Broken, Strange, Own, torch.Generator, lambda: torch.nn.LazyLinear(3)]
)
def test_what_can_not_be_hashed_is_left_out_with_a_line(make, marks, capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    for step in (1, "epoch 1, batch 2"):
        mark(step, network(), None, make())
    weights = marks()[0]["weights"]
    nothing = {"rank": "1", "batch": None, "weights": weights, "optimizer": None}
    assert marks() == [{**nothing, "step": "1"}, {**nothing, "step": "epoch 1, batch 2"}]
    assert weights is not None
    line = capsys.readouterr().err
    assert line.startswith("leyden: batch: can't be hashed, and is not compared (")
    assert line.count("\n") == 1


def test_a_file_that_can_not_be_written_is_a_line(marks, monkeypatch, capsys):
    monkeypatch.setenv("LEYDEN_MARKS", "/no/such/folder/marks")
    for step in (1, 2):
        mark(step, network())
    assert capsys.readouterr().err.count("leyden: this step is not marked (FileNotFoundError") == 1
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(module, "_warned", set())
    mark(3, network())


def test_it_imports_numpy_alone():
    loaded = (Path(module.__file__).read_text()).split("\nMARKS")[0]
    assert [line for line in loaded.splitlines() if "leyden" in line or "torch" in line][1:] == []
