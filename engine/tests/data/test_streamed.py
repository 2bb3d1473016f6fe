"""Samples that worker processes read: the same bits as without them, and no process left behind."""

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
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from leyden.config.errors import UserError
from leyden.data.in_memory import BatchLoader
from leyden.data.streamed import SeededSamples, StreamLoader
from tests.conftest import start
from tests.forks import TIMEOUT_S


class Noisy(Dataset):
    """Index, and a number from each of the sources of random numbers; keeps what was read in this process."""

    def __init__(self, num_samples=23):
        self.num_samples, self.read = num_samples, []

    def __len__(self):
        return self.num_samples

    def __getitem__(self, index):
        self.read.append(index)
        numbers = random.random(), np.random.random(), np.random.default_rng().random()
        return torch.tensor([index, *numbers, torch.rand(())]).double(), index % 3


def noise(inputs_NI):
    return inputs_NI + torch.rand_like(inputs_NI)


def loader(num_workers=0, num_samples=23, *, dataset=None, seed=0, shuffle=True, augment=None, **kwargs):
    samples = SeededSamples(dataset or Noisy(num_samples), seed, augment)
    options = {"batch_size": 4, "seed": seed if shuffle else None, **kwargs}
    return StreamLoader(samples, torch.arange(num_samples), num_workers=num_workers, **options)


def epoch(stream, number=0):
    stream.order.set_epoch(number)
    inputs, targets = zip(*stream, strict=True)
    return torch.cat(inputs), torch.cat(targets)


def indices(batches):
    return [inputs_NI[:, 0].long().tolist() for inputs_NI, _ in batches]


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    gc.collect()
    assert multiprocessing.active_children() == []


def test_workers_change_no_bit():
    expected = [epoch(loader(augment=noise), n) for n in range(3)]
    for num_workers in (1, 2, 4):
        stream = loader(num_workers, augment=noise)
        for n in (0, 1, 2):
            for found, there in zip(epoch(stream, n), expected[n], strict=True):
                assert torch.equal(found, there), (num_workers, n)
    values = torch.cat([inputs_NI[:, 1:].flatten() for inputs_NI, _ in expected])
    assert len(values.unique()) == len(values)  # each epoch and each sample has numbers of its own


def test_the_numbers_follow_from_seed_epoch_and_index_alone():
    inputs_NI, _ = epoch(loader(), 1)
    by_index = {row[0]: row[1:] for row in inputs_NI.tolist()}
    for other in (loader(batch_size=7), loader(num_samples=23, shuffle=True, batch_size=1)):
        inputs_NI, _ = epoch(other, 1)
        assert all(by_index[row[0]] == row[1:] for row in inputs_NI.tolist())
    inputs_NI, _ = epoch(loader(seed=1), 1)
    assert not any(by_index[row[0]] == row[1:] for row in inputs_NI.tolist())


def test_what_this_process_draws_stays_as_it_is():
    def draw():
        return random.random(), np.random.random(), torch.rand(3).tolist()

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    expected = [draw() for _ in range(7)]
    for num_workers in (0, 2):
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(5)
        found = [draw()]
        for _ in loader(num_workers):
            found.append(draw())
        assert found == expected


@given(
    num_samples=st.integers(1, 40),
    batch_size=st.integers(1, 20),
    world_size=st.integers(1, 5),
    number=st.integers(0, 3),
    shuffle=st.booleans(),
)
def test_its_batches_are_those_of_data_in_memory(num_samples, batch_size, world_size, number, shuffle):
    samples_N = torch.arange(num_samples)
    for rank in range(world_size):
        share = {"batch_size": batch_size, "rank": rank, "world_size": world_size}
        stream = loader(num_samples=num_samples, shuffle=shuffle, **share)
        memory = BatchLoader(samples_N, samples_N, transform=lambda x: x, seed=0 if shuffle else None, **share)
        stream.order.set_epoch(number)
        memory.order.set_epoch(number)
        assert len(stream) == len(memory)
        batches = list(stream)
        assert indices(batches) == [labels_N.tolist() for _, labels_N in memory]
        assert all(
            (each.shape[1:], labels_N.dtype) == ((5,), torch.int64) for each, labels_N in batches
        )  # if empty, too


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("position", [0, 1, 5, 6])
def test_goes_on_where_it_was(position, num_workers):
    whole = list(loader())
    stopped = loader(num_workers)
    batches = iter(stopped)
    for _ in range(position):
        next(batches)
    resumed = loader(num_workers)
    resumed.load_state_dict(stopped.state_dict())
    assert resumed.state_dict()["num_samples"] == 23
    for expected in (whole[position:], whole):  # the next epoch is whole again
        found = list(resumed)
        assert len(found) == len(expected)
        assert all(torch.equal(a[0], b[0]) for a, b in zip(found, expected, strict=True))


def test_what_was_given_is_not_read_again():
    resumed = loader()
    resumed.load_state_dict({"position": 4, "num_samples": 23})
    list(resumed)
    assert resumed.samples.dataset.read == resumed.order.permutation()[16:].tolist()
    with pytest.raises(UserError, match="there were 22 training samples, now there are 23"):
        loader().load_state_dict({"position": 1, "num_samples": 22})


def test_epoch_and_position_are_looked_up_as_late_as_the_first_batch():
    late = loader()
    batches = iter(late)  # Lightning makes the iterator before it restores them
    late.order.set_epoch(3)
    late.load_state_dict({"position": 2, "num_samples": 23})
    expected = loader()
    expected.order.set_epoch(3)
    assert indices(batches) == indices(expected)[2:]


def test_an_iteration_that_is_left_leaves_nothing_behind():
    stream = loader(2)
    for _ in range(3):
        list(itertools.islice(stream, 2))  # more are under way by then
    stream.order.set_epoch(1)
    expected = loader()
    expected.order.set_epoch(1)
    assert indices(stream) == indices(expected)


class Broken(Noisy):
    def __getitem__(self, index):
        if index == 13:
            raise KeyError("thirteen")
        return super().__getitem__(index)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_mistake_in_a_data_set_shows_its_line(num_workers):
    stream = loader(num_workers, dataset=Broken())
    with pytest.raises(KeyError, match="thirteen") as found:
        list(stream)
    assert found.traceback[-1].name == "__getitem__"
    stream.close()


class FailingElsewhere(Noisy):
    home = os.getpid()

    def __getitem__(self, index):
        if os.getpid() != self.home:
            raise KeyError("elsewhere")
        return super().__getitem__(index)


class Alone(Noisy):
    def __getitem__(self, index):
        return torch.zeros(3)


class Deadly(Noisy):
    def __getitem__(self, index):
        if index == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@pytest.mark.parametrize(
    ("dataset", "kind", "message"),
    [
        (Alone(), UserError, r"Alone\[\d+\] is .*must be a pair"),
        (FailingElsewhere(), RuntimeError, r"(?s)fails where this one does not.*KeyError: 'elsewhere'"),
        (Deadly(), RuntimeError, r"DataLoader worker .*(killed|exited)"),  # PyTorch's own
    ],
)
def test_what_workers_can_not_read_ends_the_iteration(dataset, kind, message):
    stream = loader(2, dataset=dataset)
    with pytest.raises(kind, match=message):
        list(stream)
    stream.close()


class Slow(Noisy):
    def __getitem__(self, index):
        time.sleep(0.05)
        return super().__getitem__(index)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_what_a_cluster_sends_to_all_processes_ends_no_worker(number):
    stream = loader(2, dataset=Slow())
    batches = iter(stream)
    found = [next(batches)]
    for process in multiprocessing.active_children():
        os.kill(process.pid, number)
    found += list(batches)
    assert len(found) == len(stream)
    stream.close()


def test_closed_it_has_no_workers_and_can_be_used_again():
    stream = loader(8, num_samples=5)
    first = indices(stream)
    assert len(multiprocessing.active_children()) == 2  # no more than batches
    for _ in range(2):
        stream.close()
        assert multiprocessing.active_children() == []
    assert indices(stream) == first


def workers_of(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def is_there(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("how", "by", "code"),
    [("wait", signal.SIGKILL, -9), ("wait", signal.SIGTERM, -15), ("wait", signal.SIGINT, 1), ("end", None, 0)],
)
@pytest.mark.slow
@pytest.mark.matrix
def test_workers_end_with_the_process_that_has_them(how, by, code):
    process = start(how, script=("-m", "tests.data.test_streamed"), anew=True)
    assert process.stdout.readline() == "ready\n"
    workers = workers_of(process)
    assert len(workers) == 2
    assert all(map(is_there, workers))
    if by:
        process.send_signal(by)
    process.communicate("\n", timeout=TIMEOUT_S)
    assert process.returncode == code
    end = time.monotonic() + TIMEOUT_S
    while any(map(is_there, workers)):
        assert time.monotonic() < end
        time.sleep(0.01)


if __name__ == "__main__":
    import sys

    stream = loader(2, dataset=Slow())
    batches = iter(stream)
    next(batches)
    try:
        print("ready", flush=True)
        time.sleep(600 if sys.argv[1] == "wait" else 0.5)
    except KeyboardInterrupt:
        sys.exit(1)
