"""Data modules as strangers write them, one per trait; each class says which."""

import itertools
import random
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    TensorDataset,
    random_split,
)
from torch.utils.data import WeightedRandomSampler as Weighted

NUM, BATCH = 40, 5  # 8 batches an epoch


def rows(num=NUM, seed=0):
    """Rows of four numbers, and their sum with some noise."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(num, 4, generator=generator)
    return inputs, inputs.sum(dim=1) + 0.1 * torch.randn(num, generator=generator)


class Rows(Dataset):
    def __init__(self, num=NUM, seed=0):
        self.inputs, self.targets = rows(num, seed)

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return self.inputs[index], self.targets[index]


class Plain(L.LightningDataModule):
    """Loaders of PyTorch; what others are made from. A subclass says what its training set, and its loader, are."""

    kind: type = Rows
    options: dict = {}  # noqa: RUF012 - of the loader

    def __init__(self, num_workers: int = 0):
        super().__init__()
        self.num_workers = num_workers

    def setup(self, stage):
        self.train = self.kind()

    def train_dataloader(self):
        options = {"shuffle": True, **self.options}
        return DataLoader(self.train, BATCH, num_workers=self.num_workers, **options)

    def val_dataloader(self):
        return DataLoader(Rows(10, 1), BATCH)

    def test_dataloader(self):
        return DataLoader(Rows(10, 2), BATCH)


# Splits and files


class GlobalSplit(L.LightningDataModule):
    """It splits by the global random state, as Lightning's own examples do."""

    def setup(self, stage):
        self.train, self.val, self.test = random_split(Rows(60), [NUM, 10, 10])

    def train_dataloader(self):
        return DataLoader(self.train, BATCH, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, BATCH)

    def test_dataloader(self):
        return DataLoader(self.test, BATCH)


class SplitByStage(GlobalSplit):
    """It makes the training split for `fit` and the test split for `test`, each time that it is asked."""

    def setup(self, stage):
        if stage == "fit":
            self.train, self.val = random_split(Rows(50), [NUM, 10])
        if stage == "test":
            self.test, _ = random_split(Rows(50, 2), [10, 40])


class SplitInConstructor(GlobalSplit):
    """It splits when it is made."""

    def __init__(self):
        super().__init__()
        super().setup("fit")

    def setup(self, stage):
        pass


class SplitByNumPy(GlobalSplit):
    """It permutes by NumPy, and shuffles by Python."""

    def setup(self, stage):
        order = np.random.permutation(60).tolist()
        held_out = order[NUM:]
        random.shuffle(held_out)
        self.train, self.val, self.test = (
            torch.utils.data.Subset(Rows(60), part) for part in (order[:NUM], held_out[:10], held_out[10:])
        )


class SplitByEntropy(GlobalSplit):
    """It permutes by generators without a seed, as a well-known library does."""

    def setup(self, stage):
        order = np.random.default_rng().permutation(60)
        held_out = np.random.RandomState(None).permutation(order[NUM:]).tolist()
        parts = (order[:NUM].tolist(), held_out[:10], held_out[10:])
        self.train, self.val, self.test = (torch.utils.data.Subset(Rows(60), part) for part in parts)


class SplitBySystem(GlobalSplit):
    """It holds out by the system's entropy, which nobody can repeat."""

    def setup(self, stage):
        held_out = random.SystemRandom().sample(range(60), 20)
        self.train = Rows()
        self.val, self.test = (torch.utils.data.Subset(Rows(60), part) for part in (held_out[:10], held_out[10:]))


class TrainedBySystem(Plain):
    """It chooses what to train on by the system's entropy."""

    def setup(self, stage):
        self.train = torch.utils.data.Subset(Rows(60), random.SystemRandom().sample(range(60), NUM))


class Prepared(Plain):
    """`prepare_data` draws when it makes its file, not when it finds it; `setup` draws, too."""

    def __init__(self, folder: str):
        super().__init__()
        self.path = Path(folder) / "rows.pt"

    def prepare_data(self):
        if not self.path.exists():
            torch.save([torch.rand(60, 4), torch.rand(60)], self.path)

    def setup(self, stage):
        whole = TensorDataset(*torch.load(self.path))
        self.train, self.val, self.test = random_split(whole, [NUM, 10, 10])

    def val_dataloader(self):
        return DataLoader(self.val, BATCH)

    def test_dataloader(self):
        return DataLoader(self.test, BATCH)


class Seeded(Plain):
    """It seeds everything itself when it is set up."""

    def setup(self, stage):
        L.seed_everything(42, verbose=False)
        super().setup(stage)


# Samplers


class NumPySampler(Sampler):
    """A sampler with a NumPy generator of its own."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __len__(self):
        return NUM

    def __iter__(self):
        yield from self.rng.permutation(NUM).tolist()


class RandomSampler(NumPySampler):
    """One with a generator of Python's."""

    def __init__(self):
        self.rng = random.Random(0)

    def __iter__(self):
        yield from self.rng.sample(range(NUM), NUM)


class InPlace(NumPySampler):
    """One that shuffles the same list again and again, by the global random state."""

    def __init__(self):
        self.order = list(range(NUM))

    def __iter__(self):
        random.shuffle(self.order)
        yield from self.order


class Counting(NumPySampler):
    """One that counts its epochs itself, and seeds by the count."""

    def __init__(self):
        self.epoch = 0

    def __iter__(self):
        self.epoch += 1
        yield from torch.randperm(NUM, generator=torch.Generator().manual_seed(self.epoch)).tolist()


class WithSetEpoch(NumPySampler):
    """One that Lightning tells the epoch."""

    def __init__(self):
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        yield from torch.randperm(NUM, generator=torch.Generator().manual_seed(self.epoch)).tolist()


class OneByOne(NumPySampler):
    """One that draws each index when it is asked for, from the global random state."""

    def __init__(self):
        pass

    def __iter__(self):
        for _ in range(NUM):
            yield int(torch.randint(NUM, (1,)))


class Pool(NumPySampler):
    """The same from a pool, which an index leaves when it is drawn."""

    def __init__(self):
        pass

    def __iter__(self):
        pool = list(range(NUM))
        while pool:
            yield pool.pop(int(torch.randint(len(pool), (1,))))


class Buckets(BatchSampler):
    """Batches of its own, put in order by a generator of its own."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __len__(self):
        return NUM // BATCH

    def __iter__(self):
        for n in self.rng.permutation(len(self)).tolist():
            yield list(range(n * BATCH, (n + 1) * BATCH))


class _Sampled(Plain):
    sampler: type

    def train_dataloader(self):
        return DataLoader(self.train, BATCH, sampler=self.sampler())


class SampledByNumPy(_Sampled):
    """A sampler with a NumPy generator."""

    sampler = NumPySampler


class SampledByPython(_Sampled):
    """A sampler with a generator of Python's."""

    sampler = RandomSampler


class SampledInPlace(_Sampled):
    """A sampler that shuffles its own list."""

    sampler = InPlace


class SampledByCount(_Sampled):
    """A sampler that counts its epochs."""

    sampler = Counting


class SampledBySetEpoch(_Sampled):
    """A sampler that is told its epoch."""

    sampler = WithSetEpoch


class SampledOneByOne(_Sampled):
    """A sampler that draws each index when it is asked for."""

    sampler = OneByOne


class SampledFromPool(_Sampled):
    """A sampler that draws from a pool."""

    sampler = Pool


class SampledByWeights(Plain):
    """A weighted sampler with a generator of its own."""

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(3)
        sampler = Weighted(torch.arange(1.0, NUM + 1), NUM, generator=generator)
        return DataLoader(self.train, BATCH, sampler=sampler)


class SampledInBuckets(Plain):
    """A sampler of batches."""

    def train_dataloader(self):
        return DataLoader(self.train, batch_sampler=Buckets())


class Mined(Plain):
    """A sampler whose weights the module changes by its losses: hard examples come more often."""

    def train_dataloader(self):
        self.sampler = Weighted(torch.ones(NUM), NUM)
        return DataLoader(self.train, BATCH, sampler=self.sampler)


# Data sets and what is done to samples


class NumPyNoise(Rows):
    """Samples with noise from a NumPy generator of the data set."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(0)

    def __getitem__(self, index):
        inputs, target = super().__getitem__(index)
        return inputs + torch.from_numpy(self.rng.normal(0, 0.1, 4)).float(), target


class Transform:
    """A transform with a generator of its own."""

    def __init__(self):
        self.rng = random.Random(0)

    def __call__(self, inputs):
        return inputs * self.rng.uniform(0.5, 1.5)


class Transformed(Rows):
    """Samples by a transform with a generator of Python's."""

    def __init__(self):
        super().__init__()
        self.transform = Transform()

    def __getitem__(self, index):
        inputs, target = super().__getitem__(index)
        return self.transform(inputs), target


class Cached(Rows):
    """Samples that are augmented when they are read first, and kept."""

    def __init__(self):
        super().__init__()
        self.cache = {}

    def __getitem__(self, index):
        if index not in self.cache:
            inputs, target = super().__getitem__(index)
            self.cache[index] = inputs + 0.1 * torch.randn(4), target
        return self.cache[index]


class Drifting(Rows):
    """Samples that change when they are read."""

    def __getitem__(self, index):
        self.inputs[index] *= 0.99
        return self.inputs[index].clone(), self.targets[index]


class Counted(Rows):
    """Samples that depend on how many were read."""

    def __init__(self):
        super().__init__()
        self.num_read = 0

    def __getitem__(self, index):
        self.num_read += 1
        inputs, target = super().__getitem__(index)
        return inputs / (1 + 0.01 * self.num_read), target


class Curriculum(Rows):
    """Samples that get harder by the epoch, which a callback or module sets."""

    epoch = 0

    def __getitem__(self, index):
        inputs, target = super().__getitem__(index)
        return inputs * (1 + self.epoch), target


class WithNumPyNoise(Plain):
    """A data set with a NumPy generator."""

    kind = NumPyNoise


class WithTransform(Plain):
    """A transform with a generator."""

    kind = Transformed


class WithCache(Plain):
    """A cache of augmented samples."""

    kind = Cached


class WithDrift(Plain):
    """Samples that change when they are read."""

    kind = Drifting


class WithCount(Plain):
    """Samples that depend on how many were read."""

    kind = Counted


class WithCurriculum(Plain):
    """Samples that depend on the epoch."""

    kind = Curriculum


class Mixup:
    """A `collate_fn` that mixes samples, by a NumPy generator of its own."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __call__(self, samples):
        inputs, targets = (torch.stack(part) for part in zip(*samples, strict=True))
        share = self.rng.beta(0.4, 0.4)
        return share * inputs + (1 - share) * inputs.flip(0), share * targets + (1 - share) * targets.flip(0)


class WithMixup(Plain):
    """A `collate_fn` with a generator."""

    def train_dataloader(self):
        return DataLoader(self.train, BATCH, shuffle=True, collate_fn=Mixup())


class Generated(Plain):
    """A loader with a generator of its own."""

    def train_dataloader(self):
        return DataLoader(self.train, BATCH, shuffle=True, generator=torch.Generator().manual_seed(5))


class Rewritten(Plain):
    """The training set is made anew each epoch, by the number of the epoch (`reload_dataloaders_every_n_epochs=1`)."""

    def train_dataloader(self):
        return DataLoader(Rows(seed=self.trainer.current_epoch if self.trainer else 0), BATCH, shuffle=True)


class Redrawn(Plain):
    """The training set is drawn anew each epoch, at random (`reload_dataloaders_every_n_epochs=1`)."""

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.rand(NUM, 4), torch.rand(NUM)), BATCH, shuffle=True)


class Stateful(Plain):
    """A data module with a state of its own, which Lightning keeps."""

    level = 1

    def state_dict(self):
        return {"level": self.level}

    def load_state_dict(self, state):
        self.level = state["level"]

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if not self.trainer.training:
            return batch
        self.level += 1
        return batch[0] / self.level, batch[1]


class Unkept(Plain):
    """The same without keeping it."""

    level = 1

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if not self.trainer.training:
            return batch
        self.level += 1
        return batch[0] / self.level, batch[1]


class Noisy(Plain):
    """Noise on each batch, drawn by the data module's generator."""

    def setup(self, stage):
        super().setup(stage)
        self.rng = torch.Generator().manual_seed(1)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch[0] + 0.1 * torch.randn(batch[0].shape, generator=self.rng), batch[1]


# Streams


class Environment(IterableDataset):
    """Steps of an environment, whose state is the data set's."""

    def __init__(self):
        self.position, self.rng = np.zeros(4), np.random.default_rng(0)

    def __iter__(self):
        for _ in range(NUM):
            self.position = 0.9 * self.position + self.rng.normal(0, 1, 4)
            yield torch.from_numpy(self.position).float(), torch.tensor(float(self.position.sum()))


class Shuffled(IterableDataset):
    """A stream through a buffer that is shuffled."""

    def __iter__(self):
        buffer = []
        for sample in zip(*rows(), strict=True):
            buffer.append(sample)
            if len(buffer) == 10:
                yield buffer.pop(random.randrange(10))
        random.shuffle(buffer)
        yield from buffer


class Endless(IterableDataset):
    """A stream that goes on in the next epoch where it was."""

    def __init__(self):
        self.source = itertools.cycle(zip(*rows(57), strict=True))

    def __iter__(self):
        yield from itertools.islice(self.source, NUM)


class Pair(IterableDataset):
    """Two attributes that belong together, as in a simulator that must be reset before its first step; one is no plain value."""

    def __init__(self):
        self.is_begun, self.first = False, [(0.5, {})]

    def __iter__(self):
        for inputs, target in zip(*rows(), strict=True):
            if not self.is_begun:
                ((shift, _),) = self.first
                self.is_begun, self.first = True, None
                inputs = inputs + shift
            yield inputs, target


class _Streamed(Plain):
    options = {"shuffle": None}  # noqa: RUF012


class FromEnvironment(_Streamed):
    """A stream from an environment with a state."""

    kind = Environment


class FromPair(_Streamed):
    """A stream from an object that must be reset as a whole."""

    kind = Pair


class FromBuffer(_Streamed):
    """A stream through a buffer that is shuffled."""

    kind = Shuffled


class FromEndless(_Streamed):
    """A stream that goes on from epoch to epoch."""

    kind = Endless


# Batches and loaders


class Graph:
    """A batch that is an object, as graph libraries have."""

    def __init__(self, inputs, targets):
        self.inputs, self.targets = inputs, targets

    def to(self, *args, **kwargs):
        return Graph(self.inputs.to(*args, **kwargs), self.targets.to(*args, **kwargs))


def as_object(samples):
    return Graph(*(torch.stack(part) for part in zip(*samples, strict=True)))


def as_dict(samples):
    inputs, targets = (torch.stack(part) for part in zip(*samples, strict=True))
    return {"inputs": inputs, "targets": targets, "names": [str(n) for n in range(len(samples))]}


def as_list(samples):
    return [{"inputs": inputs, "targets": target} for inputs, target in samples]


Pair = namedtuple("Pair", "inputs targets")


@dataclass(slots=True)
class Slotted:
    """A batch without `__dict__`."""

    inputs: torch.Tensor
    targets: torch.Tensor

    def to(self, *args, **kwargs):
        return Slotted(self.inputs.to(*args, **kwargs), self.targets.to(*args, **kwargs))


def as_slotted(samples):
    return Slotted(*(torch.stack(part) for part in zip(*samples, strict=True)))


def as_pair(samples):
    return Pair(*(torch.stack(part) for part in zip(*samples, strict=True)))


class Collated(Plain):
    """Batches of another kind: objects, dictionaries, lists of those."""

    def __init__(self, kind: str):
        super().__init__()
        self.collate = {"object": as_object, "dict": as_dict, "list": as_list, "pair": as_pair}.get(
            kind, as_slotted
        )

    def train_dataloader(self):
        return DataLoader(self.train, BATCH, shuffle=True, collate_fn=self.collate)

    def val_dataloader(self):
        return DataLoader(Rows(10, 1), BATCH, collate_fn=self.collate)

    def test_dataloader(self):
        return DataLoader(Rows(10, 2), BATCH, collate_fn=self.collate)


class TwoValidation(Plain):
    """Two loaders for validation."""

    def val_dataloader(self):
        return [DataLoader(Rows(10, 1), BATCH), DataLoader(Rows(15, 3), BATCH)]


class TwoTests(Plain):
    """Two loaders for testing."""

    def test_dataloader(self):
        return [DataLoader(Rows(10, 1), BATCH), DataLoader(Rows(15, 3), BATCH)]


class ShuffledValidation(Plain):
    """Validation in random order, from the global state."""

    def val_dataloader(self):
        return DataLoader(Rows(10, 1), BATCH, shuffle=True)


class Combined(Plain):
    """Two loaders at once, in one of Lightning's modes."""

    def __init__(self, mode: str):
        super().__init__()
        self.mode = mode

    def train_dataloader(self):
        both = {"a": DataLoader(Rows(), BATCH, shuffle=True), "b": DataLoader(Rows(25, 4), BATCH, shuffle=True)}
        return CombinedLoader(both, self.mode)


class Listed(Plain):
    """A plain dictionary of loaders."""

    def train_dataloader(self):
        return {"a": DataLoader(Rows(), BATCH, shuffle=True), "b": DataLoader(Rows(25, 4), BATCH, shuffle=True)}


class Prefetcher:
    """A wrapper around a loader, with a length, and without a state."""

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        yield from self.loader


class Wrapped(Plain):
    """A loader in a wrapper."""

    def train_dataloader(self):
        return Prefetcher(super().train_dataloader())


class Sliced:
    """As many batches an epoch of a stream that goes on."""

    def __init__(self, stream):
        self.stream = stream

    def __iter__(self):
        yield from itertools.islice(self.stream, NUM // BATCH)


class OwnEndless(Plain):
    """A loader of its own over a stream that goes on from epoch to epoch."""

    def train_dataloader(self):
        inputs, targets = rows(55)
        return Sliced(itertools.cycle(list(zip(inputs.split(BATCH), targets.split(BATCH), strict=True))))


class Walk:
    """Batches along a walk, of which the place is a number."""

    def __init__(self):
        self.place, self.rng = 0, np.random.default_rng(0)

    def __iter__(self):
        for _ in range(NUM // BATCH):
            self.place += int(self.rng.integers(1, 7))
            yield rows(BATCH, self.place)


class OwnWalk(Plain):
    """A loader of its own with a number and a generator."""

    def train_dataloader(self):
        return Walk()


class WrappedSampler(Plain):
    """A loader in a wrapper, with a sampler that has a generator."""

    def train_dataloader(self):
        return Prefetcher(DataLoader(self.train, BATCH, sampler=NumPySampler()))


class InfiniteLoader(DataLoader):
    """A loader that makes its iterator once, as those of some detectors do."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        object.__setattr__(self, "_endless", None)

    def __iter__(self):
        if self._endless is None:
            object.__setattr__(self, "_endless", self._forever())
        for _ in range(len(self)):
            yield next(self._endless)

    def _forever(self):
        while True:
            yield from super().__iter__()


class Infinite(Plain):
    """A loader that makes its iterator once."""

    def train_dataloader(self):
        return InfiniteLoader(self.train, BATCH, shuffle=True)
