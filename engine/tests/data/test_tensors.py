import functools
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leyden.data import in_memory
from leyden.data.in_memory import digest_of_tensor, read_tensors, to_device, to_tensors

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


@pytest.mark.parametrize("data", [IMAGES, IMAGES.numpy(), IMAGES[..., None].expand(-1, -1, -1, 3)])
@pytest.mark.parametrize("targets", [LABELS, np.array(LABELS, np.uint8), torch.tensor(LABELS, dtype=torch.int32)])
def test_images_and_classes_of_any_make(data, targets):
    held = to_tensors(source(data=data, targets=targets))
    assert held.inputs.shape == (6, 1 if data.ndim == 3 else 3, 4, 5)
    assert (held.targets.tolist(), held.targets.dtype) == (LABELS, torch.int64)
    assert (held.facts.class_names, held.facts.num_classes) == (("a", "b", "c"), 3)
    assert held.facts.target_names is held.facts.vocabulary is held.overlap is None


@pytest.mark.parametrize("shape", [(6, 2), (6, 3, 4), (6, 1, 4, 5), (6, 2, 3, 4, 5)])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("classes", [False, True])
def test_real_numbers_of_any_shape_stay_what_they_are(shape, kind, classes):
    data = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(kind)
    held = to_tensors(source(data=data) if classes else without_classes(data=data))
    assert held.inputs.dtype == torch.float32
    assert torch.equal(held.inputs, data.float())


@pytest.mark.parametrize("targets", [NUMBERS, NUMBERS[:, 0], NUMBERS.double(), NUMBERS.numpy()])
def test_numbers_that_are_predicted_stay_what_they_are(targets):
    held = to_tensors(without_classes(targets=targets))
    assert held.targets.dtype == torch.float32
    assert torch.equal(held.targets, torch.as_tensor(targets).float())
    assert held.facts.target_names == (("target",) if targets.ndim == 1 else ("target_0", "target_1"))


def test_targets_have_names():
    assert to_tensors(without_classes(target_names=["height"])).facts.target_names == ("height",)


def test_texts_are_views_of_their_tokens():
    windows = torch.zeros(100, dtype=torch.int64).unfold(0, 9, 4)
    held = to_tensors(texts(data=windows[:, :-1], targets=windows[:, 1:], overlap=2))
    assert held.inputs.untyped_storage().data_ptr() == windows.untyped_storage().data_ptr()
    assert (held.facts.vocabulary, held.overlap) == (("a", "b", "c", "d"), 2)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (source(data=IMAGES.int()), "data are int32, shape (6, 4, 5); must be pixels, uint8"),
        (source(data=IMAGES.bool()), "data are bool"),
        (source(data=IMAGES[:, 0]), "data are uint8, shape (6, 5)"),
        (source(data=IMAGES[:0], targets=[]), "data are uint8, shape (0, 4, 5)"),
        (source(data=IMAGES / 0), "data are not all finite numbers"),
        (source(targets=[0.5, 1.0, 2.0, 2.0, 1.0, 0.0]), "targets are float32, shape (6,); must be whole numbers"),
        (source(targets=torch.tensor(LABELS) > 0), "targets are bool"),
        (
            source(targets=torch.eye(6, dtype=torch.int64)[:, :4]),
            "targets are int64, shape (6, 4); must be a class for",
        ),
        (source(targets=torch.zeros(6, 1, dtype=torch.int64)), "targets are int64, shape (6, 1)"),
        (
            source(targets=LABELS[:5]),
            "data are uint8, shape (6, 4, 5), targets int64, shape (5,); must be one target",
        ),
        (source(targets=[0, 1, 2, 3, 1, 0]), "a target is 3; must be from 0 to 2"),
        (source(targets=[0, 1, 2, -1, 1, 0]), "a target is -1; must be from 0 to 2"),
        (source(classes=[]), "a target is"),
        (
            without_classes(targets=LABELS),
            "targets are int64, shape (6,); must be real numbers, shape (N,) or (N, T)",
        ),
        (without_classes(targets=NUMBERS[:, :, None]), "targets are float32, shape (6, 2, 1)"),
        (without_classes(targets=NUMBERS * float("inf")), "targets are not all finite numbers"),
        (without_classes(target_names=["a", "b"]), "target_names are 2; must be 1"),
        (texts(data=TOKENS.float()), "data are float32, shape (6, 2); must be tokens"),
        (texts(targets=TOKENS[:, 0]), "targets are int64, shape (6,); must be tokens"),
        (texts(vocabulary="abc"), "data hold a token that is not in the vocabulary of 3"),
    ],
)
def test_what_is_none_is_refused_with_its_name(made, message):
    with pytest.raises(ValueError, match=re.escape(f"dataset=SimpleNamespace: {message}")):
        to_tensors(made)


@pytest.mark.parametrize("attribute", ["data", "targets"])
def test_what_lacks_an_attribute_is_refused_with_its_name(attribute):
    made = source()
    delattr(made, attribute)
    with pytest.raises(ValueError, match=f"dataset=SimpleNamespace: has no {attribute}"):
        to_tensors(made)


@given(st.lists(st.one_of(st.integers(-2, 4), st.floats(allow_nan=True)), min_size=6, max_size=6))
def test_a_label_is_kept_or_refused(targets):
    try:
        labels_N = to_tensors(source(targets=targets)).targets
    except ValueError:
        assert any(type(target) is float or not 0 <= target < 3 for target in targets)
    else:
        assert labels_N.tolist() == targets
        assert all(type(target) is int for target in targets)


def test_what_is_moved_keeps_its_strides_so_that_windows_stay_views():
    windows_NT = torch.arange(1000).unfold(0, 9, 2)
    for part in (windows_NT, windows_NT[:, 1:], windows_NT[3:, :-1]):
        there = to_device(part, torch.device("meta"))
        assert (there.shape, there.stride(), there.dtype) == (part.shape, part.stride(), part.dtype)
        assert there.storage_offset() == part.storage_offset()
        assert there.untyped_storage().nbytes() == 8 * 1000
        assert torch.equal(to_device(part, torch.device("cpu")), part)


def test_of_a_part_of_a_tensor_the_part_is_moved():
    there = to_device(torch.zeros(1000, 2)[:10], torch.device("meta"))
    assert there.untyped_storage().nbytes() == 10 * 2 * 4


@pytest.mark.gpu
def test_what_is_moved_to_a_gpu_is_the_same():
    windows_NT = torch.arange(1000).unfold(0, 9, 2)[3:, 1:]
    there = to_device(windows_NT, torch.device("cuda"))
    assert there.untyped_storage().nbytes() == 8 * 1000
    assert torch.equal(there[[5, 2]].cpu(), windows_NT[[5, 2]])


def test_a_tensor_is_identified_by_type_shape_and_values():
    values = torch.arange(6)
    same = digest_of_tensor(values)
    assert digest_of_tensor(values.clone()) == digest_of_tensor(torch.arange(12)[::2] // 2) == same
    others = [values.int(), values.reshape(2, 3), values.flip(0), values[:5], torch.empty(0)]
    assert len({same, *map(digest_of_tensor, others)}) == 6


def test_windows_that_overlap_are_not_copied_and_are_not_those_of_another_text():
    text = torch.arange(100)
    digests = {
        digest_of_tensor(each)
        for each in (text.unfold(0, 50, 1), text.unfold(0, 50, 2), (text + 1).unfold(0, 50, 1))
    }
    assert len(digests) == 3
    assert digest_of_tensor(text.unfold(0, 50, 1)) in digests


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
