"""Samples that worker processes read: the same bits as without them, and no process left behind; and data sets by `_target_`."""

import functools
import gc
import itertools
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from leyden.config.errors import UserError
from leyden.data.streamed import DatasetDataModule, SeededSamples, StreamLoader
from tests.conftest import start
from tests.data import folders
from tests.data.test_splits import samples as in_memory
from tests.forks import TIMEOUT_S, is_running, wait_for_end


class Noisy(Dataset):
    """Index, and a number from each of the sources of random numbers; keeps what was read in this process."""

    def __init__(self, num_samples=23, act=lambda index: None):
        self.num_samples, self.act, self.read = num_samples, act, []

    def __len__(self):
        return self.num_samples

    def __getitem__(self, index):
        self.act(index)
        self.read.append(index)
        numbers = random.random(), np.random.random(), np.random.default_rng().random()
        return torch.tensor([index, *numbers, torch.rand(())]).double(), index % 3


def noise(inputs_NI):
    return inputs_NI + torch.rand_like(inputs_NI)


def loader(num_workers=0, num_samples=23, *, dataset=None, seed=0, shuffle=True, augment=None, epoch=0, **kwargs):
    samples = SeededSamples(dataset or Noisy(num_samples), seed, augment)
    options = {"batch_size": 4, "seed": seed if shuffle else None, **kwargs}
    made = StreamLoader(samples, torch.arange(num_samples), num_workers=num_workers, **options)
    made.order.set_epoch(epoch)
    return made


def whole(stream, epoch=0):
    stream.order.set_epoch(epoch)
    inputs, targets = zip(*stream, strict=True)
    return torch.cat(inputs), torch.cat(targets)


def indices(batches):
    return [inputs_NI[:, 0].long().tolist() for inputs_NI, _ in batches]


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    gc.collect()
    assert multiprocessing.active_children() == []


def test_workers_change_no_bit_and_the_numbers_follow_from_seed_epoch_and_index_alone():
    expected = [whole(loader(augment=noise), n) for n in range(3)]
    for num_workers in (1, 4):
        stream = loader(num_workers, augment=noise)
        for n in (0, 1, 2):
            for found, there in zip(whole(stream, n), expected[n], strict=True):
                assert torch.equal(found, there), (num_workers, n)
    values = torch.cat([inputs_NI[:, 1:].flatten() for inputs_NI, _ in expected])
    assert len(values.unique()) == len(values)  # each epoch and each sample has numbers of its own
    by_index = {row[0]: row[1:] for row in whole(loader(), 1)[0].tolist()}
    inputs_NI, _ = whole(loader(batch_size=7), 1)
    assert all(by_index[row[0]] == row[1:] for row in inputs_NI.tolist())
    inputs_NI, _ = whole(loader(seed=1), 1)
    assert not any(by_index[row[0]] == row[1:] for row in inputs_NI.tolist())


def test_what_this_process_draws_stays_as_it_is():
    def draw():
        return random.random(), np.random.random(), torch.rand(3).tolist()

    drawn = []
    for num_workers in (None, 0, 2):
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(5)
        drawn.append([draw() for _ in ([None] * 6 if num_workers is None else loader(num_workers))])
    assert drawn[0] == drawn[1] == drawn[2]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("rank", range(3))
def test_its_batches_are_those_of_data_in_memory_if_empty_too(rank, shuffle):
    share = {"rank": rank, "world_size": 3, "seed": 0 if shuffle else None, "epoch": 2}
    batches = list(loader(num_samples=9, shuffle=shuffle, **share))
    assert indices(batches) == in_memory(9, **share)
    assert {(inputs_NI.shape[1:], labels_N.dtype) for inputs_NI, labels_N in batches} == {((5,), torch.int64)}


@pytest.mark.parametrize(("position", "num_workers"), [(0, 2), (1, 0), (5, 2), (6, 0)])
def test_it_resumes_where_it_was_and_reads_nothing_again(position, num_workers):
    expected = list(loader())
    stopped = loader(num_workers)
    for _ in zip(range(position), stopped, strict=False):
        pass
    resumed = loader(num_workers)
    resumed.load_state_dict(stopped.state_dict())
    for batches in (expected[position:], expected):  # the next epoch is whole again
        found = list(resumed)
        assert len(found) == len(batches)
        assert all(torch.equal(a[0], b[0]) for a, b in zip(found, batches, strict=True))
        if not num_workers and batches is not expected:
            assert resumed.samples.dataset.read == resumed.order.permutation()[4 * position :].tolist()
    with pytest.raises(UserError, match="there were 22 training samples, now there are 23"):
        loader().load_state_dict({"position": 1, "num_samples": 22})


def test_an_iteration_that_is_left_leaves_nothing_behind():
    stream = loader(2)
    for _ in range(3):
        list(itertools.islice(stream, 2))  # more are under way by then
    stream.order.set_epoch(1)
    assert indices(stream) == indices(loader(epoch=1))


def break_at_13(index):
    if index == 13:
        raise KeyError("thirteen")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_mistake_in_a_data_set_shows_its_line(num_workers):
    stream = loader(num_workers, dataset=Noisy(act=break_at_13))
    with pytest.raises(KeyError, match="thirteen") as found:
        list(stream)
    assert found.traceback[-1].name == "break_at_13"
    stream.close()


HERE = os.getpid()


def break_elsewhere(index):
    if os.getpid() != HERE:
        raise KeyError("elsewhere")


def die_at_13(index):
    if index == 13:
        os.kill(os.getpid(), signal.SIGKILL)


BY_PYTORCH = r"DataLoader worker .*(killed|exited)"
BY_LEYDEN = r"(?s)fails where this one does not.*KeyError: 'elsewhere'"


@pytest.mark.parametrize(("act", "message"), [(break_elsewhere, BY_LEYDEN), (die_at_13, BY_PYTORCH)])
def test_what_workers_can_not_read_ends_the_iteration(act, message):
    stream = loader(2, dataset=Noisy(act=act))
    with pytest.raises(RuntimeError, match=message):
        list(stream)
    stream.close()


def slowly(index):
    time.sleep(0.05)


def test_what_a_cluster_sends_to_all_processes_ends_no_worker():
    stream = loader(2, dataset=Noisy(act=slowly))
    batches = iter(stream)
    found = [next(batches)]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        for process in multiprocessing.active_children():
            os.kill(process.pid, number)
    found += list(batches)
    assert len(found) == len(stream)
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
    process = start("wait" if by else "end", script=("-m", "tests.data.test_streamed"), anew=True)
    assert process.stdout.readline() == "ready\n"
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(workers) == 2
    assert all(map(is_running, workers))
    if by:
        process.send_signal(by)
    process.communicate("\n", timeout=TIMEOUT_S)
    assert process.returncode == code
    wait_for_end(workers)


def module(train, **changed):
    options = {"val": None, "test": None, "root": "somewhere", **folders.SPLITS}
    return DatasetDataModule(train=train, **{**options, **changed})


class Rooted(folders.Noisy):
    made: list = []  # noqa: RUF012 - of all of them

    def __init__(self, root, part):
        super().__init__(num_samples=10)
        self.made.append((root, part))


class Made(Dataset):
    """Samples that a function makes of an index."""

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return self.make(index)


def test_facts_come_from_the_data_set_and_its_first_sample_and_what_is_no_pixels_stays_as_it_is():
    data = module(folders.Noisy(20), val_size=4, test=folders.Noisy(4))
    assert data.facts.input_shape == (3, 4, 4)
    assert (data.facts.class_names, data.facts.num_classes) == (("even", "odd"), 2)
    assert (data.facts.mean, data.facts.std) == ((0.0,) * 3, (1.0,) * 3)
    assert data.sizes == {"train": 16, "val": 4}
    floats = Made(lambda index: (torch.full((3,), float(index)), float(index)))
    data = module(floats, val=floats)
    facts = data.facts
    assert facts.input_shape == (3,)
    assert (facts.num_classes, facts.class_names, facts.mean, facts.std) == (None,) * 4
    inputs_NI, targets_N = next(iter(data.val_dataloader()))
    assert inputs_NI.tolist() == [[n] * 3 for n in range(4)]
    assert targets_N.tolist() == [0, 1, 2, 3]
    message = r"normalize=standardize: is for pixels, uint8; the data set gives torch\.float"
    with pytest.raises(ValueError, match=message):
        module(floats, normalize="standardize").setup("fit")


ONES = torch.ones(2)


@pytest.mark.parametrize("make", [lambda n: {"a": ONES, "b": n}, lambda n: ONES, lambda n: (ONES, n, n)])
def test_samples_that_are_no_pairs_are_the_data_sets_own(make):
    data = module(Made(make))
    assert data.facts.input_shape is data.inputs is None
    first = next(iter(data.train_dataloader()))
    assert len(first["b"] if isinstance(first, dict) else first[0] if isinstance(first, list) else first) == 5
    for changed in ({"augment": noise}, {"normalize": "standardize"}):
        with pytest.raises(ValueError, match="the samples of Made are not pairs of tensors"):
            module(Made(make), **changed).setup("fit")


def test_each_is_made_when_it_is_asked_for_with_the_root():
    Rooted.made.clear()
    parts = {part: functools.partial(Rooted, part=part) for part in ("train", "val", "test")}
    data = module(**parts)
    assert Rooted.made == []
    data.setup("fit")
    assert Rooted.made == [("somewhere", "train"), ("somewhere", "val")]
    data.setup("test")
    data.setup("test")
    assert Rooted.made[2:] == [("somewhere", "test")]
    assert module(functools.partial(Rooted, root="its own", part="train")).facts
    assert Rooted.made[-1] == ("its own", "train")


@pytest.mark.parametrize(
    ("train", "kind", "message"),
    [
        (None, TypeError, "no len"),
        (Made(lambda index: object()), TypeError, "default_collate: batch must contain tensors.*object"),
        (functools.partial(Noisy, num_samples=3, size=3), TypeError, "unexpected keyword argument 'size'"),
        (folders.Noisy(0), ValueError, "train=Noisy: has no samples"),
    ],
)
def test_what_is_no_data_set_is_refused(train, kind, message):
    with pytest.raises(kind, match=message):
        module(train).setup("fit")


if __name__ == "__main__":
    import sys

    stream = loader(2, dataset=Noisy(act=slowly))
    batches = iter(stream)
    next(batches)
    try:
        print("ready", flush=True)
        time.sleep(600 if sys.argv[1] == "wait" else 0.5)
    except KeyboardInterrupt:
        sys.exit(1)
