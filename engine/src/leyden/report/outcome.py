"""The outcome of a run: its printed result, its row in TensorBoard's HParams table, and how it differs from another run."""

import hashlib
import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from leyden.config.errors import UserError, log_and_continue
from leyden.config.paths import root
from leyden.config.table import Row, json_text, print_table
from leyden.config.terminal import (
    leyden_command,
    program_command,
    python_command,
    relative_path,
    show,
)
from leyden.config.values import ABSENT, dict_at, differing, flatten
from leyden.exact.files import make_folder, replacing
from leyden.report.records import test_set_remarks
from leyden.run.directory import Run, trained_on
from leyden.run.files import Fingerprint, first_difference, read_fingerprints
from leyden.run.identity import identity_values, key_of, shown_value, typed_overrides
from leyden.run.process import is_main_process
from leyden.run.result import BEST, Result, chart_tag
from leyden.verdict.numbers import metric_text


def show_difference(*directories: str, form: str = "table") -> None:
    """Print the differences between two runs, one line per key, or as JSON.

    Raises:
        UserError: There are not exactly two directories, or one is not a run directory.
    """
    if len(directories) != 2:
        raise UserError("diff: must be two run directories, such as diff=[outputs/a,outputs/b]")
    a, b = (Run(directory) for directory in directories)
    rows, lines = (
        _difference_rows(a, b),
        _fingerprint_lines(*(read_fingerprints(run.directory) for run in (a, b))),
    )
    if form == "json":
        print(json_text({"differences": rows, "fingerprints": lines}))
        return
    _print_rows(a, b, rows)
    if lines:
        show("\n".join(lines))


def _print_rows(a: Run, b: Run, rows: Sequence[Row]) -> None:
    """Print rows of differences, with values as JSON, which tells texts from numbers."""
    shown = [
        {**row, **{name: json.dumps(row[name], default=str) for name in "ab" if name in row}}
        for row in rows
    ]
    names = {
        name: str(relative_path(run.directory)) for name, run in zip("ab", (a, b), strict=True)
    }
    print_table(shown or [{"part": "nothing differs"}], names={"part": "", "key": "", **names})


def _difference_rows(a: Run, b: Run) -> list[Row]:
    """Return a row for each key in which two runs differ, by part; a gap if one lacks the key."""
    both = _facts(a), _facts(b)
    # Data can't be compared if one run did not record them.
    parts = [part for part in both[0] if part != "data" or all(facts["data"] for facts in both)]
    return [
        {"part": part, "key": key}
        | {name: value for name, value in zip("ab", pair, strict=True) if value is not ABSENT}
        for part in parts
        for key, pair in differing(both[0][part], both[1][part]).items()
    ]


def _facts(run: Run) -> dict[str, Mapping[str, Any]]:
    """Return what is compared of a run, by part: of its last start, and its status and metrics, but those of time."""
    start: dict[str, Any] = run.starts[-1] if run.starts else {}
    git, result = dict_at(start, "git"), run.result
    texts = json.dumps([git.get("diff"), git.get("left_out")])
    changes = (
        f"yes, {hashlib.sha256(texts.encode()).hexdigest()[:12]}"
        if git.get("dirty")
        else git.get("dirty")
    )
    code = {"commit": git.get("sha"), "changes": changes, "python": start.get("python")}
    metrics = result.metrics.items() if result else ()
    return {
        "configuration": dict(flatten(run.config)),
        "data": trained_on(run),
        "code": {**code, **dict_at(start, "versions")},
        "machine": {"host": start.get("host"), **dict(flatten(dict_at(start, "machine")))},
        "result": {"status": result.status if result else "not ended"}
        | {name: value for name, value in metrics if not name.startswith("time/")},
    }


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
    are_apart = max(a) == max(b) and any(
        row["part"] == "result" and {"a", "b"} <= {*row} for row in rows
    )
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
        return [
            f"diverged: step {step} is the first fingerprint that differs, in {', '.join(parts)}; {since}"
        ]
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
        yield (
            f"{leyden_command('evaluate')} {shlex.quote(f'run={where}')}",
            "evaluate it on the test set",
        )
    is_found = run.directory.is_relative_to(
        root() / "outputs"
    )  # where `leyden runs` searches by default
    folder = "" if is_found else f" {shlex.quote(str(relative_path(run.directory.parent)))}"
    yield f"{leyden_command('runs')}{folder}", "all runs so far"


def print_result(run: Run, result: Result, *, show_next_steps: bool) -> None:
    """Print the metrics of an ended run, its directory, and, if requested, suggested next commands."""
    rows = []
    if result.status == "fast_dev_run":
        rows.append(("status", "trial only (trainer.fast_dev_run): this is not a finished run"))
    if result.objective and result.epochs != 1:
        number = "" if result.best_epoch is None else f"{result.best_epoch}, "
        rows.append(("best epoch", f"{number}by {result.objective.metric}"))
    for name, value in result.metrics.items():
        text = f"{value:,}" if isinstance(value, int) else metric_text(value)
        num_trained = result.metrics.get("num_trained_parameters")
        if name == "num_parameters" and num_trained is not None:
            text = f"{text} ({num_trained:,} trained)"
        if name != "num_trained_parameters":
            rows.append((name.removeprefix("num_"), text))
    rows.append(("epochs", str(result.epochs)))
    if result.seconds is not None:
        rows.append(("time", f"{result.seconds:.1f} s"))
    if result.samples_per_second is not None:
        rows.append(("speed", f"{result.samples_per_second:,.0f} samples/s"))
    print_table([{"name": name, "value": text} for name, text in rows], header=False)
    steps = ""
    if show_next_steps and result.status == "finished":
        # A command has its own line, to be copied; zsh does not accept a trailing comment.
        for command, purpose in _next_steps(run, result):
            steps += f"\n  {purpose}:\n    {command}"
    where = str(relative_path(run.directory))
    if where not in steps:
        show(f"run directory: {where}")
    if result.is_tested:
        show("\n".join(test_set_remarks([run])))
        show(
            f"later runs of {run.config.get('name')} are evaluated on the test set only by test=true"
        )
    if steps:
        show(f"next steps:{steps}")


HPARAMS_FILE = f"{BEST}/hparams.tfevents"  # TensorBoard reads each file with "tfevents" in its name
HASH_LENGTH = 8  # hexadecimal digits


def write_hparams(run: Run, result: Result) -> None:
    """Write a run's overrides and result in place of an earlier row; called before the result is recorded.

    The columns are the overridden keys, with their resolved values as numbers, booleans or texts,
    then the objective and the other metrics that validation, or else training, has logged in the best epoch: the
    table is for choosing settings. The values have the tags of the curves, in a folder of their own: so they are points in the charts
    of these curves. A row's name is that of the run directory, with a hash of its path: TensorBoard would merge rows of
    one name.

    Lightning's `log_hyperparams` would turn booleans into numbers, take the columns of the whole table from one
    arbitrary run, add points to the curves, and miss runs that were killed.

    Nothing is written if the run does not log to TensorBoard.
    """
    if is_main_process() and any(run.directory.glob("*/events.out.tfevents.*")):
        with log_and_continue("the row for TensorBoard's HParams"):
            _write_hparams(run, result)


def _write_hparams(run: Run, result: Result) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
    from tensorboard.plugins.hparams.summary_v2 import (
        hparams_pb,
    )  # `api`, which hands it on, needs TensorFlow
    from tensorboard.summary.writer.record_writer import RecordWriter

    digest = hashlib.sha256(str(run.directory).encode()).hexdigest()[:HASH_LENGTH]
    name = f"{run.directory.name} {digest}"
    start = hparams_pb(hparams_of(run), trial_id=name, start_time_secs=0)
    status = api_pb2.STATUS_FAILURE if result.status == "failed" else api_pb2.STATUS_SUCCESS
    ended = plugin_data_pb2.HParamsPluginData(
        session_end_info=plugin_data_pb2.SessionEndInfo(status=status)
    )
    plugin = SummaryMetadata.PluginData(
        plugin_name=metadata.PLUGIN_NAME, content=ended.SerializeToString()
    )
    values = [
        *start.value,
        Summary.Value(
            tag=metadata.SESSION_END_INFO_TAG, metadata=SummaryMetadata(plugin_data=plugin)
        ),
        *(
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in _selecting_metrics(result).items()
        ),
    ]
    path = run.directory / HPARAMS_FILE
    make_folder(path.parent)
    step = result.optimizer_steps if result.best_step is None else result.best_step
    now = time.time()
    with replacing(path) as file:
        records = RecordWriter(file)
        records.write(Event(file_version="brain.Event:2", wall_time=now).SerializeToString())
        records.write(
            Event(step=step, wall_time=now, summary=Summary(value=values)).SerializeToString()
        )


def _selecting_metrics(result: Result) -> dict[str, float]:
    """Return the objective and the other metrics of validation, or else of training, by tag; of two with one tag, the first."""
    aims = [result.objective.metric] if result.objective else []
    names = [*aims, *(result.stages.get("val") or result.stages.get("train", []))]
    return {
        chart_tag(name): result.metrics[name] for name in reversed(names) if name in result.metrics
    }


def hparams_of(run: Run) -> dict[str, float | bool | str]:
    """Return the resolved values of the first start's overrides that can change weights or metrics."""
    flat = dict(flatten(run.config))
    typed = {key: flat.get(key, text) for key, text in typed_overrides(run.overrides).items()}
    matter = identity_values({**flat, **typed})
    found: dict[str, float | bool | str] = {}
    for key, value in typed.items():
        if key not in matter:
            continue
        shown = shown_value(key, value)
        if shown is None:
            shown = "null"
        found[key] = shown if isinstance(shown, bool | int | float) else str(shown)
    return found
