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
        self.make, self.num_samples, self.read = make, num_samples, []

    def __len__(self):
        return self.num_samples

    def __getitem__(self, index):
        self.read.append(index)
        return self.make(index)


def numbers(index):
    """The index, and a number from each of the sources of random numbers."""
    drawn = random.random(), np.random.random(), np.random.default_rng().random()
    return torch.tensor([index, *drawn, torch.rand(())]).double(), index % 3


def noise(inputs_NI):
    return inputs_NI + torch.rand_like(inputs_NI)


def loader(num_workers=0, num_samples=23, *, make=numbers, seed=0, augment=None, **kwargs):
    samples, options = (
        SeededSamples(Made(make, num_samples), seed or 0, augment),
        {"batch_size": 4, **kwargs},
    )
    return StreamLoader(
        samples, torch.arange(num_samples), num_workers=num_workers, seed=seed, **options
    )


def whole(stream, epoch=0):
    stream.order.set_epoch(epoch)
    inputs, targets = zip(*stream, strict=True)
    return torch.cat(inputs), torch.cat(targets)


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    if multiprocessing.active_children():
        gc.collect()
    assert multiprocessing.active_children() == []


def test_workers_change_no_bit_and_the_numbers_follow_from_seed_epoch_and_index_alone():
    expected = [whole(loader(augment=noise), n) for n in range(3)]
    for num_workers in (1, 4):
        stream = loader(num_workers, augment=noise)
        for n in (0, 1, 2):
            list(
                itertools.islice(stream, 2)
            )  # an iteration that is left, of which more is under way by then
            assert all(map(torch.equal, whole(stream, n), expected[n])), (num_workers, n)
    values = torch.cat([inputs_NI[:, 1:].flatten() for inputs_NI, _ in expected])
    assert len(values.unique()) == len(values)  # each epoch and each sample has numbers of its own
    by_index = {row[0]: row[1:] for row in whole(loader(), 1)[0].tolist()}
    for changed, is_same in (({"batch_size": 7}, True), ({"seed": 1}, False)):
        rows = whole(loader(**changed), 1)[0].tolist()
        assert {by_index[row[0]] == row[1:] for row in rows} == {is_same}


def test_what_this_process_draws_stays_as_it_is():
    drawn = []
    for batches in ([None] * 6, loader(0), loader(2)):
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(5)
        drawn.append(
            [(random.random(), np.random.random(), torch.rand(3).tolist()) for _ in batches]
        )
    assert drawn[0] == drawn[1] == drawn[2]


def test_its_batches_are_those_of_data_in_memory_if_empty_too():
    for rank, seed in itertools.product(range(3), (None, 0)):
        share = {"rank": rank, "world_size": 3, "seed": seed}
        stream = loader(num_samples=9, **share)
        stream.order.set_epoch(2)
        batches = [*stream]
        assert [inputs_NI[:, 0].long().tolist() for inputs_NI, _ in batches] == in_memory(
            9, epoch=2, **share
        )
        kinds = {(inputs_NI.shape[1:], labels_N.dtype) for inputs_NI, labels_N in batches}
        assert kinds == {((5,), torch.int64)}


def test_it_resumes_where_it_was_and_reads_nothing_again():
    expected = [*loader()]
    for position, num_workers in ((0, 2), (1, 0), (5, 2), (6, 0)):
        stopped, resumed = loader(num_workers), loader(num_workers)
        for _ in zip(range(position), stopped, strict=False):
            pass
        resumed.load_state_dict(stopped.state_dict())
        for batches in (expected[position:], expected):  # the next epoch is whole again
            found = [*resumed]
            assert len(found) == len(batches)
            assert all(torch.equal(a[0], b[0]) for a, b in zip(found, batches, strict=True))
            if not num_workers and batches is not expected:
                assert (
                    resumed.samples.dataset.read
                    == resumed.order.permutation(resumed.order.epoch)[4 * position :].tolist()
                )
    with pytest.raises(UserError, match="there were 22 training samples, now there are 23"):
        loader().load_state_dict({"position": 1, "num_samples": 22})


HERE = os.getpid()
BY_PYTORCH = r"DataLoader worker .*(killed|exited)"
BY_LEYDEN = r"(?s)fails where this one does not.*KeyError: 'elsewhere'"


UNREAD = (
    *(
        (num, lambda n: {}["thirteen"] if n == 13 else numbers(n), KeyError, "thirteen")
        for num in (0, 2)
    ),
    (2, lambda n: numbers(n) if os.getpid() == HERE else {}["elsewhere"], RuntimeError, BY_LEYDEN),
    (
        2,
        lambda n: os.kill(os.getpid(), signal.SIGKILL) if n == 13 else numbers(n),
        RuntimeError,
        BY_PYTORCH,
    ),
)


def test_what_can_not_be_read_ends_the_iteration_and_a_mistake_shows_its_line(monkeypatch):
    # Seconds after which PyTorch looks whether its workers are there.
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.1,))
    for num_workers, make, error, message in UNREAD:
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
    process = start("600" if by else "0.5", script=("-m", "tests.data.test_streamed"), anew=True)
    assert process.stdout.readline() == "ready\n"
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(workers) == 2
    assert all(map(is_running, workers))
    if by:
        process.send_signal(by)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == code
    wait_for_end(workers)


def module(train, **changed):
    options = {"val": None, "test": None, "root": "somewhere", **folders.SPLITS}
    return DatasetDataModule(train=train, **{**options, **changed})


def test_facts_come_from_the_data_set_and_its_first_sample_and_what_is_no_pixels_stays_as_it_is():
    pixels = Made(lambda index: (torch.full((3, 4, 4), index, dtype=torch.uint8), index % 2), 20)
    pixels.classes = ("even", "odd")
    data = module(pixels, val_size=4, test=pixels)
    assert data.facts == Facts((3, 4, 4), 2, ("even", "odd"), (0.0,) * 3, (1.0,) * 3, 255.0)
    assert data.sizes == {"train": 16, "val": 4}
    floats = Made(lambda index: (torch.full((3,), float(index)), float(index)))
    data = module(floats, val=floats)
    assert data.facts == Facts((3,), scale=1.0, target_names=("target",))
    inputs_NI, targets_N = next(iter(data.val_dataloader()))
    assert inputs_NI.tolist() == [[n] * 3 for n in range(4)]
    assert targets_N.tolist() == [0, 1, 2, 3]


def test_a_data_set_of_any_kind_is_split_in_order_or_by_group():
    floats = Made(lambda index: (torch.full((3,), float(index)), float(index)), 20)
    floats.patients = [f"p{n % 5}" for n in range(20)]
    floats.overlap = floats.groups = 3  # another one's own attributes
    data = module(floats, val_size=4)
    assert data.facts
    assert data.how_split == "random"
    data = module(floats, val_size=4, overlap=2)
    assert data.facts
    assert [data.indices[split].tolist() for split in ("train", "val")] == [
        [*range(14)],
        [16, 17, 18, 19],
    ]
    data = module(floats, val_size=5, groups="patients", test=floats)
    assert data.facts
    assert (data.how_split, data.sizes) == ("by group", {"train": 12, "val": 8})
    with pytest.raises(ValueError, match="test: has groups of the training set: p0, p1"):
        data.setup("test")
    for changed, said in (
        ({"groups": "sites"}, "groups=sites: Made has no such attribute"),
        ({"overlap": -1}, "overlap=-1"),
    ):
        with pytest.raises(ValueError, match=said):
            module(floats, **changed).setup("fit")


def test_samples_that_are_no_pairs_are_the_data_sets_own():
    ones = torch.ones(2)
    everything = slice(None)
    for make, part in (
        (lambda n: {"a": ones, "b": n}, "b"),
        (lambda n: ones, everything),
        (lambda n: (ones, n, n), 0),
    ):
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

    data = module(
        **{part: functools.partial(rooted, part=part) for part in ("train", "val", "test")}
    )
    expected = []
    assert made == expected
    for stage, parts in (("fit", ("train", "val")), ("test", ("test",)), ("test", ())):
        data.setup(stage)
        expected += [("somewhere", part) for part in parts]
        assert made == expected
    assert module(functools.partial(rooted, root="its own", part="train")).facts
    assert made[-1] == ("its own", "train")


def test_what_is_no_data_set_is_refused():
    for made, message in (
        (Made(numbers, 0), "train=Made: has no samples"),
        (
            Made(numbers),
            r"normalize=standardize: is for pixels, uint8; the data set gives torch\.float",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            module(made, normalize="standardize").setup("fit")
    with pytest.raises(TypeError, match=r"default_collate: batch must contain tensors.*object"):
        module(Made(lambda index: object())).setup("fit")


if __name__ == "__main__":
    stream = loader(2, make=slowly)
    next(iter(stream))
    try:
        print("ready", flush=True)
        time.sleep(float(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(1)
