"""What a terminal of 80 columns shows of a run's progress."""

import io
import time
from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks.progress.rich_progress import CustomProgress
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console

from leyden.callbacks.display import Progress, metric_texts

METRICS = {f"{stage}/{name}": 0.1234 for stage in ("train", "val") for name in ("acc", "loss")}
STAGES = {name: name.partition("/")[0] for name in METRICS}


def trainer(**kwargs):
    """A trainer after 430 of 2,150 batches."""
    given = {"num_training_batches": 430, "max_epochs": 5, "max_steps": -1, "accumulate_grad_batches": 1}
    loop = SimpleNamespace(total_batch_idx=429)
    return SimpleNamespace(fit_loop=loop, state=SimpleNamespace(fn=TrainerFn.FITTING), **{**given, **kwargs})


@pytest.fixture
def bar(monkeypatch):
    """A bar that was started 10 seconds ago."""
    bar = Progress(refresh_rate=10)
    bar._began, bar._num_before = time.monotonic() - 10, 0
    return bar


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({}, 40),
        ({"max_steps": 860}, 10),
        ({"max_steps": 430, "accumulate_grad_batches": 2}, 10),
        ({"max_epochs": -1}, None),
        ({"num_training_batches": float("inf")}, None),
    ],
)
def test_the_time_left_is_that_of_all_epochs(bar, given, seconds):
    bar._trainer = trainer(**given)
    assert bar.seconds_left == (None if seconds is None else pytest.approx(seconds, abs=1))


def test_the_time_left_counts_this_start_alone(bar):
    bar._trainer, bar._num_before = trainer(), 215
    assert bar.seconds_left == pytest.approx(80, abs=1)


def test_a_line_of_the_bar_fits_with_its_metrics(bar):
    bar._trainer = trainer()
    console = Console(file=(file := io.StringIO()), force_terminal=True, width=80, color_system=None)
    progress = CustomProgress(*bar.configure_columns(bar._trainer), console=console, auto_refresh=False)
    with progress:
        progress.add_task("epoch 100/100", total=430, completed=430)
        progress.refresh()
    (line,) = {line.rpartition("\x1b[2K")[2].rstrip() for line in file.getvalue().splitlines() if "430/430" in line}
    assert line.endswith(" 0:00:40")
    assert len(f"{line} loss: 0.124 acc: 0.968 f1: 0.912 top3: 0.999") <= 80


def test_an_epoch_is_one_line_of_a_terminal():
    line = "  ".join(["epoch 100/100", *metric_texts(METRICS, STAGES), "12.2 s"])
    assert line == "epoch 100/100  train acc 0.1234 loss 0.1234  val acc 0.1234 loss 0.1234  12.2 s"
    assert len(line) <= 80
    small = "  ".join(["epoch 100/100", *metric_texts(dict.fromkeys(METRICS, 2e-5), STAGES), "12.2 s"])
    assert small == line.replace("0.1234", "2.0e-5")
