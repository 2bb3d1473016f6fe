"""What a terminal of 80 columns shows of a run's progress."""

import io
from types import SimpleNamespace

from lightning.pytorch.callbacks.progress.rich_progress import CustomProgress
from rich.console import Console

from leyden.callbacks.display import Progress, metric_texts

METRICS = {f"{stage}/{name}": 0.1234 for stage in ("train", "val") for name in ("acc", "loss")}
STAGES = {name: name.partition("/")[0] for name in METRICS}


def test_a_line_of_the_bar_fits_with_its_metrics():
    console = Console(file=(file := io.StringIO()), force_terminal=True, width=80, color_system=None)
    columns = Progress(refresh_rate=10).configure_columns(SimpleNamespace())
    progress = CustomProgress(*columns, console=console, auto_refresh=False)
    with progress:
        progress.add_task("epoch 100/100", total=430, completed=430)
        progress.refresh()
    (line,) = {line.rpartition("\x1b[2K")[2].rstrip() for line in file.getvalue().splitlines() if "430/430" in line}
    assert len(f"{line} loss: 0.124 acc: 0.968") <= 80


def test_an_epoch_is_one_line_of_a_terminal():
    line = "  ".join(["epoch 100/100", *metric_texts(METRICS, STAGES), "12.2 s"])
    assert line == "epoch 100/100  train acc 0.1234 loss 0.1234  val acc 0.1234 loss 0.1234  12.2 s"
    assert len(line) <= 80
    small = "  ".join(["epoch 100/100", *metric_texts(dict.fromkeys(METRICS, 2e-5), STAGES), "12.2 s"])
    assert small == line.replace("0.1234", "2.0e-5")
