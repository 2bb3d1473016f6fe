"""What costs time in a step, counted, not timed; scripts/bench measures the time, test_device.py tells what waits for a GPU."""

import io
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from rich.console import Console
from torch.utils._python_dispatch import TorchDispatchMode

from leyden.tasks import Classification
from tests.data import folders
from tests.example import MLP
from tests.training.test_start import train  # noqa: F401 - a fixture


class Count(TorchDispatchMode):
    """Counts PyTorch's operations by name."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not str(func).startswith("profiler."):
            self.found[str(func)] += 1
        return func(*args, **(kwargs or {}))


def test_a_batch_is_one_indexing_operation_and_logging_costs_no_other_step(train, monkeypatch):  # noqa: F811
    advance = _TrainingEpochLoop.advance

    def steps(name, num_batches, *overrides):
        """The operations from the batch to the optimizer, of a run with so many steps."""
        count = Count()

        def counted(self, data_fetcher):
            with count:
                return advance(self, data_fetcher)

        monkeypatch.setattr(_TrainingEpochLoop, "advance", counted)
        few = (f"trainer.limit_train_batches={num_batches}", "trainer.log_every_n_steps=1000")
        train(name, *few, "optimizer=keras_rmsprop", "trainer.max_epochs=1", "test=false", *overrides)
        return count.found

    def per_step(name, *overrides):
        few, many = steps(f"{name}_few", 4, *overrides), steps(f"{name}_many", 9, *overrides)
        return {key: many[key] - few[key] for key in many if many[key] != few[key]}

    found = per_step("all")
    assert found["aten.index_select.default"] == 5 * 2  # images and labels
    assert found == per_step("bare", "callbacks=bare", "logger=none")


def test_the_bar_is_refreshed_at_its_rate(train, monkeypatch):  # noqa: F811
    seen, clock = [], iter(range(1_000_000))
    monkeypatch.setattr(RichProgressBar, "on_train_batch_end", lambda *args: seen.append(args[-1]))
    time = SimpleNamespace(monotonic=lambda: 0.05 * next(clock))  # per step
    monkeypatch.setattr("leyden.callbacks.display.time", time)
    terminal = Console(file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr("leyden.callbacks.display.get_console", lambda: terminal)
    few = ("trainer.limit_train_batches=9", "trainer.max_epochs=1", "test=false", "callbacks=bare", "logger=none")
    train("run", *few, "callbacks.progress.refresh_rate=10")
    assert 4 <= len(seen) <= 6
    assert seen[-1] == 8  # the last batch


def test_means_are_a_few_operations_per_batch():
    task = Classification(network=MLP(input_shape=(1, 2, 2), num_outputs=3, hidden_sizes=[4], dropout=0.0))
    sums = {"loss": torch.tensor(1.0), "acc": torch.tensor(2)}
    with Count() as count:
        task.train_means.update(sums, 5)
    assert sum(count.found.values()) <= 3, count.found


IN_MEMORY = "data.val_size=59000 data.batch_size=100 data.eval_batch_size=1000"
STREAMED = "data=folder data.root={pets} data.image_size=[12,10] data.batch_size=5 data.num_workers=2"


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
    few = ("trainer.limit_train_batches=9", "trainer.log_every_n_steps=1000", "trainer.max_epochs=1")
    given = typed.format(pets=folders.write(tmp_path / "pets", train=25, val=2, test=1)).split()
    bare = ("trainer.limit_val_batches=1", "callbacks=bare", "logger=none", "test=false")
    command("train", f"run_dir={tmp_path / 'run'}", "trainer=gpu", *given, *few, *bare)
