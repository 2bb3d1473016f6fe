"""The printed result of a run, with suggested next commands; and the differences between two runs."""

import hashlib
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from leyden.config.errors import UserError
from leyden.config.paths import ROOT
from leyden.config.table import Row, json_text, print_table
from leyden.config.terminal import (
    leyden_command,
    program_command,
    python_command,
    quoted_override,
    relative_path,
    show,
)
from leyden.config.values import ABSENT, dict_at, differing, flatten
from leyden.report.held_out import test_set_remarks
from leyden.run.directory import Run, trained_on
from leyden.run.files import Fingerprint, first_difference, read_fingerprints
from leyden.run.identity import key_of
from leyden.run.result import Result
from leyden.verdict.numbers import metric_text


def show_difference(*directories: str, form: str = "table") -> None:
    """Print the differences between two runs, one line per key, or as JSON.

    Raises:
        UserError: There are not exactly two directories, or one is not a run directory.
    """
    if len(directories) != 2:
        raise UserError("diff: must be two run directories, such as diff=[outputs/a,outputs/b]")
    a, b = (Run(directory.strip()) for directory in directories)
    rows, lines = _difference_rows(a, b), _fingerprint_lines(*(read_fingerprints(run.directory) for run in (a, b)))
    if form == "json":
        print(json_text({"differences": rows, "fingerprints": lines}))
        return
    _print_rows(a, b, rows)
    if lines:
        show("\n".join(lines))


def _print_rows(a: Run, b: Run, rows: Sequence[Row]) -> None:
    """Print rows of differences: a part is named once, and values are JSON, which tells texts from numbers."""
    names = [str(relative_path(run.directory)) for run in (a, b)]
    parts = [row["part"] for row in rows]
    shown: list[Row] = [
        {**row, "part": row["part"] if row["part"] != before else ""}
        | {name: json.dumps(row[name], default=str) for name in "ab" if name in row}
        for row, before in zip(rows, ["", *parts], strict=False)
    ]
    names_of = {"part": "", "key": "", "a": names[0], "b": names[1]}
    print_table(shown or [{"part": "nothing differs"}], names=names_of)


def _difference_rows(a: Run, b: Run) -> list[Row]:
    """Return a row for each key in which two runs differ, by part; a gap if one lacks the key."""
    readers: dict[str, Callable[[Run], Mapping[str, Any]]] = {
        "configuration": lambda run: dict(flatten(run.config)),
        "data": trained_on,
        "code": _code,
        "machine": _machine,
        "result": _result,
    }
    parts = {part: (read(a), read(b)) for part, read in readers.items()}
    if not all(parts["data"]):  # they can't be compared if one run did not record them
        del parts["data"]
    return [
        {"part": part, "key": key}
        | {name: value for name, value in zip("ab", pair, strict=True) if value is not ABSENT}
        for part, (of_a, of_b) in parts.items()
        for key, pair in differing(of_a, of_b).items()
    ]


def _code(run: Run) -> dict[str, Any]:
    """Return the commit and uncommitted changes of the project, and package versions, of the last start."""
    start: dict[str, Any] = run.starts[-1] if run.starts else {}
    return {
        **_commit(dict_at(start, "git")),
        "python": start.get("python"),
        **dict_at(start, "versions"),
    }


def _commit(git: dict[str, Any]) -> dict[str, Any]:
    """Return a commit, and its uncommitted changes in short."""
    texts = json.dumps([git.get("diff"), git.get("left_out")])
    changes = f"yes, {hashlib.sha256(texts.encode()).hexdigest()[:12]}" if git.get("dirty") else git.get("dirty")
    return {"commit": git.get("sha"), "changes": changes}


def _machine(run: Run) -> dict[str, Any]:
    """Return the host and machine of the last start, with the values of its variables."""
    start: dict[str, Any] = run.starts[-1] if run.starts else {}
    return {"host": start.get("host"), **dict(flatten(dict_at(start, "machine")))}


def _result(run: Run) -> dict[str, Any]:
    """Return the status and metrics of a run, but those of time."""
    if not (result := run.result):
        return {"status": "not ended"}
    metrics = {name: value for name, value in result.metrics.items() if not name.startswith("time/")}
    return {"status": result.status, **metrics}


def show_equality(there: Run, here: Run) -> bool:
    """Print whether two runs are equal bit for bit, and their other differences.

    Args:
        there: The original run.
        here: The reproduced run.

    Returns:
        Whether all common fingerprints are equal, the reproduced run has as many steps as the original, and their
        results are equal.

    Raises:
        UserError: A directory is not a run directory, or the runs have no fingerprints in common.
    """
    # Loggers change no bit, and `reproduce` takes the project's own.
    rows = [row for row in _difference_rows(there, here) if not row["key"].startswith("logger")]
    a, b = (read_fingerprints(run.directory) for run in (there, here))
    if not (lines := _fingerprint_lines(a, b)):
        raise UserError(
            f"no fingerprints in common: {there.directory} has {len(a)}, {here.directory} has {len(b)}, none of the same step"
        )
    difference, is_as_long = first_difference(a, b), max(b) >= max(a)
    # Only then can the results be expected to be equal.
    are_apart = max(a) == max(b) and any(row["part"] == "result" and {"a", "b"} <= {*row} for row in rows)
    if not is_as_long:
        lines.append(f"{here.directory} ends before the other run, at step {max(b)}")
    if are_apart and not difference:
        lines.append(
            "the results are not equal, though the fingerprints are: the metrics were computed differently"
        )
    show("\n".join(lines))
    if rows:
        _print_rows(there, here, rows)
    return not difference and is_as_long and not are_apart


def _fingerprint_lines(a: Mapping[int, Fingerprint], b: Mapping[int, Fingerprint]) -> list[str]:
    """Return in words whether two runs' fingerprints are equal; empty without common steps."""
    if not (common := sorted({*a} & {*b})):
        return []
    if difference := first_difference(a, b):
        step, parts = difference
        before = [each for each in common if each < step]
        since = f"equal until step {before[-1]}" if before else "there is no earlier fingerprint"
        return [f"diverged: step {step} is the first fingerprint that differs, in {', '.join(parts)}; {since}"]
    over = "the only fingerprint" if len(common) == 1 else f"all {len(common)} fingerprints"
    return [f"equal, bit for bit, over {over} that both have, up to step {common[-1]}"]


def _next_steps(run: Run, result: Result) -> Iterator[tuple[str, str]]:
    """Yield suggested commands for the current working directory, each with its purpose."""
    where = relative_path(run.directory)
    if any(run.directory.glob("*/events.out.tfevents.*")):
        program = program_command("tensorboard") or f"{python_command()} -m tensorboard.main"
        yield f"{program} {shlex.quote(f'--logdir={where}')}", "view it"
    if "debug" in map(key_of, run.overrides):
        return
    if result.can_be_tested and not result.is_tested:
        yield f"{leyden_command('evaluate')} {quoted_override('run', where)}", "evaluate it on the test set"
    is_found = run.directory.is_relative_to(ROOT / "outputs")  # where `leyden runs` searches by default
    folder = "" if is_found else f" {shlex.quote(str(relative_path(run.directory.parent)))}"
    yield f"{leyden_command('runs')}{folder}", "all runs so far"


def print_result(run: Run, result: Result, *, show_next_steps: bool) -> None:
    """Print the metrics of an ended run, its directory, and, if requested, suggested next commands."""
    rows = []
    if result.status == "fast_dev_run":
        rows.append(("status", "trial only (trainer.fast_dev_run): this is not a finished run"))
    if result.objective:
        number = "" if result.best_epoch is None else f"{result.best_epoch}, "
        rows.append(("best epoch", f"{number}by {result.objective.metric}"))
    for name, value in result.metrics.items():
        rows.append((name, f"{value:,}" if isinstance(value, int) else metric_text(value)))
    rows.append(("epochs", str(result.epochs)))
    if result.seconds is not None:
        rows.append(("time", f"{result.seconds:.1f} s"))
    if result.samples_per_second is not None:
        rows.append(("speed", f"{result.samples_per_second:,.0f} samples/s"))
    print_table([{"name": name, "value": text} for name, text in rows], header=False)
    show(f"run directory: {relative_path(run.directory)}")
    if result.is_tested:
        show("\n".join(test_set_remarks([(run.directory, str(run.config.get("name")))])))
    # A command has its own line, to be copied; zsh does not accept a trailing comment.
    steps = [f"  {purpose}:\n    {command}" for command, purpose in _next_steps(run, result)]
    if show_next_steps and steps and result.status == "finished":
        show("\n".join(["next steps:", *steps]))
