"""What TensorBoard finds in a run directory."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from leyden.base.metric_names import BEST, STAGES


def read(run, folder="train"):
    """All of one folder, of which TensorBoard makes a run of that name."""
    sizes = dict.fromkeys(("scalars", "images", "tensors", "histograms"), 0)
    return EventAccumulator(str(run.directory / folder), size_guidance=sizes).Reload()


def by_stage(run):
    return {stage: read(run, stage) for stage in STAGES if (run.directory / stage).is_dir()}


def metric(stage, tag):
    """The metric of a task that is in a chart of all stages."""
    group, _, name = tag.partition("/")
    return {"charts": f"{stage}/{name}", "steps": f"{stage}/{name}_step"}.get(group, tag)


def scalars(run):
    """Its curves by the metric's name, a list of (step, value)."""
    found = {}
    for stage, events in by_stage(run).items():
        for tag, points in _points(events).items():
            name = metric(stage, tag)
            assert name not in found
            found[name] = points
    return found


def _points(events):
    found = {}
    for tag in events.Tags()["scalars"]:
        found[tag] = [(event.step, event.value) for event in events.Scalars(tag)]
    return found


def best(run):
    return _points(read(run, BEST))


def images(run):
    found = {}
    for events in by_stage(run).values():
        for tag in events.Tags()["images"]:
            found[tag] = [event.step for event in events.Images(tag)]
    return found


def row_name(run):
    """The name of its row, by which TensorBoard sorts."""
    return _session(run).group_name


def _session(run):
    tag = read(run, BEST).summary_metadata[metadata.SESSION_START_INFO_TAG]
    return metadata.parse_session_start_info_plugin_data(tag.plugin_data.content)


def hparams(run):
    """What was chosen, each value in its type, and the state of the session."""
    tags = read(run, BEST).summary_metadata
    assert metadata.EXPERIMENT_TAG not in tags  # one run's would hide what others have chosen
    content = tags[metadata.SESSION_END_INFO_TAG].plugin_data.content
    end = metadata.parse_session_end_info_plugin_data(content)
    chosen = {}
    for key, value in _session(run).hparams.items():
        chosen[key] = getattr(value, value.WhichOneof("kind"))
    return chosen, end.status
