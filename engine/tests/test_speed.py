"""What costs time in a step, counted, not timed, and what can be known of a GPU without one; bench/ measures the time.

PyTorch's `meta` device has no values, and so nothing that could be waited for. Reading a value raises there (`item`, `cpu`, an `if`),
and so does what has a shape that depends on values. What is copied from the host, for which a GPU is waited for, too, is written down.
"""

import contextlib
import io
from collections import Counter
from types import SimpleNamespace

import hydra
import lightning as L
import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.strategies import SingleDeviceStrategy
from rich.console import Console
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from leyden import assembly
from leyden.assembly.optimizers import make_optimizer
from leyden.base.errors import UserError
from leyden.config.hydra import composing
from leyden.pictures import LoggedConfig, OnEvaluation
from leyden.queue import RequeueSignal
from leyden.tasks import Classification
from leyden.testing.contracts import compose, create, suited_cases
from tests import conf
from tests.data import folders
from tests.training.test_start import train  # noqa: F401 - a fixture

META = torch.device("meta")
# What stops a run on CUDA by trainer.deterministic=true, as torch.use_deterministic_algorithms tells; backward, where it has one.
NOT_DETERMINISTIC = """
    nll_loss2d_forward _adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward avg_pool3d_backward put_ histc
    adaptive_max_pool2d_backward fractional_max_pool2d_backward max_unpool2d _ctc_loss_backward median cumsum
    upsample_bilinear2d_backward upsample_bicubic2d_backward reflection_pad2d_backward grid_sampler_2d_backward
"""
NOT_DETERMINISTIC = tuple(NOT_DETERMINISTIC.split())
# Metrics for which a GPU is waited for at each batch: PyTorch can't do on `meta` what they do.
WAITING = {"perplexity": "takes the tokens that count by a mask, however many these are"}
# Made of a list, and then copied: PyTorch waits for the copy.
MAKERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)
# What needs the values: it draws before the first step (the first), or from whole evaluations at the end of a run. No step waits
# for it. All else can be done on `meta`.
DRAW = (LoggedConfig, OnEvaluation)


def names(folder):
    found = {path.stem for path in conf(folder)}
    if folder == "model":
        found -= {"none"}
    return sorted(found)


@contextlib.contextmanager
def watched(found):
    class Copies(TorchFunctionMode):
        """Lists of numbers that are made on the device."""

        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            of_tensor = bool(args) and isinstance(args[0 if len(args) < 2 else 1], torch.Tensor)
            if func in MAKERS and out.device.type != "cpu" and not of_tensor:
                found.append(f"{func.__name__} makes a tensor on {out.device}")
            return out

    class Crossings(TorchDispatchMode):
        """Operations with tensors here and there, but for copies that nobody waits for; and those that are refused on CUDA."""

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            out = func(*args, **kwargs)
            devices = set()
            for each in tree_leaves((args, kwargs, out)):
                if isinstance(each, torch.Tensor):
                    devices.add(str(each.device))
            waits = not kwargs.get("non_blocking") or "non_blocking" not in str(func._schema)
            if len(devices) > 1 and waits:
                found.append(f"{func} of tensors on {' and '.join(sorted(devices))}")
            # Without a reduction each number for itself is the same each time.
            is_sum = not func.__name__.startswith("nll_loss2d") or args[3]
            if func.__name__.startswith(NOT_DETERMINISTIC) and is_sum:
                found.append(f"{func} is not deterministic on CUDA")
            return out

    with Copies(), Crossings():
        yield


class EnoughError(Exception):
    """Three whole steps have been watched."""


class Watch(L.Callback):
    """Watches all that is done from the end of the first batch to the end of the fourth, and ends it."""

    def __init__(self):
        self.found = []
        self.num = 0

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        if batch_idx == 0:
            self._watching = contextlib.ExitStack()
            self._watching.enter_context(watched(self.found))
        if batch_idx == 3:
            self._watching.close()
            self.num += 1
            raise EnoughError

    on_validation_batch_end = on_test_batch_end = on_train_batch_end


@pytest.fixture
def on_meta(monkeypatch):
    """Lightning takes `meta` for the processor."""
    monkeypatch.setattr(CPUAccelerator, "setup_device", lambda self, device: None)
    monkeypatch.setattr(SingleDeviceStrategy, "root_device", META)
    monkeypatch.setattr(
        SingleDeviceStrategy, "teardown", lambda self: None
    )  # takes the weights back
    # It looks at the number of batches before it begins.
    reduce = lambda self, given, *_, **__: torch.ones_like(given, device="cpu")  # noqa: E731
    monkeypatch.setattr(SingleDeviceStrategy, "reduce", reduce)


CASES = [
    f"{group}={name}"
    for group in ("experiment", "data/augment", "scheduler")
    for name in names(group)
]
# Its affine and erasing bring what they have drawn to the device.
BY_TORCHVISION = ("tensor makes a tensor on meta", "aten.copy_")
FEW = (
    "trainer.max_epochs=1",
    "trainer.log_every_n_steps=1000",
    "data.batch_size=10",
    "data.eval_batch_size=5",
)


@pytest.mark.matrix
@pytest.mark.parametrize("case", CASES)
def test_a_step_of_the_real_trainer_waits_for_nothing(case, small_root, tmp_path, on_meta, capfd):
    assembly.silence_lightning()
    arguments = [
        case,
        f"data.root={small_root}",
        "data.download=false",
        "trainer.accelerator=cpu",
        *FEW,
    ]
    with composing():
        cfg = hydra.compose("train", overrides=[*arguments, f"run_dir={tmp_path}"])
        if cfg.data.val_size and cfg.data.val_size > 5000:  # the small files have no more
            cfg.data.val_size = 5000
    data = assembly.datamodule(cfg)
    stages = ["fit", "validate", "test"]
    if "val" not in data.sizes:
        cfg.trainer.limit_val_batches = 0
        stages.remove("validate")
    trainer = assembly.run_trainer(
        cfg, tmp_path / "run", data, None, requeue_signal=RequeueSignal(60)
    ).trainer
    watch = Watch()
    shown = [each for each in trainer.callbacks if isinstance(each, DRAW)]
    trainer.callbacks = [each for each in trainer.callbacks if each not in shown]
    trainer.callbacks.append(watch)
    module = assembly.task(cfg, data, trainer)
    for stage in stages:
        with pytest.raises(EnoughError):
            getattr(trainer, stage)(module, datamodule=data)
    assert {parameter.device for parameter in module.parameters()} == {META}
    assert watch.num == len(stages)
    is_augmented = cfg.data.get("augment") is not None
    for found in watch.found:
        assert is_augmented, found
        assert found.startswith(BY_TORCHVISION)
    # A callback that shows something would only say so.
    assert "failed" not in capfd.readouterr().err


STEPS = {(model, names("optimizer")[0]) for model in names("model")}
STEPS |= {(names("model")[0], optimizer) for optimizer in names("optimizer")}


@pytest.mark.matrix
@pytest.mark.parametrize(("model", "optimizer"), sorted(STEPS))
def test_every_network_and_every_optimizer_takes_steps(model, optimizer):
    case = suited_cases(model)[0]
    module = create(model, case).to(META)
    cfg = compose(f"model={model}", f"task={case.task}", f"optimizer={optimizer}")
    made = make_optimizer(cfg.optimizer)(module.named_parameters())
    batch = tuple(part.to(META) for part in case.batch)
    for _ in range(2):  # the second one has a state
        found = []
        with watched(found):
            made.zero_grad()
            module.training_step(batch).backward()
            made.step()
    assert found == []
    for parameter in module.parameters():
        assert parameter.grad.device == META


@pytest.mark.matrix
@pytest.mark.parametrize("metrics", names("task/metrics"))
def test_every_metric_takes_batches(metrics, request):
    # As `trainer.deterministic=true` sets it, which is the default: torchmetrics then counts by other operators.
    before = torch.are_deterministic_algorithms_enabled()
    request.addfinalizer(lambda: torch.use_deterministic_algorithms(before))
    torch.use_deterministic_algorithms(True)
    cases = [(model, case) for model in names("model") for case in suited_cases(model)]
    for model, case in cases:
        try:  # it is for some tasks only
            module = create(model, case, f"+task/metrics={metrics}")
            module.validation_step(case.batch)
        except (UserError, ValueError, RuntimeError, TypeError):
            continue
        module, batch = module.to(META), tuple(part.to(META) for part in case.batch)
        waits = contextlib.nullcontext()
        if metrics in WAITING:
            waits = pytest.raises(NotImplementedError)
        found = []
        with waits, watched(found):
            module.validation_step(batch)
        assert metrics in WAITING or found == [], case
        return
    pytest.fail("no task takes it")


class Count(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found[str(func)] += not str(func).startswith("profiler.")
        return func(*args, **(kwargs or {}))


def test_a_batch_is_one_indexing_operation_and_logging_costs_no_other_step(train, monkeypatch):  # noqa: F811
    count = Count()
    advance = _TrainingEpochLoop.advance

    def counted(self, data_fetcher):
        with count:
            return advance(self, data_fetcher)

    def steps(name, num_batches, *overrides):
        """The operations from the batch to the optimizer, of a run with so many steps."""
        count.found = Counter()
        train(
            f"{name}{num_batches}",
            f"trainer.limit_train_batches={num_batches}",
            "trainer.max_epochs=1",
            "trainer.log_every_n_steps=1000",
            "optimizer=keras_rmsprop",
            "test=false",
            *overrides,
        )
        return count.found

    def per_step(name, *overrides):
        few = steps(name, 4, *overrides)
        many = steps(name, 9, *overrides)
        return {key: many[key] - few[key] for key in many if many[key] != few[key]}

    monkeypatch.setattr(_TrainingEpochLoop, "advance", counted)
    found = per_step("all")
    assert found["aten.index_select.default"] == 5 * 2  # images and labels
    assert found == per_step("bare", "callbacks=bare", "logger=none")


def test_the_bar_is_refreshed_at_its_rate(train, monkeypatch):  # noqa: F811
    seen = []
    clock = iter(range(1_000_000))
    monkeypatch.setattr(RichProgressBar, "on_train_batch_end", lambda *args: seen.append(args[-1]))
    time = SimpleNamespace(monotonic=lambda: 0.05 * next(clock))  # per step
    monkeypatch.setattr("leyden.callbacks.display.time", time)
    terminal = Console(file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr("leyden.callbacks.display.get_console", lambda: terminal)
    few = (
        "trainer.limit_train_batches=9",
        "trainer.max_epochs=1",
        "test=false",
        "callbacks=bare",
        "logger=none",
    )
    train("run", *few, "callbacks.progress.refresh_rate=10")
    assert 4 <= len(seen) <= 6
    assert seen[-1] == 8  # the last batch


def test_means_are_a_few_operations_per_batch():
    task = Classification(network=torch.nn.Identity())
    sums = {"loss": torch.tensor(1.0), "acc": torch.tensor(2)}
    with Count() as count:
        task.train_means.update(sums, 5)
    assert sum(count.found.values()) <= 3, count.found


IN_MEMORY = "data.val_size=59000 data.batch_size=100 data.eval_batch_size=1000"
STREAMED = (
    "data=folder data.root={pets} data.image_size=[12,10] data.batch_size=5 data.num_workers=2"
)
TYPED = [IN_MEMORY, f"{IN_MEMORY} experiment=cnn", f"{IN_MEMORY} experiment=resnet", STREAMED]


@pytest.mark.gpu
@pytest.mark.parametrize("typed", TYPED)
def test_on_a_gpu_a_step_waits_for_nothing(command, tmp_path, monkeypatch, typed):
    advance = _TrainingEpochLoop.advance

    def watched(self, data_fetcher):
        torch.cuda.set_sync_debug_mode("error" if self.batch_idx > 1 else "default")
        try:
            return advance(self, data_fetcher)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(_TrainingEpochLoop, "advance", watched)
    few = (
        "trainer.limit_train_batches=9",
        "trainer.log_every_n_steps=1000",
        "trainer.max_epochs=1",
    )
    given = typed.format(pets=folders.write(tmp_path / "pets", train=25, val=2, test=1)).split()
    bare = ("trainer.limit_val_batches=1", "callbacks=bare", "logger=none", "test=false")
    command("train", f"run_dir={tmp_path / 'run'}", "trainer=gpu", *given, *few, *bare)
