"""The outcome of a run, as it is printed at its end."""

import shlex
from collections.abc import Iterator

from leyden.base.paths import root
from leyden.base.table import print_table
from leyden.base.terminal import (
    leyden_command,
    program_command,
    python_command,
    relative_path,
    show,
)
from leyden.report.ranking import tested_seeds
from leyden.report.records import test_set_remarks
from leyden.run.directory import Run
from leyden.run.identity import key_of
from leyden.run.result import Result
from leyden.verdict.numbers import metric_text


def print_result(run: Run, result: Result, *, show_next_steps: bool) -> None:
    """Print the metrics of an ended run, its directory, and on request the next commands."""
    rows = [{"name": name, "value": text} for name, text in _result_rows(result)]
    print_table(rows, header=False)
    steps = ""
    if show_next_steps and result.status == "finished":
        # A command has its own line, to be copied; zsh does not accept a trailing comment.
        for command, purpose in _next_steps(run, result):
            steps += f"\n  {purpose}:\n    {command}"
    where = str(relative_path(run.directory))
    if where not in steps:
        show(f"run directory: {where}")
    if result.is_tested:
        remarks = [*test_set_remarks([run]), *tested_seeds(run)]
        show("\n".join(remarks))
        show(
            f"later runs of {run.config.get('name')} are evaluated on the test set only by "
            "test=true"
        )
    if steps:
        show(f"next steps:{steps}")


def _result_rows(result: Result) -> Iterator[tuple[str, str]]:
    """Yield the names and texts of what is printed of a result."""
    if result.status == "fast_dev_run":
        yield "status", "trial only (trainer.fast_dev_run): this is not a finished run"
    if result.objective and result.epochs != 1:
        number = ""
        if result.best_epoch is not None:
            number = f"{result.best_epoch}, "
        yield "best epoch", f"{number}by {result.objective.metric}"
    num_trained = result.metrics.get("num_trained_parameters")
    for name, value in result.metrics.items():
        text = f"{value:,}" if isinstance(value, int) else metric_text(value)
        if name == "num_parameters" and num_trained is not None:
            text += f" ({num_trained:,} trained)"
        if name != "num_trained_parameters":
            yield name.removeprefix("num_"), text
    yield "epochs", str(result.epochs)
    if result.seconds is not None:
        yield "time", f"{result.seconds:.1f} s"
    if result.samples_per_second is not None:
        yield "speed", f"{result.samples_per_second:,.0f} samples/s"


def _next_steps(run: Run, result: Result) -> Iterator[tuple[str, str]]:
    """Yield suggested commands for the current working directory, each with its purpose."""
    where = relative_path(run.directory)
    if any(run.directory.glob("*/events.out.tfevents.*")):
        program = program_command("tensorboard") or f"{python_command()} -m tensorboard.main"
        folder = shlex.quote(f"--logdir={where}")
        yield f"{program} {folder}", "view it"
    if "debug" in map(key_of, run.overrides):
        return
    if result.can_be_tested and not result.is_tested:
        chosen = shlex.quote(f"run={where}")
        yield f"{leyden_command('evaluate')} {chosen}", "evaluate it on the test set"
    command = leyden_command("runs")
    if not run.directory.is_relative_to(root() / "outputs"):  # where it searches by default
        parent = relative_path(run.directory.parent)
        command += f" {shlex.quote(str(parent))}"
    yield command, "all runs so far"
