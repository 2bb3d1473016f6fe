"""What TensorBoard finds in a run directory."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata


def read(run):
    """All of it."""
    sizes = dict.fromkeys(("scalars", "images", "tensors", "histograms"), 0)
    return EventAccumulator(str(run.directory), size_guidance=sizes).Reload()


def scalars(run):
    """Its curves by tag, a list of (step, value)."""
    found = read(run)
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def images(run):
    """Its images by tag, a list of (step, width, height)."""
    found = read(run)
    return {
        tag: [(event.step, event.width, event.height) for event in found.Images(tag)]
        for tag in found.Tags()["images"]
    }


def texts(run):
    """Its texts by tag, those of all steps."""
    found = read(run)
    return {
        tag.removesuffix("/text_summary"): [
            event.tensor_proto.string_val[0].decode() for event in found.Tensors(tag)
        ]
        for tag in found.Tags()["tensors"]
        if tag.endswith("/text_summary")
    }


def hparams(run):
    """What was chosen, each value in its type, and the state of the session."""
    found = read(run)
    content = {tag: value.plugin_data.content for tag, value in found.summary_metadata.items()}
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    end = metadata.parse_session_end_info_plugin_data(content[metadata.SESSION_END_INFO_TAG])
    assert metadata.EXPERIMENT_TAG not in content  # one run's would hide what others have chosen
    return {key: getattr(value, value.WhichOneof("kind")) for key, value in start.hparams.items()}, end.status
