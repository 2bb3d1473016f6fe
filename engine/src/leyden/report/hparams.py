"""A run as a row of TensorBoard's HParams table: its overrides and its result."""

import time
from typing import Any

from leyden.config.errors import log_and_continue
from leyden.config.values import flatten
from leyden.run.directory import Run
from leyden.run.files import replacing
from leyden.run.identity import typed_overrides
from leyden.run.process import is_main_process
from leyden.run.result import Result

# TensorBoard reads files with "tfevents" in their name in alphabetical order: this one after events.out.tfevents...
HPARAMS_FILE = "hparams.tfevents"


def write_hparams(run: Run, result: Result) -> None:
    """Write a run's overrides and result in place of an earlier row; called before `result.json` is written.

    The columns are the overridden keys, with their resolved values as numbers, booleans or texts, then `status`,
    then each metric of the result, such as `best/val/acc`, without those of the test set: the table is for choosing
    settings. Lightning's `log_hyperparams` would turn booleans into numbers, take the columns of the whole table from
    one arbitrary run, add points to the curves, and miss runs that were killed.

    Nothing is written if the run does not log to TensorBoard.
    """
    logged = any(
        "tensorboard" in str(node.get("_target_")) for node in (run.config.get("logger") or {}).values() if node
    )
    if logged and is_main_process():
        with log_and_continue("the row for TensorBoard's HParams"):
            _write(run, result)


def _write(run: Run, result: Result) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter

    start = plugin_data_pb2.SessionStartInfo()
    for key, value in {**hparams_of(run), "status": result.status}.items():
        kind = "bool" if isinstance(value, bool) else "number" if isinstance(value, int | float) else "string"
        setattr(start.hparams[key], f"{kind}_value", value)
    failed = result.status == "failed"
    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS)
    values = [
        _plugin_value(metadata.SESSION_START_INFO_TAG, session_start_info=start),
        _plugin_value(metadata.SESSION_END_INFO_TAG, session_end_info=end),
        *(
            Summary.Value(tag=f"best/{name}", simple_value=value)
            for name, value in result.metrics.items()
            if name not in result.test_metrics
        ),
    ]
    path = run.directory / HPARAMS_FILE
    step, now = result.optimizer_steps, time.time()
    with replacing(path) as file:
        records = RecordWriter(file)
        records.write(Event(file_version="brain.Event:2", wall_time=now).SerializeToString())
        records.write(Event(step=step, wall_time=now, summary=Summary(value=values)).SerializeToString())


def hparams_of(run: Run) -> dict[str, float | bool | str]:
    """Return the resolved values of the first start's overrides, without launch options."""
    flat = dict(flatten(run.config))
    typed = {key: flat.get(key, text) for key, text in typed_overrides(run.overrides).items()}
    return {
        key: value if isinstance(value, bool | int | float) else "null" if value is None else str(value)
        for key, value in typed.items()
    }


def _plugin_value(tag: str, **content: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    data = plugin_data_pb2.HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION, **content)
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=data.SerializeToString())
    return Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))
