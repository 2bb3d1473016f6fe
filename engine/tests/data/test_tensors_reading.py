import functools

import pytest
import torch

from leyden.data import in_memory
from leyden.data.in_memory import read_tensors


class Numbers:
    """Counts how often it is read."""

    num = 0

    def __init__(self, root, train, download, offset=0.0):
        type(self).num += 1
        self.data = torch.arange(6.0).reshape(3, 2) + offset
        self.targets = torch.arange(3.0)


@pytest.fixture
def kept(monkeypatch):
    monkeypatch.setattr(in_memory, "_cache", None)
    monkeypatch.setattr(Numbers, "num", 0)
    monkeypatch.setattr("leyden.files.fetch.verify_files", lambda *_: None)
    in_memory.keep_tensors()
    in_memory.keep_tensors()


def count(*datasets, train=True, root="a"):
    before = Numbers.num
    for dataset in datasets:
        read_tensors(dataset, root, train=train, download=False)
    return Numbers.num - before


def test_one_data_set_is_kept(kept):
    one, other = functools.partial(Numbers, offset=1.0), functools.partial(Numbers, offset=2.0)
    assert count(one, one, functools.partial(Numbers, offset=1.0)) == 1
    assert count(one, one, train=False) == 1
    assert count(one) == 0  # both parts are kept
    assert count(one, root="b") == 1
    assert count(one, other, one) == 3
    assert count(Numbers, Numbers) == 1
    assert count(lambda **kwargs: Numbers(**kwargs), lambda **kwargs: Numbers(**kwargs)) == 2


def test_nothing_is_kept_where_one_run_is_all(monkeypatch, kept):
    monkeypatch.setattr(in_memory, "_cache", None)
    assert count(Numbers, Numbers) == 2
