"""Training on V virtual ranks: the same bits on any number of processes that divides V.

A virtual rank is what a process of DDP is: it has samples, random states, metrics, logged values
and attributes of its own. A process computes its virtual ranks one after another. Their gradients
are added up in the order of one tree (`tree.py`), whichever processes they are on.
"""

import functools
import os
from collections.abc import Callable, Collection
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.hooks import DataHooks, ModelHooks
from lightning.pytorch.loops.optimization.automatic import ClosureResult
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.exact import ExactError
from leyden.exact.apart import Attributes, Common, broadcast
from leyden.exact.digest import digest_of_content
from leyden.exact.lightning import saved_elsewhere
from leyden.exact.loaders import flatten_loaders, gather_from_processes, has_processes
from leyden.exact.logged import Logged
from leyden.exact.memory import Reporter, StatePath
from leyden.exact.random_state import Stream, random_states, restore_random_states, seed_rank
from leyden.exact.ranks import Ranks
from leyden.exact.shares import END, Shares
from leyden.exact.tree import Node, Tree, block

# Hooks of a module that each virtual rank calls; all others are called once in each process.
HOOKS = [
    name
    for name in dir(ModelHooks)
    if name.startswith("on_")
    and not name.startswith(("on_fit", "on_predict"))
    and "model" not in name
]
HOOKS = [name for name in HOOKS if name not in ("on_train_start", "on_train_end")]
TRANSFER = "on_before_batch_transfer"  # which Lightning calls for the first virtual rank alone
SHARED_TILL_NOW = "until now the virtual ranks of a process have shared them"


def check_ranks(virtual_ranks: int, num_processes: int = 1) -> None:
    """Check that a number of processes can share virtual ranks.

    Raises:
        ValueError: `virtual_ranks` is no positive whole number.
        ExactError: The number of processes does not divide it.
    """
    if type(virtual_ranks) is not int or virtual_ranks < 1:
        raise ValueError(f"virtual_ranks={virtual_ranks}: must be a positive whole number")
    if virtual_ranks % num_processes:
        divisors = [n for n in range(1, virtual_ranks + 1) if virtual_ranks % n == 0]
        allowed = ", ".join(map(str, divisors))
        raise ExactError(
            f"virtual_ranks={virtual_ranks}: can't be shared by {num_processes} processes; their "
            f"number (devices times num_nodes) must be one of {allowed}"
        )


class Elastic(DDPStrategy):
    """Lightning's DDP for virtual ranks, whose bits don't depend on the number of processes.

    Use it together with `Exact`. Gradients are averaged over all virtual ranks, so a step takes
    `virtual_ranks` batches.

    Args:
        virtual_ranks: Number of virtual ranks; the number of processes must divide it.
        process_group_backend: Backend of `torch.distributed`; None: that of the device.

    Raises:
        ValueError: `virtual_ranks` is no positive whole number.
    """

    def __init__(self, virtual_ranks: int, *, process_group_backend: str | None = None) -> None:
        check_ranks(virtual_ranks)
        super().__init__(process_group_backend=process_group_backend)
        self.virtual_ranks = virtual_ranks
        # Otherwise Lightning chooses it by the number of processes.
        num_threads = max(1, (os.cpu_count() or 1) // virtual_ranks)
        os.environ.setdefault("OMP_NUM_THREADS", str(num_threads))
        self.reporter = Reporter("report")
        self.ranks: Ranks | None = None
        self.batches: dict[int, Any] = {}  # by virtual rank; none if its samples are used up
        self.outputs: dict[int, Any] = {}  # of the last step
        self.losses: dict[int, Tensor] = {}  # for its backward pass
        self.shares: Shares | None = None  # where the last batch is from
        self._held: list[dict[Node, Tensor]] = []

    @property
    def own_ranks(self) -> range:
        """The virtual ranks of this process."""
        return block(self.global_rank, self.world_size, self.virtual_ranks)

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Arguments of Lightning's sampler: each virtual rank has a part of the samples."""
        if self._is_predicting:
            return super().distributed_sampler_kwargs
        return {"num_replicas": self.virtual_ranks, "rank": self.own_ranks[0]}

    @property
    def _is_predicting(self) -> bool:
        trainer: Any = self.lightning_module.trainer  # type: ignore[union-attr]
        return bool(trainer.predicting)

    def setup_environment(self) -> None:
        """Start the processes, which share the virtual ranks."""
        check_ranks(self.virtual_ranks, self.num_nodes * self.num_processes)
        super().setup_environment()
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"].partition(",")[0]))

    def setup(self, trainer: L.Trainer) -> None:
        """Set up the module, and give each virtual rank what it has of its own."""
        super().setup(trainer)
        module = trainer.lightning_module
        if trainer.state.fn == TrainerFn.FITTING:
            _check_module(trainer, module)
        if has_processes():  # as DDP does it; they draw the same numbers, too
            broadcast([*module.parameters(), *module.buffers()])
            restore_random_states(gather_from_processes(random_states())[0])
        own = self.own_ranks
        self.ranks = Ranks(own, self.virtual_ranks, self._switch)
        self._tree = Tree(self.virtual_ranks, self.global_rank, self.world_size)
        self._streams = _streams(own, self.virtual_ranks)
        self._drawing: int | None = None  # whose random states stand
        self._standing = own[0]  # whose other states stand
        self._logged = Logged(trainer, module, self.ranks)
        self._common = Common(module, own)
        self._attributes: Attributes | None = None
        if len(own) > 1:
            known = functools.partial(saved_elsewhere, trainer, module)
            self._attributes = Attributes(module, own, known)
        for name in HOOKS:
            if is_overridden(name, module) and name not in vars(module):
                setattr(module, name, self._by_rank(name, getattr(module, name)))

    def configure_ddp(self) -> None:
        """Leave the module as it is: gradients are added up here."""

    def _switch(self, rank: int | None) -> None:
        """Let a virtual rank have its turn; none: what is not any virtual rank's."""
        if rank != self._drawing:
            self._streams[self._drawing].keep()
            self._streams[rank].load()
            self._drawing = rank
        if len(self.own_ranks) == 1:
            return
        before = self._standing
        self._standing = self.own_ranks[0] if rank is None else rank
        self._logged.keep(before)
        self._logged.load(self._standing)
        if self._attributes:
            self._attributes.keep(before)
            self._attributes.load(self._standing)
        self._common.keep(before)
        self._common.load(self._standing)

    def each(self, name: str, call: Callable[[int], Any]) -> dict[int, Any]:
        """Call a function, that runs the module's code, in the turn of each virtual rank.

        Args:
            name: Name of the hook.
            call: The function of a virtual rank.
        """
        assert self.ranks
        if self.ranks.current is not None:
            return self.ranks.run(call)
        self._logged.begin()
        self._common.begin(name)
        if self._attributes:
            self._attributes.begin(name)
        found = self.ranks.run(call)
        if len(self.own_ranks) == 1:
            self._common.keep(self.own_ranks[0])
        self._common.end()
        late = self._attributes.end() if self._attributes else []
        if late:
            self.reporter.name(
                late, f"change in {name}, but not in its first calls: {SHARED_TILL_NOW}"
            )
        return found

    def _by_rank(self, name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
        """Return a hook of the module that is called for each virtual rank, with its own batch."""

        @functools.wraps(hook)
        def call(*args: Any, **kwargs: Any) -> Any:
            def of_rank(rank: int) -> Any:
                own = list(args)
                if name == "on_before_backward":
                    own[0] = self.losses[rank]
                elif name.endswith("batch_start"):
                    own[0] = self.batches.get(rank)
                elif name.endswith("batch_end"):
                    own[:2] = self.outputs.get(rank), self.batches.get(rank)
                if "batch_" in name and rank not in self.batches:
                    return None
                return hook(*own, **kwargs)

            return next(iter(self.each(name, of_rank).values()))

        return call

    def process_dataloader(self, dataloader: Any) -> Any:
        """Return a loader of the batches of this process's virtual ranks."""
        trainer: Any = self.lightning_module.trainer  # type: ignore[union-attr]
        if self._is_predicting:
            if self.world_size > 1:
                raise ExactError("predictions are of one process: set devices=1 for them")
            return dataloader
        return Shares(dataloader, self, evaluates=not trainer.training or trainer.validating)

    def check_weights(self) -> None:
        """Check that all processes have the same weights.

        Raises:
            ExactError: They have not, so a sum or a schedule depends on the process.
        """
        module: Any = self.lightning_module
        mine = [digest_of_content(each) for each in module.parameters()]
        if has_processes() and any(each != mine for each in gather_from_processes(mine)):
            raise ExactError(
                "the weights of the processes differ: a hook or a callback changes them by what "
                "it has seen in its own process"
            )

    def split_attributes(self, paths: Collection[StatePath]) -> None:
        """Give each virtual rank a copy of some attributes of the module."""
        if self._attributes:
            self._attributes.split(paths)

    def on_train_start(self) -> None:
        """Check that there is one training loader.

        Raises:
            ExactError: There are several.
        """
        trainer: Any = self.lightning_module.trainer  # type: ignore[union-attr]
        number = len(flatten_loaders(trainer.train_dataloader))
        if number != 1:
            raise ExactError(f"virtual ranks can't share {number} training loaders: use one")
        super().on_train_start()

    def batch_to_device(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0
    ) -> Any:
        """Take the batches of the other virtual ranks, too, and move all to the device."""
        move = super().batch_to_device
        shares = self.shares
        if self.ranks is None or shares is None:
            return move(batch, device, dataloader_idx)
        self.batches = {}

        def take(rank: int) -> None:
            mine = batch
            if rank != self.own_ranks[0]:
                mine = shares.next_of(rank)
                if mine is not END:
                    mine = self.precision_plugin.convert_input(mine)
            elif shares.is_over:
                mine = END
            if mine is not END:
                self.batches[rank] = move(mine, device, dataloader_idx)

        self.ranks.run(take)
        return self.batches.get(self.own_ranks[0])

    def _step(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        """Call a step for each virtual rank that has a batch, and return what the first returns."""

        def of_rank(rank: int) -> Any:
            if rank not in self.batches:
                return None
            self._logged.begin_batch(self.batches[rank])
            return call(self.batches[rank], *args[1:])

        assert self.ranks
        assert self.shares
        self.ranks.all_take_part = self.shares.are_all_left
        self.outputs = self.each(name, of_rank)
        self.ranks.all_take_part = True
        return self.outputs[self.own_ranks[0]]

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Validate the batch of each virtual rank."""
        step = super().validation_step
        return self._step("validation_step", functools.partial(step, **kwargs), *args)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        """Test on the batch of each virtual rank."""
        step = super().test_step
        return self._step("test_step", functools.partial(step, **kwargs), *args)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Compute loss and gradients of the batch of each virtual rank."""
        module: Any = self.lightning_module
        step = functools.partial(super().training_step, **kwargs)
        accumulate = module.trainer.accumulate_grad_batches
        trained = [each.requires_grad for each in module.parameters()]
        self._weights = weights = [each for each in module.parameters() if each.requires_grad]
        before = [each.grad for each in weights]  # of batches before, if they are accumulated
        self._held = []

        def train(*args: Any) -> Any:
            output = step(*args)
            result = ClosureResult.from_training_step_output(output, accumulate)
            if result.closure_loss is None:
                raise ExactError("training_step returned no loss: each virtual rank must have one")
            for each in weights:
                each.grad = None
            self.precision_plugin.backward(result.closure_loss, module, None)
            self._hold(self._standing, weights)
            self.losses[self._standing] = result.closure_loss.detach()
            if trained != [each.requires_grad for each in module.parameters()]:
                raise ExactError(
                    "training_step freezes weights, or trains others, which virtual ranks share: "
                    "do it in on_train_batch_start"
                )
            return result.asdict()

        found = self._step("training_step", train, *args)
        for each, gradient in zip(weights, before, strict=True):
            each.grad = gradient
        return {**found, "loss": found["loss"] * accumulate}  # Lightning divides it

    def _hold(self, rank: int, weights: list[nn.Parameter]) -> None:
        """Add the gradients of a virtual rank to the tree; those of unused weights are zeros."""
        by_type = _by_type(weights)
        if not self._held:
            self._held = [{} for _ in by_type]
        for held, some in zip(self._held, by_type, strict=True):
            parts: list[Tensor] = []
            for each in some:
                gradient = each.grad
                if gradient is None:
                    gradient = torch.zeros_like(each)
                if gradient.is_sparse:
                    raise ExactError(
                        "sparse gradients can't be added up in an order: create the embedding "
                        "with sparse=False"
                    )
                parts.append(gradient.detach().reshape(-1))
                each.grad = None
            self._tree.hold(held, (0, rank), torch.cat(parts), torch.Tensor.add_)

    def backward(
        self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Give each weight the mean of the gradients, which `training_step` has computed."""
        module: Any = self.lightning_module
        closure_loss = self.precision_plugin.pre_backward(closure_loss, module)
        for held, some in zip(self._held, _by_type(self._weights), strict=True):
            total = self._tree.total(held).div_(self.virtual_ranks)
            parts = torch.split(total, [each.numel() for each in some])
            for each, part in zip(some, parts, strict=True):
                if not each.requires_grad:  # any more
                    continue
                gradient = part.view_as(each)
                if each.grad is not None:
                    gradient = gradient.add_(each.grad)
                if not each.is_contiguous():
                    gradient = torch.empty_like(each).copy_(gradient)
                each.grad = gradient
        self._held = []
        return self.precision_plugin.post_backward(closure_loss, module)

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """Reduce a value of all virtual ranks, in their order.

        Outside of a turn it is reduced over all processes.
        """
        if self.ranks is None or self.ranks.current is None:
            return super().reduce(tensor, group, reduce_op)
        if not isinstance(tensor, Tensor):
            return tensor
        values = [each.to(tensor.device) for each in self.ranks.meet(tensor)]
        name = str(getattr(reduce_op, "name", reduce_op) or "mean").lower()
        if name in ("max", "min"):
            return torch.stack(values).amax(0) if name == "max" else torch.stack(values).amin(0)
        total = functools.reduce(torch.add, values)
        return total if name == "sum" else total / self.virtual_ranks

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        """Return a value of all virtual ranks, by rank; outside of a turn, of all processes."""
        if self.ranks is None or self.ranks.current is None:
            return super().all_gather(tensor, group, sync_grads)
        if sync_grads:
            raise ExactError("all_gather(sync_grads=True) has no gradients over virtual ranks")
        return torch.stack([each.to(tensor.device) for each in self.ranks.meet(tensor)])

    def teardown(self) -> None:
        """Give the module its own hooks again."""
        module = self.lightning_module
        if module is not None:
            for name in HOOKS:
                if getattr(vars(module).get(name), "__wrapped__", None):
                    delattr(module, name)
        if self.ranks:
            self._logged.close()
            self.ranks.close()
            self.ranks = None
        super().teardown()


def _by_type(weights: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Return weights by their type and device."""
    found: dict[Any, list[nn.Parameter]] = {}
    for each in weights:
        found.setdefault((each.dtype, each.device), []).append(each)
    return list(found.values())


def _streams(own: range, total: int) -> dict[int | None, Stream]:
    """Return random states for each virtual rank, and for what is done once in each process.

    The latter are equal in all processes. Rank 0 draws the same numbers as a single process would.
    """
    begin = Stream()
    found: dict[int | None, Stream] = {}
    for key, number in [*((rank, rank) for rank in own), (None, total)]:
        begin.load()
        seed_rank(number)
        found[key] = Stream()
    found[None].load()
    return found


def _check_module(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Check that a module can be trained on virtual ranks.

    Raises:
        ExactError: It can't.
    """
    name = type(module).__name__
    if not module.automatic_optimization:
        raise ExactError(f"{name} steps its optimizers by hand: virtual ranks need automatic ones")
    for owner in (module, getattr(trainer, "datamodule", None)):
        if owner is not None and is_overridden(TRANSFER, owner, DataHooks):
            raise ExactError(f"{type(owner).__name__} has {TRANSFER}: use on_after_batch_transfer")
    if any(hasattr(each, "device_mesh") for each in module.parameters()):
        raise ExactError(f"{name} shards its weights, and each virtual rank needs all of them")
    for each in trainer.lr_scheduler_configs:
        if each.reduce_on_plateau and each.interval == "step":
            raise ExactError(
                f"a schedule follows {each.monitor} by step, and each virtual rank has its own: "
                "use interval=epoch"
            )
    for path, each in module.named_modules():
        if isinstance(each, nn.SyncBatchNorm):
            raise ExactError(
                f"{path} is a SyncBatchNorm, which normalizes over processes: use BatchNorm, whose "
                "statistics are those of virtual rank zero, or GroupNorm"
            )
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        raise ExactError(
            f"precision={trainer.precision}: scales the loss by what was lost before; "
            "use bf16-mixed"
        )
