"""Printed result of a run, with suggested next commands."""

import shlex
from collections.abc import Iterator
from itertools import islice

from leyden.config.paths import ROOT
from leyden.config.table import print_table
from leyden.config.terminal import (
    leyden_command,
    metric_text,
    program_command,
    python_command,
    quoted_override,
    relative_path,
    show,
)
from leyden.report.held_out import count_line
from leyden.run.directory import Run
from leyden.run.fork import key_of
from leyden.run.result import Result

# Settings of a single start, which suggested commands do not repeat.
SINGLE_START_KEYS = ("run_dir", "resume", "dry_run", "sweep_name")


def _next_steps(run: Run, result: Result) -> Iterator[tuple[str, str]]:
    """Yield suggested commands for the current working directory, each with its purpose."""
    where = relative_path(run.directory)
    overrides = {key_of(override): override for override in run.overrides}
    kept = {key: override for key, override in overrides.items() if key not in SINGLE_START_KEYS}
    trainer = run.config["trainer"]
    if any(run.directory.glob("*/events.out.tfevents.*")):
        program = program_command("tensorboard") or f"{python_command()} -m tensorboard.main"
        yield f"{program} {shlex.quote(f'--logdir={where}')}", "view it"
    if "debug" in overrides:
        return
    if result.can_be_tested and not result.is_tested:
        yield f"{leyden_command('evaluate')} {quoted_override('run', where)}", "evaluate it on the test set"
    # A learning rate schedule is made for a fixed number of epochs, so such a run can't be continued.
    if result.epochs == trainer["max_epochs"] and not run.config.get("scheduler"):
        longer = [kept[key] for key in kept if key != "trainer.max_epochs"]
        longer.append(f"trainer.max_epochs={2 * result.epochs}")
        yield f"{leyden_command('train')} {quoted_override('run_dir', where)} {shlex.join(longer)}", "train on"
    rate = (run.config.get("optimizer") or {}).get("lr")
    if result.takes_optimizer and isinstance(rate, float) and rate > 0:
        others = [override for key, override in kept.items() if key not in ("optimizer.lr", "test")]
        swept = f"optimizer.lr={rate / 3:.1g},{rate:g},{rate * 3:.1g}"
        yield f"{leyden_command('train')} -m {shlex.join([*others, swept])}", "try other learning rates"
    is_found = run.directory.is_relative_to(ROOT / "outputs")  # where `leyden runs` searches by default
    folder = "" if is_found else f" {shlex.quote(str(relative_path(run.directory.parent)))}"
    yield f"{leyden_command('runs')}{folder}", "all runs so far"


def print_result(run: Run, result: Result, *, show_next_steps: bool) -> None:
    """Print the metrics of an ended run, its directory, and, if requested, suggested next commands."""
    rows = []
    if result.status == "fast_dev_run":
        rows.append(("status", "trial only (trainer.fast_dev_run): this is not a finished run"))
    for objective in result.objectives[:1]:
        number = "" if result.best_epoch is None else f"{result.best_epoch}, "
        rows.append(("best epoch", f"{number}by {objective.metric}"))
    for name, value in result.metrics.items():
        rows.append((name, f"{value:,}" if isinstance(value, int) else metric_text(value)))
    rows.append(("epochs", str(result.epochs)))
    if result.seconds is not None:
        rows.append(("time", f"{result.seconds:.1f} s"))
    if result.samples_per_second is not None:
        rows.append(("speed", f"{result.samples_per_second:,.0f} samples/s"))
    print_table([{"name": name, "value": text} for name, text in rows], header=False)
    show(f"run directory: {relative_path(run.directory)}")
    if result.is_tested and (line := count_line(run)):
        show(line)
    if show_next_steps:
        print_next_steps(run, result)


def print_next_steps(run: Run, result: Result) -> None:
    """Print at most three suggested commands for a finished run."""
    # A command has its own line, to be copied; zsh does not accept a trailing comment.
    steps = [f"  {purpose}:\n    {command}" for command, purpose in islice(_next_steps(run, result), 3)]
    if steps and result.status == "finished":
        show("\n".join(["next steps:", *steps]))
