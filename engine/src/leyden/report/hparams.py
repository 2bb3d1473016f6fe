"""A run as a row of TensorBoard's HParams table: its overrides and its result."""

import hashlib
import time

from leyden.config.errors import log_and_continue
from leyden.config.values import flatten
from leyden.exact.files import replacing
from leyden.run.directory import Run
from leyden.run.identity import identity_values, typed_overrides
from leyden.run.process import is_main_process
from leyden.run.result import BEST, Result, chart_tag

HPARAMS_FILE = f"{BEST}/hparams.tfevents"  # TensorBoard reads each file with "tfevents" in its name
NAME_LENGTH = 8  # hexadecimal digits


def write_hparams(run: Run, result: Result) -> None:
    """Write a run's overrides and result in place of an earlier row; called before the result is recorded.

    The columns are the overridden keys, with their resolved values as numbers, booleans or texts,
    then the objective and the other metrics that validation, or else training, has logged in the best epoch: the
    table is for choosing settings. The values have the tags of the curves, in a folder of their own: so they are points in the charts
    of these curves. A row's name is a hash of the run directory: TensorBoard cuts long names, and would merge rows of
    one name.

    Lightning's `log_hyperparams` would turn booleans into numbers, take the columns of the whole table from one
    arbitrary run, add points to the curves, and miss runs that were killed.

    Nothing is written if the run does not log to TensorBoard.
    """
    if is_main_process() and any(run.directory.glob("*/events.out.tfevents.*")):
        with log_and_continue("the row for TensorBoard's HParams"):
            _write(run, result)


def _write(run: Run, result: Result) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb  # `api`, which hands it on, needs TensorFlow
    from tensorboard.summary.writer.record_writer import RecordWriter

    name = hashlib.sha256(str(run.directory).encode()).hexdigest()[:NAME_LENGTH]
    start = hparams_pb(hparams_of(run), trial_id=name, start_time_secs=0)
    status = api_pb2.STATUS_FAILURE if result.status == "failed" else api_pb2.STATUS_SUCCESS
    ended = plugin_data_pb2.HParamsPluginData(session_end_info=plugin_data_pb2.SessionEndInfo(status=status))
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=ended.SerializeToString())
    values = [
        *start.value,
        Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=SummaryMetadata(plugin_data=plugin)),
        *(Summary.Value(tag=tag, simple_value=value) for tag, value in _selecting_metrics(result).items()),
    ]
    path = run.directory / HPARAMS_FILE
    path.parent.mkdir(exist_ok=True)  # no `parents`: a deleted run directory is not recreated
    step = result.optimizer_steps if result.best_step is None else result.best_step
    now = time.time()
    with replacing(path) as file:
        records = RecordWriter(file)
        records.write(Event(file_version="brain.Event:2", wall_time=now).SerializeToString())
        records.write(Event(step=step, wall_time=now, summary=Summary(value=values)).SerializeToString())


def _selecting_metrics(result: Result) -> dict[str, float]:
    """Return the objective and the other metrics of validation, or else of training, by tag; of two with one tag, the first."""
    aims = [result.objective.metric] if result.objective else []
    names = [*aims, *(result.stages.get("val") or result.stages.get("train", []))]
    return {chart_tag(name): result.metrics[name] for name in reversed(names) if name in result.metrics}


def hparams_of(run: Run) -> dict[str, float | bool | str]:
    """Return the resolved values of the first start's overrides that can change weights or metrics."""
    flat = dict(flatten(run.config))
    typed = {key: flat.get(key, text) for key, text in typed_overrides(run.overrides).items()}
    matter = identity_values({**flat, **typed})
    return {
        key: value if isinstance(value, bool | int | float) else "null" if value is None else str(value)
        for key, value in typed.items()
        if key in matter
    }
