"""Export of a trained network to ONNX, checked against the network. Shapes: N samples."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from leyden.assembly.trainer import silence_lightning
from leyden.base.errors import UserError
from leyden.data.contract import has_split, num_samples, sizes_of
from leyden.data.transforms import NormalizingNetwork
from leyden.run.files import write_whole, writing
from leyden.trained.loading import Trained

# Of an output in ONNX, relative to the largest one in its batch if that is above 1.
TOLERANCE = 1e-4
BATCH_SIZE = 1000


def export(trained: Trained, path: Path) -> tuple[str, float]:
    """Write a run's network as an ONNX file that takes raw samples and normalises them itself.

    The input is named `pixels` for images, shape (N, C, H, W), uint8, and `inputs` for other
    samples; the output has the task's `output_name`. The file's metadata have the names of the
    classes or targets, as JSON. The outputs of all samples of the test set, or without one of
    another split, are compared with the network's. No target is read, so this is no test
    evaluation.

    Returns:
        The number and the split of the samples compared, in words, and the largest difference of an
        output.

    Raises:
        UserError: The outputs differ, the file can't be written, or the data have no `inputs(split,
            indices)`.
    """
    silence_lightning()
    with trained.seeded():
        task = trained.task()
        data: Any = trained.data
        if not callable(getattr(data, "inputs", None)):
            raise UserError(
                f"{trained.directory}: {type(data).__name__} has no inputs(split, indices), "
                "which the check needs"
            )
        split = next(each for each in ("test", "val", "train") if has_split(data, each))
        if split == "test":
            data.setup("test")
        network = NormalizingNetwork(task.network, trained.facts.normalize).eval()
        content = _onnx(network, data.inputs(split, slice(2)), task, trained)
        num = sizes_of(data).get(split) or num_samples(getattr(data, f"{split}_dataloader")())
        if not num:
            raise UserError(
                f"{trained.directory}: {type(data).__name__} does not provide the number of "
                f"{split} samples"
            )
        difference = _compare(content, network, data, split, num)
        if not difference <= TOLERANCE:
            raise UserError(
                f"{path}: not written; on {num} {split} samples the outputs of ONNX differ by up "
                "to "
                f"{difference:.2g} (allowed: {TOLERANCE})"
            )
        with writing("output", path):
            write_whole(path, content)
        return f"{num} {split} samples", difference


def _onnx(
    network: nn.Module,
    sample: torch.Tensor,
    task: Any,
    trained: Trained,
) -> bytes:
    """Return the content of an ONNX file."""
    exported = torch.onnx.export(
        network,
        (sample,),
        input_names=["pixels" if sample.dtype == torch.uint8 else "inputs"],
        output_names=[task.output_name],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        dynamo=True,
        verbose=False,
    )
    assert exported is not None
    model = exported.model_proto
    for key in ("class_names", "target_names"):
        names = getattr(trained.facts, key)
        if names:
            model.metadata_props.add(key=key, value=json.dumps(names, ensure_ascii=False))
    content: bytes = model.SerializeToString()
    return content


def _compare(
    content: bytes,
    network: nn.Module,
    data: Any,
    split: str,
    num: int,
) -> float:
    """Return the largest difference of an output."""
    import onnxruntime  # an optional package

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    differences = []
    with torch.inference_mode():
        for start in range(0, num, BATCH_SIZE):  # all samples may not fit in memory
            part = data.inputs(split, slice(start, start + BATCH_SIZE))
            expected = network(part)
            found = torch.from_numpy(session.run(None, {name: part.numpy()})[0])
            scale = expected.abs().max().clamp(min=1.0)
            differences.append((found - expected).abs().max() / scale)
    return torch.stack(differences).max().item()
