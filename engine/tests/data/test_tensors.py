"""Data in memory: which tensors are taken as what, what is refused, and what a sweep's jobs share."""

import functools
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from leyden.data import in_memory
from leyden.data.in_memory import read_tensors, to_device, to_tensors

IMAGES = torch.zeros(6, 4, 5, dtype=torch.uint8)
LABELS = [0, 1, 2, 2, 1, 0]
NUMBERS = torch.linspace(0, 1, 12).reshape(6, 2)
TOKENS = torch.arange(12).reshape(6, 2) % 4


def source(**changed):
    return SimpleNamespace(**{"data": IMAGES, "targets": LABELS, "classes": ["a", "b", "c"], **changed})


def without_classes(**changed):
    return SimpleNamespace(**{"data": NUMBERS, "targets": NUMBERS[:, 0], **changed})


def texts(**changed):
    return SimpleNamespace(**{"data": TOKENS, "targets": TOKENS, "vocabulary": "abcd", **changed})


def test_images_and_classes_of_any_make():
    for data, targets in (
        (IMAGES, LABELS),
        (IMAGES.numpy(), np.array(LABELS, np.uint8)),
        (IMAGES[..., None].expand(-1, -1, -1, 3), torch.tensor(LABELS, dtype=torch.int32)),
    ):
        held = to_tensors(source(data=data, targets=targets))
        assert held.inputs.shape == (6, 1 if data.ndim == 3 else 3, 4, 5)
        assert (held.targets.tolist(), held.targets.dtype) == (LABELS, torch.int64)
        assert (held.facts.class_names, held.facts.num_classes) == (("a", "b", "c"), 3)
        assert held.facts.target_names is held.facts.vocabulary is held.overlap is None


def test_real_numbers_of_any_shape_are_inputs_and_targets_with_names():
    for shape in ((6, 2), (6, 2, 3, 4, 5)):
        data = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(torch.float16)
        for held in (to_tensors(source(data=data)), to_tensors(without_classes(data=data))):
            assert torch.equal(held.inputs, data.float())
    for targets, names in ((NUMBERS.numpy(), ("target_0", "target_1")), (NUMBERS[:, 0].double(), ("target",))):
        held = to_tensors(without_classes(targets=targets))
        assert torch.equal(held.targets, torch.as_tensor(targets).float())
        assert held.facts.target_names == names
    assert to_tensors(without_classes(target_names=["height"])).facts.target_names == ("height",)


def test_texts_are_views_of_their_tokens():
    windows = torch.zeros(100, dtype=torch.int64).unfold(0, 9, 4)
    held = to_tensors(texts(data=windows[:, :-1], targets=windows[:, 1:], overlap=2))
    assert held.inputs.untyped_storage().data_ptr() == windows.untyped_storage().data_ptr()
    assert (held.facts.vocabulary, held.overlap) == (("a", "b", "c", "d"), 2)


LENGTHS = "data are uint8, shape (6, 4, 5), targets int64, shape (5,); must be one target"
HALVES = "targets are float32, shape (6,); must be whole numbers, of 1 axes"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (source(data=IMAGES.int()), "data are int32, shape (6, 4, 5); must be real numbers, or have names"),
        (source(data=IMAGES[:, 0]), "data are uint8, shape (6, 5); pixels must have shape"),
        (source(data=IMAGES / 0), "data are not all finite numbers"),
        (source(targets=torch.tensor(LABELS) / 2), HALVES),
        (source(targets=torch.zeros(6, 1, dtype=torch.int64)), "targets are int64, shape (6, 1); must be whole"),
        (source(targets=LABELS[:5]), LENGTHS),
        (source(targets=[0, 1, 2, 3, 1, 0]), "targets are from 0 to 3; must be from 0 to 2"),
        (without_classes(targets=LABELS), "targets are int64, shape (6,); must be real numbers, or have names"),
        (without_classes(target_names=["a", "b"]), "target_names are 2; must be 1"),
        (texts(data=TOKENS.float()), "data are float32, shape (6, 2); must be whole numbers, of 2 axes"),
        (texts(vocabulary="abc"), "data are from 0 to 3; must be from 0 to 2"),
    ],
)
def test_what_is_none_is_refused(made, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        to_tensors(made)


def test_what_is_moved_keeps_its_strides_so_that_windows_stay_views():
    windows_NT = torch.arange(1000).unfold(0, 9, 2)
    for part in (windows_NT, windows_NT[:, 1:], windows_NT[3:, :-1]):
        there = to_device(part, torch.device("meta"))
        assert (there.shape, there.stride(), there.dtype) == (part.shape, part.stride(), part.dtype)
        assert there.storage_offset() == part.storage_offset()
        assert there.untyped_storage().nbytes() == 8 * 1000
        assert torch.equal(to_device(part, torch.device("cpu")), part)
    there = to_device(torch.zeros(1000, 2)[:10], torch.device("meta"))  # of a part of a tensor, the part is moved
    assert there.untyped_storage().nbytes() == 10 * 2 * 4


@pytest.mark.gpu
def test_what_is_moved_to_a_gpu_is_the_same():
    windows_NT = torch.arange(1000).unfold(0, 9, 2)[3:, 1:]
    there = to_device(windows_NT, torch.device("cuda"))
    assert there.untyped_storage().nbytes() == 8 * 1000
    assert torch.equal(there[[5, 2]].cpu(), windows_NT[[5, 2]])


class Numbers:
    """Counts how often it is read."""

    num = 0

    def __init__(self, root, train, download, offset=0.0, draws=False):
        type(self).num += 1
        self.data = torch.arange(6.0).reshape(3, 2) + offset + (torch.rand(1) if draws else 0.0)
        self.targets = torch.arange(3.0)


def count(*datasets, train=True, root="a"):
    before = Numbers.num
    for dataset in datasets:
        read_tensors(dataset, root, train=train, download=False)
    return Numbers.num - before


def test_jobs_read_the_same_data_once(monkeypatch):
    monkeypatch.setattr(in_memory, "_cache", None)
    assert count(Numbers, Numbers) == 2  # where one run is all
    in_memory.keep_tensors()
    one, other = functools.partial(Numbers, offset=1.0), functools.partial(Numbers, offset=2.0)
    assert count(one, one, functools.partial(Numbers, offset=1.0)) == 1
    assert count(one, one, train=False) == 1
    assert count(one, root="b") == 1
    assert count(other, other) == 1
    assert count(Numbers, Numbers) == 1
    assert count(lambda **kwargs: Numbers(**kwargs), lambda **kwargs: Numbers(**kwargs)) == 2
    drawn = functools.partial(Numbers, draws=True)  # depends on a job's seed
    assert count(drawn, drawn) == 2
