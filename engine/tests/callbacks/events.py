"""What TensorBoard finds in a run directory."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from leyden.run.result import BEST, STAGES


def read(run, folder="train"):
    """All of one folder, of which TensorBoard makes a run of that name."""
    sizes = dict.fromkeys(("scalars", "images", "tensors", "histograms"), 0)
    return EventAccumulator(str(run.directory / folder), size_guidance=sizes).Reload()


def folders(run):
    return [stage for stage in STAGES if (run.directory / stage).is_dir()]


def metric(stage, tag):
    """The metric of a task that is in a chart of all stages."""
    group, _, name = tag.partition("/")
    return {"charts": f"{stage}/{name}", "steps": f"{stage}/{name}_step"}.get(group, tag)


def scalars(run):
    """Its curves by the metric's name, a list of (step, value)."""
    found = {}
    for stage in folders(run):
        events = read(run, stage)
        for tag in events.Tags()["scalars"]:
            name = metric(stage, tag)
            assert name not in found
            found[name] = [(event.step, event.value) for event in events.Scalars(tag)]
    return found


def best(run):
    events = read(run, BEST)
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def images(run):
    """Its images by tag, a list of (step, width, height)."""
    return {
        tag: [(event.step, event.width, event.height) for event in events.Images(tag)]
        for events in (read(run, stage) for stage in folders(run))
        for tag in events.Tags()["images"]
    }


def texts(run):
    """Its texts by tag, those of all steps."""
    found, end = read(run), "/text_summary"
    return {
        tag.removesuffix(end): [each.tensor_proto.string_val[0].decode() for each in found.Tensors(tag)]
        for tag in found.Tags()["tensors"]
        if tag.endswith(end)
    }


def hparams(run):
    """What was chosen, each value in its type, and the state of the session."""
    content = {tag: value.plugin_data.content for tag, value in read(run, BEST).summary_metadata.items()}
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    end = metadata.parse_session_end_info_plugin_data(content[metadata.SESSION_END_INFO_TAG])
    assert metadata.EXPERIMENT_TAG not in content  # one run's would hide what others have chosen
    return {key: getattr(value, value.WhichOneof("kind")) for key, value in start.hparams.items()}, end.status
