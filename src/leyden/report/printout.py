"""The result of a run as it is printed, with the commands that one would type next."""

import shlex
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from rich.table import Table

from leyden.config.paths import ROOT
from leyden.config.terminal import Terminal, python_command, quoted_override, relative_path
from leyden.run.directory import Run
from leyden.run.result import Result

# What is typed for one start, and not for the next.
OF_ONE_START = ("run_dir", "resume", "dry_run", "sweep_name", "trainer.max_epochs")


def next_steps(run: Run, result: Result) -> list[tuple[str, str]]:
    """At most three commands, each with what it is for; they hold where they are printed."""
    return list(islice(_steps(run, result), 3)) if result.status == "finished" else []


def _steps(run: Run, result: Result) -> Iterator[tuple[str, str]]:
    where = relative_path(run.directory)
    typed_before = {override.lstrip("+~").partition("=")[0]: override for override in run.overrides}
    choices = {key: override for key, override in typed_before.items() if key not in OF_ONE_START}
    trainer = run.config["trainer"]
    if any(run.directory.glob("events.out.tfevents.*")):
        if Path.cwd() == ROOT and shutil.which("make"):
            yield f"make tensorboard {shlex.quote(f'DIR={where}')}", "look at it"
        else:
            yield f"{python_command()} -m tensorboard.main {shlex.quote(f'--logdir={where}')}", "look at it"
    if result.can_be_tested and not result.is_tested:
        yield (
            f"{_verb('evaluate')} {quoted_override('run', where)}",
            "its accuracy, or what it has, on the test set",
        )
    if result.epochs == trainer["max_epochs"] and not run.config.get("scheduler"):  # a schedule ends with its run
        longer = [*choices.values(), f"trainer.max_epochs={2 * result.epochs}"]
        yield f"{_verb('train')} {quoted_override('run_dir', where)} {shlex.join(longer)}", "train on"
    rate = (run.config.get("optimizer") or {}).get("lr")
    if isinstance(rate, float) and rate > 0:
        others = [override for key, override in choices.items() if key not in ("optimizer.lr", "test")]
        swept = f"optimizer.lr={rate / 3:.1g},{rate:g},{rate * 3:.1g}"
        yield f"{_verb('train')} -m {shlex.join([*others, swept])}", "try other learning rates"
    yield _verb("runs"), "all runs so far"


def _verb(name: str) -> str:
    return f"{python_command()} -m leyden.{name}"


def print_result(run: Run, result: Result, *, further: bool) -> None:
    """Print the metrics of a run that has ended, where it lies, and, if `further`, what one would do next."""
    table = Table(show_header=False, box=None)
    if result.status == "fast_dev_run":
        table.add_row("status", "tried only (trainer.fast_dev_run): this is no finished run")
    for objective in result.objectives[:1]:
        table.add_row("best epoch by", objective.metric)
    for name, value in result.metrics.items():
        real = f"{value:.4f}" if abs(value) < 1e4 else f"{value:.3g}"
        table.add_row(name, f"{value:,}" if isinstance(value, int) else real)
    table.add_row("epochs", str(result.epochs))
    if result.seconds is not None:
        table.add_row("time", f"{result.seconds:.1f} s")
    if result.samples_per_second is not None:
        table.add_row("speed", f"{result.samples_per_second:,.0f} samples/s")
    console = Terminal()
    console.print(table)
    console.print(f"run directory: {relative_path(run.directory)}")
    if further:
        print_next_steps(run, result)


def print_next_steps(run: Run, result: Result) -> None:
    """Print what one would do next with a run that has ended well."""
    if steps := next_steps(run, result):
        console = Terminal()
        console.print("what next:")
        for command, purpose in steps:
            console.print(f"  {purpose}:\n    {command}")  # to be pasted; to zsh a comment would be words
