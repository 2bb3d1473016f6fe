"""Samples that worker processes read: the same bits as without them, and no process left behind; and data sets by `_target_`."""

import functools
import gc
import itertools
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from leyden.base.errors import UserError
from leyden.data.contract import Facts
from leyden.data.streamed import DatasetDataModule, SeededSamples, StreamLoader
from tests.conftest import start
from tests.data import folders
from tests.data.test_in_memory import samples as in_memory
from tests.forks import TIMEOUT_S, is_running, wait_for_end


class Made(Dataset):
    """Samples that a function makes of an index; keeps what was read in this process."""

    def __init__(self, make, num_samples=12):
        self.make = make
        self.num_samples = num_samples
        self.read = []

    def __len__(self):
        return self.num_samples

    def __getitem__(self, index):
        self.read.append(index)
        return self.make(index)


def numbers(index):
    """The index, and a number from each of the sources of random numbers."""
    row = [
        index,
        random.random(),
        np.random.random(),
        np.random.default_rng().random(),
        torch.rand(()),
    ]
    return torch.tensor(row).double(), index % 3


def noise(inputs_NI):
    return inputs_NI + torch.rand_like(inputs_NI)


def loader(num_workers=0, num_samples=23, *, make=numbers, seed=0, augment=None, **changed):
    samples = SeededSamples(Made(make, num_samples), seed or 0, augment)
    indices = torch.arange(num_samples)
    options = {"batch_size": 4, "num_workers": num_workers, "seed": seed}
    return StreamLoader(samples, indices, **options | changed)


def rows_of(stream, epoch=0):
    """All inputs of an epoch, in their order."""
    stream.order.set_epoch(epoch)
    return torch.cat([inputs_NI for inputs_NI, _ in stream])


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    if multiprocessing.active_children():
        gc.collect()
    assert multiprocessing.active_children() == []


def test_workers_change_no_bit_and_the_numbers_follow_from_seed_epoch_and_index_alone():
    expected = [rows_of(loader(augment=noise), epoch) for epoch in range(3)]
    for num_workers in (1, 4):
        stream = loader(num_workers, augment=noise)
        for epoch in range(3):
            # An iteration that is left, of which more is under way by then.
            list(itertools.islice(stream, 2))
            rows = rows_of(stream, epoch)
            assert torch.equal(rows, expected[epoch]), (num_workers, epoch)
    values = torch.cat(expected)[:, 1:].flatten()
    assert len(values.unique()) == len(values)  # each epoch and each sample has numbers of its own


def test_the_numbers_of_a_sample_follow_from_the_seed_and_not_from_its_batch():
    rows = rows_of(loader(), 1)
    assert torch.equal(rows_of(loader(batch_size=7), 1), rows)
    other = rows_of(loader(seed=1), 1)
    by_index = {index: row for index, *row in rows.tolist()}
    for index, *row in other.tolist():
        assert row != by_index[index]


def test_what_this_process_draws_stays_as_it_is():
    drawn = []
    for batches in (range(6), loader(0), loader(2)):
        random.seed(5)
        np.random.seed(5)
        torch.manual_seed(5)
        found = []
        for _ in batches:
            found += [random.random(), np.random.random(), torch.rand(()).item()]
        drawn.append(found)
    assert drawn[0] == drawn[1] == drawn[2]


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("rank", range(3))
def test_its_batches_are_those_of_data_in_memory_if_empty_too(rank, seed):
    share = {"rank": rank, "world_size": 3, "seed": seed}
    stream = loader(num_samples=9, **share)
    stream.order.set_epoch(2)
    found = []
    for inputs_NI, labels_N in stream:
        found.append(inputs_NI[:, 0].tolist())
        assert inputs_NI.shape[1:] == (5,)
        assert labels_N.dtype == torch.int64
    assert found == in_memory(9, epoch=2, **share)


@pytest.mark.parametrize(("position", "num_workers"), [(0, 2), (1, 0), (5, 2), (6, 0)])
def test_it_resumes_where_it_was_and_reads_nothing_again(position, num_workers):
    expected = rows_of(loader()).tolist()
    stopped = loader(num_workers)
    resumed = loader(num_workers)
    list(zip(range(position), stopped, strict=False))
    resumed.load_state_dict(stopped.state_dict())
    rest = [row for inputs_NI, _ in resumed for row in inputs_NI.tolist()]
    assert rest == expected[4 * position :]
    if not num_workers:
        assert resumed.samples.dataset.read == [int(row[0]) for row in rest]
    assert rows_of(resumed).tolist() == expected  # the next epoch is whole again


def test_it_resumes_with_as_many_samples_only():
    with pytest.raises(UserError, match="there were 22 training samples, now there are 23"):
        loader().load_state_dict({"position": 1, "num_samples": 22})


HERE = os.getpid()
BY_PYTORCH = r"DataLoader worker .*(killed|exited)"
BY_LEYDEN = r"(?s)fails where this one does not.*KeyError: 'elsewhere'"


def fails_at_13(index):
    return numbers(index) if index != 13 else {}["thirteen"]


def fails_elsewhere(index):
    return numbers(index) if os.getpid() == HERE else {}["elsewhere"]


def is_killed_at_13(index):
    if index == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return numbers(index)


@pytest.mark.parametrize(
    ("num_workers", "make", "error", "message"),
    [
        (0, fails_at_13, KeyError, "thirteen"),
        (2, fails_at_13, KeyError, "thirteen"),
        (2, fails_elsewhere, RuntimeError, BY_LEYDEN),
        (2, is_killed_at_13, RuntimeError, BY_PYTORCH),
    ],
)
def test_what_can_not_be_read_ends_the_iteration_and_a_mistake_shows_its_line(
    monkeypatch, num_workers, make, error, message
):
    # Seconds after which PyTorch looks whether its workers are there.
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.1,))
    stream = loader(num_workers, make=make)
    with pytest.raises(error, match=message) as found:
        list(stream)
    assert error is not KeyError or found.traceback[-1].path == Path(__file__)
    del found  # which holds all that was under way
    stream.close()


def slowly(index):
    time.sleep(0.05)
    return numbers(index)


def test_what_a_cluster_sends_to_all_processes_ends_no_worker():
    stream = loader(2, 12, make=slowly)
    batches = iter(stream)
    found = [next(batches)]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        for process in multiprocessing.active_children():
            os.kill(process.pid, number)
    assert len([*found, *batches]) == len(stream)
    stream.close()
    assert multiprocessing.active_children() == []
    assert len(list(stream)) == len(stream)  # with new ones
    stream.close()


@pytest.mark.parametrize(
    ("by", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, -15), (signal.SIGINT, 1), (None, 0)]
)
@pytest.mark.slow
@pytest.mark.matrix
def test_workers_end_with_the_process_that_has_them(by, code):
    seconds = "600" if by else "0.5"
    process = start(seconds, script=("-m", "tests.data.test_streamed"), anew=True)
    assert process.stdout.readline() == "ready\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = children.read_text().split()
    assert len(workers) == 2
    assert all(map(is_running, workers))
    if by:
        process.send_signal(by)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == code
    wait_for_end(workers)


def module(train, **changed):
    options = {"val": None, "test": None, "root": "somewhere", **folders.SPLITS}
    return DatasetDataModule(train=train, **options | changed)


def floats(index):
    return torch.full((3,), float(index)), float(index)


def pixels(index):
    return torch.full((3, 4, 4), index, dtype=torch.uint8), index % 2


def test_facts_come_from_the_data_set_and_its_first_sample():
    dataset = Made(pixels, 20)
    dataset.classes = ("even", "odd")
    data = module(dataset, val_size=4, test=dataset)
    assert data.facts == Facts((3, 4, 4), 2, ("even", "odd"), (0.0,) * 3, (1.0,) * 3, 255.0)
    assert data.sizes == {"train": 16, "val": 4}


def test_what_is_no_pixels_stays_as_it_is():
    data = module(Made(floats), val=Made(floats))
    assert data.facts == Facts((3,), scale=1.0, target_names=("target",))
    inputs_NI, targets_N = next(iter(data.val_dataloader()))
    assert inputs_NI[:, 0].tolist() == [0, 1, 2, 3]
    assert targets_N.tolist() == [0, 1, 2, 3]


def test_a_data_set_of_any_kind_is_split_in_order_or_by_group():
    dataset = Made(floats, 20)
    dataset.patients = ["p0", "p1", "p2", "p3", "p4"] * 4
    dataset.overlap = dataset.groups = 3  # another one's own attributes
    data = module(dataset, val_size=4)
    data.setup("fit")
    assert data.how_split == "random"
    data = module(dataset, val_size=4, overlap=2)
    data.setup("fit")
    assert data.indices["train"].tolist() == [*range(14)]
    assert data.indices["val"].tolist() == [*range(16, 20)]
    data = module(dataset, val_size=5, groups="patients", test=dataset)
    data.setup("fit")
    assert data.how_split == "by group"
    assert data.sizes == {"train": 12, "val": 8}
    with pytest.raises(ValueError, match="test: has groups of the training set: p0, p1"):
        data.setup("test")
    for changed, said in (
        ({"groups": "sites"}, "groups=sites: Made has no such attribute"),
        ({"overlap": -1}, "overlap=-1"),
    ):
        with pytest.raises(ValueError, match=said):
            module(dataset, **changed).setup("fit")


ONES = torch.ones(2)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda n: {"a": ONES, "b": n}, "b"),
        (lambda n: ONES, slice(None)),
        (lambda n: (ONES, n, n), 0),
    ],
)
def test_samples_that_are_no_pairs_are_the_data_sets_own(make, part):
    data = module(Made(make))
    assert data.facts.input_shape is data.inputs is None
    first = next(iter(data.train_dataloader()))
    assert len(first[part]) == 5
    for changed in ({"augment": noise}, {"normalize": "standardize"}):
        with pytest.raises(ValueError, match="the samples of Made are not pairs of tensors"):
            module(Made(make), **changed).setup("fit")


def test_each_is_made_when_it_is_asked_for_with_the_root():
    made = []

    def rooted(root, part):
        made.append((root, part))
        return Made(numbers)

    parts = {part: functools.partial(rooted, part=part) for part in ("train", "val", "test")}
    data = module(**parts)
    assert made == []
    data.setup("fit")
    assert made == [("somewhere", "train"), ("somewhere", "val")]
    data.setup("test")
    data.setup("test")
    assert made[2:] == [("somewhere", "test")]
    module(functools.partial(rooted, root="its own", part="train")).setup("fit")
    assert made[3:] == [("its own", "train")]


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (Made(numbers, 0), ValueError, "train=Made: has no samples"),
        (
            Made(numbers),
            ValueError,
            r"normalize=standardize: is for pixels, uint8; the data set gives torch\.float",
        ),
        (
            Made(lambda index: object()),
            TypeError,
            r"default_collate: batch must contain tensors.*object",
        ),
    ],
)
def test_what_is_no_data_set_is_refused(dataset, error, message):
    with pytest.raises(error, match=message):
        module(dataset, normalize="standardize").setup("fit")


if __name__ == "__main__":
    stream = loader(2, make=slowly)
    next(iter(stream))
    try:
        print("ready", flush=True)
        time.sleep(float(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(1)
