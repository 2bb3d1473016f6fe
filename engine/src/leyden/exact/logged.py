"""Logged values and metrics of virtual ranks, each as if it were the only one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from leyden.exact import lightning
from leyden.exact.memory import metrics_of

if TYPE_CHECKING:
    from lightning import LightningModule, Trainer
    from torchmetrics import Metric

    from leyden.exact.ranks import Ranks


class RankResults(dict[str, Any]):
    """Values that a virtual rank has logged, beside those of the others.

    Lightning resets and reads those that stand in its loop. It derives from the tree's collection
    (`derived`), which is private: there is no public way to have several.

    Args:
        training: Whether they are those of training.
        ranks: The virtual ranks of this process.
    """

    def __init__(self, training: bool, ranks: Ranks) -> None:
        super().__init__(training)  # type: ignore[call-overload]
        self.ranks = ranks
        self.of_all: dict[int, Any] = {}

    def reset(self, metrics: bool | None = None, fx: str | None = None) -> None:
        """Reset the values of all virtual ranks; a hook's before the first of them logs in it."""

        def reset(rank: int) -> None:
            whose = [rank] if fx is None else [*self.of_all]
            for each in whose:
                parent: Any = super(RankResults, self.of_all[each])
                parent.reset(metrics, fx)

        self.ranks.run(reset)

    def metrics(self, on_step: bool) -> Any:
        """Return the values for Lightning; those of an epoch are reduced over all virtual ranks."""
        parent: Any = super()
        if on_step:
            return parent.metrics(on_step)
        found = self.ranks.run(lambda rank: self.of_all[rank]._of_epoch())
        return found[self.ranks.first]

    def _of_epoch(self) -> Any:
        first = self.of_all[self.ranks.first]
        self.dataloader_idx = first.dataloader_idx
        mine = [key for key, each in self.items() if not each.has_reset]
        logged = self.ranks.meet(mine)
        by_all = set(mine).intersection(*logged)
        synced = []
        for key in logged[0]:  # they wait for each other in one order
            if key not in by_all:
                continue
            each = self[key] = self.pop(key)
            if each.is_tensor and each.meta.on_epoch and not each.meta.sync.should:
                each.meta.sync.should = True
                synced.append(each)
        parent: Any = super()
        found = parent.metrics(False)
        for each in synced:
            each.meta.sync.should = False
        return found


class Logged:
    """The values that virtual ranks log, and the states of their metrics.

    Args:
        trainer: The trainer.
        module: The module.
        ranks: The virtual ranks of this process.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, ranks: Ranks) -> None:
        self._trainer = trainer
        self._module = module
        self._ranks = ranks
        within = trainer.fit_loop.epoch_loop
        self._loops: list[Any] = [
            within,
            within.val_loop,
            trainer.validate_loop,
            trainer.test_loop,
        ]
        self._results: dict[int, list[Any]] = {rank: [] for rank in ranks.own}
        self._theirs: list[Any] = []  # Lightning's own values
        for loop in self._loops:
            shown = lightning.results_of(loop)
            base: Any = type(shown)
            kind = lightning.derived(RankResults, base)
            of_all = {rank: kind(shown.training, ranks) for rank in ranks.own}
            for rank, each in of_all.items():
                each.of_all = of_all
                self._results[rank].append(each)
            lightning.set_results(loop, of_all[ranks.first])
            self._theirs.append(shown)
        self._metrics: list[Metric] = []
        self._before: list[dict[str, Any]] = []  # their own functions
        self._states: dict[int, list[dict[str, Any]]] = {rank: [] for rank in ranks.own}
        self.begin()

    def begin(self) -> None:
        """Begin a call, in which each virtual rank logs as the only one."""
        for _, metric in metrics_of(self._module):
            if not any(metric is each for each in self._metrics):
                self._add(metric)

    def _add(self, metric: Metric) -> None:
        """Give each virtual rank a state of a metric, which it computes over all of them."""
        ranks = self._ranks
        compute = metric.compute
        names = ("compute", "distributed_available_fn", "dist_sync_fn")
        self._before.append({name: getattr(metric, name) for name in names})
        vars(metric)["compute"] = lambda: ranks.run(lambda rank: compute())[_own_rank(ranks)]
        metric.distributed_available_fn = lambda: ranks.current is not None
        metric.dist_sync_fn = lambda tensor, group=None: ranks.meet(tensor)
        self._metrics.append(metric)
        for rank, states in self._states.items():
            own = dict(vars(metric))
            if rank != ranks.first:
                own |= {name: _clone(value) for name, value in metric.metric_state.items()}
            states.append(own)

    def close(self) -> None:
        """Let values be logged, and metrics computed, as before."""
        for loop, theirs in zip(self._loops, self._theirs, strict=True):
            lightning.set_results(loop, theirs)
        for metric, before in zip(self._metrics, self._before, strict=True):
            vars(metric).update(before)

    def begin_batch(self, batch: Any) -> None:
        """Let a virtual rank log a batch, in its turn: its size weighs the means."""
        results = lightning.results_of(self._trainer)
        results.batch = batch
        results.batch_size = None

    def keep(self, rank: int) -> None:
        """Keep what a virtual rank has, whose turn ends."""
        self._states[rank] = [dict(vars(metric)) for metric in self._metrics]

    def load(self, rank: int) -> None:
        """Let stand what a virtual rank has, whose turn begins."""
        first = self._results[self._ranks.first]
        for loop, each, shown in zip(self._loops, self._results[rank], first, strict=True):
            each.dataloader_idx = shown.dataloader_idx
            if shown.batch is None:  # after the last hook of a batch
                each.batch = None
                each.batch_size = None
            lightning.set_results(loop, each)
        for metric, state in zip(self._metrics, self._states[rank], strict=True):
            vars(metric).update(state)


def _own_rank(ranks: Ranks) -> int:
    """Return the virtual rank that has its turn, or the first one of this process."""
    return ranks.first if ranks.current is None else ranks.current


def _clone(state: Any) -> Any:
    """Return a copy of a metric's state on its own device."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    return [_clone(part) for part in state]
