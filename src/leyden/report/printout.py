"""What a person sees of a result."""

from rich.table import Table

from leyden.config.terminal import Terminal, from_here
from leyden.report.next_steps import next_steps
from leyden.run.directory import Run
from leyden.run.result import Result


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
    console.print(f"run directory: {from_here(run.directory)}")
    if further:
        print_next_steps(run, result)


def print_next_steps(run: Run, result: Result) -> None:
    """Print what one would do next with a run that has ended well."""
    if steps := next_steps(run, result):
        console = Terminal()
        console.print("what next:")
        for command, purpose in steps:
            console.print(f"  {purpose}:\n    {command}")  # to be pasted; to zsh a comment would be words
