"""What can be known of a GPU without one: PyTorch's `meta` device has no values, and so nothing that could be waited for.

Reading a value raises there (`item`, `cpu`, an `if`), and so does what has a shape that depends on values. What is copied from the
host, for which a GPU is waited for, too, is written down here.
"""

import contextlib

import hydra
import lightning as L
import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from leyden import assembly
from leyden.assembly.task import make_optimizer
from leyden.config.errors import UserError
from leyden.config.hydra import composing
from leyden.pictures import LoggedConfig, OnEvaluation
from leyden.scheduler import RequeueSignal
from leyden.testing.contracts import compose, create, suited_cases
from tests import conf

META = torch.device("meta")
# What stops a run on CUDA by trainer.deterministic=true, as torch.use_deterministic_algorithms tells; backward, where it has one.
NOT_DETERMINISTIC = (
    *("nll_loss2d_forward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward"),
    *("avg_pool3d_backward", "adaptive_max_pool2d_backward", "fractional_max_pool2d_backward", "max_unpool2d"),
    *(
        "_ctc_loss_backward",
        "upsample_bilinear2d_backward",
        "upsample_bicubic2d_backward",
        "reflection_pad2d_backward",
        "histc",
        "put_",
    ),
    *("grid_sampler_2d_backward", "median", "cumsum"),
)
# Metrics for which a GPU is waited for at each batch: PyTorch can't do on `meta` what they do.
WAITING = {"perplexity": "takes the tokens that count by a mask, however many these are"}
# Made of a list, and then copied: PyTorch waits for the copy.
MAKERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)
# What needs the values: it draws before the first step (the first), or from whole evaluations at the end of a run. No step waits
# for it. All else can be done on `meta`.
DRAW = (LoggedConfig, OnEvaluation)


def names(folder):
    return sorted({path.stem for path in conf(folder)} - ({"none"} if folder == "model" else set()))


class Copies(TorchFunctionMode):
    """Lists of numbers that are made on the device."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        of_tensor = bool(args) and isinstance(args[0 if len(args) < 2 else 1], torch.Tensor)
        if func in MAKERS and out.device.type != "cpu" and not of_tensor:
            self.found.append(f"{func.__name__} makes a tensor on {out.device}")
        return out


class Crossings(TorchDispatchMode):
    """Operations with tensors here and there, but for copies that nobody waits for; and those that are refused on CUDA."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        devices = {each.device for each in tree_leaves((args, kwargs, out)) if isinstance(each, torch.Tensor)}
        waits_for_nothing = "non_blocking" in str(func._schema) and (kwargs or {}).get("non_blocking")
        if len(devices) > 1 and not waits_for_nothing:
            self.found.append(f"{func} of tensors on {' and '.join(sorted(map(str, devices)))}")
        # Without a reduction each number for itself is the same each time.
        is_sum = not func.__name__.startswith("nll_loss2d") or args[3]
        if func.__name__.startswith(NOT_DETERMINISTIC) and is_sum:
            self.found.append(f"{func} is not deterministic on CUDA")
        return out


@contextlib.contextmanager
def watched(found):
    with Copies(found), Crossings(found):
        yield


class EnoughError(Exception):
    """Three whole steps have been watched."""


class Watch(L.Callback):
    """Watches all that is done from the end of the first batch to the end of the fourth, and ends it."""

    def __init__(self):
        self.found, self.num = [], 0

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
    monkeypatch.setattr(SingleDeviceStrategy, "teardown", lambda self: None)  # takes the weights back
    # It looks at the number of batches before it begins.
    monkeypatch.setattr(
        SingleDeviceStrategy, "reduce", lambda self, given, *_, **__: torch.ones_like(given, device="cpu")
    )


CASES = [f"{group}={name}" for group in ("experiment", "data/augment", "scheduler") for name in names(group)]


@pytest.mark.matrix
@pytest.mark.parametrize("case", CASES)
def test_a_step_of_the_real_trainer_waits_for_nothing(case, small_root, tmp_path, on_meta, capfd):
    assembly.silence_lightning()
    few = ("trainer.max_epochs=1", "trainer.log_every_n_steps=1000", "data.batch_size=10", "data.eval_batch_size=5")
    arguments = [case, f"data.root={small_root}", "data.download=false", "trainer.accelerator=cpu", *few]
    with composing():
        cfg = hydra.compose("train", overrides=[*arguments, f"run_dir={tmp_path}"])
        if cfg.data.val_size and cfg.data.val_size > 5000:  # the small files have no more
            cfg.data.val_size = 5000
    data = assembly.datamodule(cfg)
    stages = ["fit", "validate", "test"]
    if "val" not in data.sizes:
        cfg.trainer.limit_val_batches = 0
        stages.remove("validate")
    trainer = assembly.run_trainer(cfg, tmp_path / "run", data, None, requeue_signal=RequeueSignal(60)).trainer
    trainer.callbacks = [each for each in trainer.callbacks if not isinstance(each, DRAW)] + [watch := Watch()]
    module = assembly.task(cfg, data, trainer)
    for stage in stages:
        with pytest.raises(EnoughError):
            getattr(trainer, stage)(module, datamodule=data)
    assert {parameter.device for parameter in module.parameters()} == {META}
    assert watch.num == len(stages)
    assert watch.found == []
    assert "failed" not in capfd.readouterr().err  # a callback that shows something would only say so


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
        with watched(found := []):
            made.zero_grad()
            module.training_step(batch).backward()
            made.step()
    assert found == []
    assert all(parameter.grad.device == META for parameter in module.parameters())


@pytest.fixture
def deterministic():
    """As `trainer.deterministic=true` sets it, which is the default: torchmetrics then counts by other operators."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.matrix
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("metrics", names("task/metrics"))
def test_every_metric_takes_batches(metrics):
    for model, case in ((name, case) for name in names("model") for case in suited_cases(name)):
        try:  # it is for some tasks only
            module = create(model, case, f"+task/metrics={metrics}")
            module.validation_step(case.batch)
        except (UserError, ValueError, RuntimeError, TypeError):
            continue
        module, batch = module.to(META), tuple(part.to(META) for part in case.batch)
        waits = pytest.raises(NotImplementedError) if metrics in WAITING else contextlib.nullcontext()
        with waits, watched(found := []):
            module.validation_step(batch)
        assert metrics in WAITING or found == [], case
        return
    pytest.fail("no task takes it")
