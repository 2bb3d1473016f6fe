"""Loaders of virtual ranks: each has batches of its own, as a process of DDP has."""

import copy
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from leyden.exact import ExactError
from leyden.exact.loaders import gather_from_processes
from leyden.exact.memory import Reporter, StatePath, path_name
from leyden.exact.ranks import Ranks

END = object()  # in place of a batch, without any


class Sharer(Protocol):
    """Who shares data: the strategy."""

    virtual_ranks: int
    ranks: Ranks | None
    reporter: Reporter
    shares: "Shares | None"  # where the last batch is from

    @property
    def own_ranks(self) -> range:
        """The virtual ranks of this process."""


class Shares:
    """The loaders of this process's virtual ranks, as one that gives the first one's batches.

    Args:
        loader: A loader that gives each virtual rank a part of its batches (`for_ranks`), or a
            `DataLoader` with Lightning's sampler.
        strategy: The strategy.
        evaluates: Whether each sample counts once; training may repeat some.

    Raises:
        ExactError: The loader's samples can't be divided among virtual ranks.

    Attributes:
        is_over: Whether the first one has no batch any more, but perhaps another process's has.
        are_all_left: Whether all virtual ranks have a batch.
    """

    def __init__(self, loader: Any, strategy: Sharer, *, evaluates: bool) -> None:
        self.is_over = False
        self.are_all_left = True
        self.iterators: dict[int, Iterator[Any]] = {}
        self.whole = loader
        self.strategy = strategy
        own = strategy.own_ranks
        self.loaders: dict[int, Any]
        if hasattr(loader, "for_ranks"):
            self.loaders = dict.fromkeys(own, loader.for_ranks(own, strategy.virtual_ranks))
        else:
            _check_loader(loader, strategy.virtual_ranks)
            num = len(loader.sampler.dataset)
            if evaluates and num < strategy.virtual_ranks:
                raise ExactError(
                    f"{strategy.virtual_ranks} virtual ranks can't share the {num} samples that "
                    "are evaluated: each needs one"
                )
            self.loaders = {rank: _share(loader, rank, evaluates) for rank in own}
        self.batch_sampler = None
        self.evaluates = evaluates
        try:
            self.num = len(self._of_rank(0))
            self._fewest = len(self._of_rank(strategy.virtual_ranks - 1))
        except TypeError as error:
            raise ExactError(f"virtual ranks can't share these data: {error}") from error

    def _of_rank(self, rank: int) -> Any:
        """Return the loader of any virtual rank; rank zero has the most batches."""
        if hasattr(self.whole, "for_ranks"):
            return self.whole
        return _share(self.whole, rank, self.evaluates)

    @property
    def parts(self) -> list[Any]:
        """The loaders."""
        return list({id(each): each for each in self.loaders.values()}.values())

    @property
    def sampler(self) -> "Shares":
        """The object that Lightning tells the epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of all samplers."""
        for loader in self.parts:
            for sampler in (
                getattr(loader, "sampler", None),
                getattr(loader, "batch_sampler", None),
            ):
                set_epoch = getattr(sampler, "set_epoch", None)
                if set_epoch:
                    set_epoch(epoch)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "whole":
            raise AttributeError(name)
        return getattr(self.whole, name)

    def __len__(self) -> int:
        return self.num

    def next_of(self, rank: int) -> Any:
        """Return the next batch of a virtual rank; `END` without any."""
        return next(self.iterators[rank], END)

    def __iter__(self) -> Iterator[Any]:
        ranks = self.strategy.ranks
        assert ranks
        self.is_over = False
        self.iterators = {}
        made: dict[int, Iterator[Any]] = {}  # virtual ranks may share a loader
        for rank, loader in self.loaders.items():
            with ranks.turn_of(rank):
                if id(loader) not in made:
                    made[id(loader)] = iter(loader)
                self.iterators[rank] = made[id(loader)]
        before = self._read()
        for number in range(self.num):
            if number == 1:
                self._check_shared(before)
            with ranks.turn_of(ranks.first):
                batch = self.next_of(ranks.first)
            self.strategy.shares = self
            self.are_all_left = number < self._fewest
            self.is_over = batch is END
            if self.is_over and not self.evaluates:
                break  # also after a resume, with fewer batches
            yield None if self.is_over else batch
        self._check_shared(before)
        for rank in self.loaders:  # a loader may do something at its end
            with ranks.turn_of(rank):
                self.next_of(rank)

    def _read(self) -> dict[StatePath, str]:
        """Return the digests of the objects that all virtual ranks of this process read from."""
        found: dict[StatePath, str] = {}
        loader = self.loaders[self.strategy.own_ranks[0]]
        is_shared = len(self.loaders) > 1 and getattr(loader, "num_workers", 1) == 0
        if not is_shared or not hasattr(loader, "memories"):
            return found
        memories = loader.memories()
        for name in ("dataset", "collate_fn"):
            if name in memories:
                for path, (_, digest) in memories[name].now().items():
                    found[path] = digest
        return found

    def _check_shared(self, before: dict[StatePath, str]) -> None:
        """Announce what has changed since, as it depends on which virtual ranks share it."""
        now = self._read()
        changed = [path_name(path) for path in now if now[path] != before.get(path)]
        self.strategy.reporter.name(
            changed, "change as samples are read: with num_workers=1, each virtual rank has a copy"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the position.

        `Exact` counts that of `DataLoader`s for each virtual rank.
        """
        if hasattr(self.whole, "for_ranks"):
            found: dict[str, Any] = self.parts[0].state_dict()
            return found
        if not all(hasattr(each, "own_state") for each in self.parts):
            return {}
        ranks = self.strategy.ranks
        assert ranks
        mine = ranks.run(lambda rank: self.loaders[rank].own_state())
        every: list[Any] = []
        for states in gather_from_processes(list(mine.values())):
            every += states
        return {"processes": every}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume the next iteration after the batches that were already used."""
        if hasattr(self.whole, "for_ranks"):
            self.parts[0].load_state_dict(state)
            return
        if state:
            for rank, loader in self.loaders.items():
                loader.resume_from(state["processes"][rank])


def _check_loader(loader: Any, total: int) -> None:
    """Check that a loader's samples can be divided among virtual ranks.

    Raises:
        ExactError: They can't.
    """
    name = type(loader).__name__
    why = ""
    if not isinstance(loader, DataLoader):
        why = f"{name} is no DataLoader of PyTorch"
    elif isinstance(loader.dataset, IterableDataset):
        why = f"{type(loader.dataset).__name__} is an IterableDataset, which chooses its samples"
    elif not isinstance(loader.sampler, DistributedSampler):
        why = "its sampler is not divided: the trainer needs use_distributed_sampler=True"
    elif loader.sampler.num_replicas != total:
        why = f"its DistributedSampler has num_replicas={loader.sampler.num_replicas}, not {total}"
    elif getattr(loader.batch_sampler, "sampler", loader.sampler) is not loader.sampler:
        why = f"{type(loader.batch_sampler).__name__} has a sampler of its own"
    if why:
        raise ExactError(f"virtual ranks can't share these data: {why}")


def _share(loader: Any, rank: int, evaluates: bool) -> Any:
    """Return a loader of the samples of a virtual rank, of the same data set.

    PyTorch's setters refuse to change a loader that has been made.
    """
    sampler: Any = copy.copy(loader.sampler)
    sampler.rank = rank
    if evaluates:  # otherwise samples are repeated, so that all have as many
        num = len(sampler.dataset)
        sampler.total_size = num
        sampler.num_samples = len(range(rank, num, sampler.num_replicas))
    made = copy.copy(loader)
    if loader.generator is not None:  # which would be drawn from by all
        made.generator = torch.Generator(loader.generator.device)
        made.generator.set_state(loader.generator.get_state())
    vars(made)["sampler"] = sampler
    if loader.batch_sampler is not None:
        batches = copy.copy(loader.batch_sampler)
        batches.sampler = sampler
        vars(made)["batch_sampler"] = batches
    return made
