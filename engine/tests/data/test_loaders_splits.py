import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leyden.data.loaders import split


@given(
    num=st.integers(2, 60),
    val_size=st.integers(0, 60),
    seed=st.integers(0, 5),
    num_folds=st.none() | st.integers(2, 8),
    fold=st.integers(0, 7),
    overlap=st.none() | st.integers(0, 3),
)
def test_splits_have_nothing_in_common(num, val_size, seed, num_folds, fold, overlap):
    try:
        parts = split(num, val_size=val_size, seed=seed, num_folds=num_folds, fold=fold, overlap=overlap)
    except ValueError:
        return
    train, val = parts["train"].tolist(), parts.get("val", torch.tensor([])).tolist()
    assert len({*train, *val}) == len(train) + len(val)
    assert train
    if overlap is None:
        assert len(train) + len(val) == num
    elif val:  # neighbours that share something are on one side
        assert min(abs(a - b) for a in train for b in val) > overlap
        assert val == list(range(val[0], val[-1] + 1))
    if num_folds is None:
        assert len(val) == val_size


@given(num=st.integers(2, 60), num_folds=st.integers(2, 8), seed=st.integers(0, 5))
def test_each_sample_is_in_one_fold(num, num_folds, seed):
    if num_folds > num:
        return
    folds = [split(num, val_size=0, seed=seed, num_folds=num_folds, fold=k)["val"] for k in range(num_folds)]
    assert sorted(torch.cat(folds).tolist()) == list(range(num))
    assert max(map(len, folds)) - min(map(len, folds)) <= 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"val_size": 10}, "val_size=10: must be smaller"),
        ({"num_folds": 11}, "num_folds=11, fold=0: must be 2 to 10 folds"),
        ({"num_folds": 3, "fold": 3}, "num_folds=3, fold=3: must be"),
        ({"val_size": 8, "overlap": 2}, "leaves nothing to train on"),
    ],
)
def test_what_can_not_be_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        split(10, **{"val_size": 0, "seed": 0, **given})
