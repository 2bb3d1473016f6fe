"""A run's row in TensorBoard's HParams table, and the order of a sweep's rows."""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from leyden.base.errors import log_and_continue
from leyden.base.metric_names import BEST, chart_tag
from leyden.base.paths import root
from leyden.base.table import cell_text, short_names
from leyden.config.values import flatten
from leyden.exact.files import make_folder, replacing
from leyden.report.records import Record, read_records, varying_keys
from leyden.run.directory import Run
from leyden.run.identity import identity_values, shown_value, typed_overrides
from leyden.run.process import is_main_process
from leyden.run.result import Result

HPARAMS_FILE = f"{BEST}/hparams.tfevents"  # TensorBoard reads each file with "tfevents" in its name
NAME_HASH_LENGTH = 8  # hexadecimal digits
MAX_NAME_LENGTH = 100  # of a row, without its folder


def write_hparams(run: Run, result: Result) -> None:
    """Write a run's overrides and result in place of an earlier row.

    Called before the result is recorded.

    The columns are the overridden keys, with their resolved values as numbers, booleans or texts,
    then the objective and the other metrics that validation, or else training, has logged in the
    best epoch: the table is for choosing settings. The values have the tags of the curves, in a
    folder of their own: so they are points in the charts of these curves. A row's name begins with
    that of the run directory, as TensorBoard shows some 14 characters, and ends with the folder's
    path below `outputs/`, or elsewhere a hash of it: TensorBoard would merge rows of one name.

    Lightning's `log_hyperparams` would turn booleans into numbers, take the columns of the whole
    table from one arbitrary run, add points to the curves, and miss runs that were killed.

    Nothing is written if the run does not log to TensorBoard.
    """
    if is_main_process() and any(run.directory.glob("*/events.out.tfevents.*")):
        with log_and_continue("the row for TensorBoard's HParams"):
            place = _place_of(run.directory.parent)
            _write_hparams(run, result, f"{run.directory.name} ({place})")


def sort_hparams(directory: Path) -> None:
    """Name the rows of a sweep so that TensorBoard shows the best first.

    It sorts by name; only finished runs have a row.
    """
    with log_and_continue("the order of TensorBoard's HParams"):
        records = read_records(directory)
        keys = varying_keys([record.choices for record in records])
        short = short_names(keys)
        place = _place_of(directory)
        ordered = _best_first(records)
        width = len(str(len(ordered)))
        for number, record in enumerate(ordered, 1):
            run = record.run
            is_row = (run.directory / HPARAMS_FILE).exists()
            if not record.result or not is_row or not run.record or not run.record.is_own:
                continue
            parts = [f"{number:0{width}d}"]
            for key in keys:
                if key in record.choices:
                    text = cell_text(record.choices[key])
                    parts.append(f"{short[key]}={text}")
            name = " ".join(parts)[:MAX_NAME_LENGTH]
            _write_hparams(run, record.result, f"{name} ({place})")


def _best_first(records: Sequence[Record]) -> list[Record]:
    """Return runs sorted by their objective, those without a value last."""
    found = []
    others = []
    is_max = False
    for record in records:
        if record.objective and record.value is not None:
            found.append(record)
            is_max = record.objective.mode == "max"
        else:
            others.append(record)
    found.sort(key=lambda record: record.value or 0.0, reverse=is_max)
    return [*found, *others]


def _place_of(directory: Path) -> str:
    """Return a folder's unique name: its path below `outputs/`, or its name with a hash."""
    outputs = root() / "outputs"
    if directory.is_relative_to(outputs):
        return str(directory.relative_to(outputs)).removeprefix("sweeps/")
    digest = hashlib.sha256(str(directory).encode()).hexdigest()[:NAME_HASH_LENGTH]
    return f"{directory.name} {digest}"


def _write_hparams(run: Run, result: Result, name: str) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    # `api`, which hands it on, needs TensorFlow.
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.summary.writer.record_writer import RecordWriter

    start = hparams_pb(hparams_of(run), trial_id=name, start_time_secs=0)
    status = api_pb2.STATUS_SUCCESS
    if result.status == "failed":
        status = api_pb2.STATUS_FAILURE
    info = plugin_data_pb2.SessionEndInfo(status=status)
    ended = plugin_data_pb2.HParamsPluginData(session_end_info=info)
    content = ended.SerializeToString()
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=content)
    end = SummaryMetadata(plugin_data=plugin)
    values = [*start.value]
    values.append(Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=end))
    for tag, value in _selecting_metrics(result).items():
        values.append(Summary.Value(tag=tag, simple_value=value))
    path = run.directory / HPARAMS_FILE
    make_folder(path.parent)
    step = result.optimizer_steps if result.best_step is None else result.best_step
    now = time.time()
    version = Event(file_version="brain.Event:2", wall_time=now)
    row = Event(step=step, wall_time=now, summary=Summary(value=values))
    with replacing(path) as file:
        records = RecordWriter(file)
        for event in (version, row):
            records.write(event.SerializeToString())


def _selecting_metrics(result: Result) -> dict[str, float]:
    """Return the objective and the other metrics of validation, or else of training, by tag.

    Of two with one tag, the first.
    """
    names = [*(result.stages.get("val") or result.stages.get("train", []))]
    if result.objective:
        names.insert(0, result.objective.metric)
    found: dict[str, float] = {}
    for name in reversed(names):
        if name in result.metrics:
            found[chart_tag(name)] = result.metrics[name]
    return found


def hparams_of(run: Run) -> dict[str, float | bool | str]:
    """Return the resolved values of the first start's overrides that can change bits."""
    flat = dict(flatten(run.config))
    typed = {}
    for key, text in typed_overrides(run.overrides).items():
        typed[key] = flat.get(key, text)
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
