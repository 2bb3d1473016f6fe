"""Export of a trained network to ONNX."""

import json
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import nn

from leyden import assembly
from leyden.config.errors import UserError
from leyden.data.contract import has_split, num_samples, sizes_of
from leyden.data.transforms import NormalizingNetwork
from leyden.run.files import write_whole, writing
from leyden.training.trained import Trained

TOLERANCE = 1e-4  # of an output, relative to the largest one in its batch if that is above 1
BATCH_SIZE = 1000


def export(trained: Trained, path: Path) -> tuple[str, float]:
    """Write a run's network as an ONNX file that takes raw samples, shape (N, ...), and normalises them itself.

    The input is named `pixels` for images, shape (N, C, H, W), uint8, and `inputs` for other samples; the output is
    named `logits` for a classification, shape (N, K), and `outputs` for other tasks. The file's metadata have the names
    of the classes or targets, as JSON. The ONNX outputs of all samples of the test set, or without one of another split, are compared with the network's. No target is read, so this is
    no test evaluation.

    Returns:
        The number and the split of the samples compared, in words, and the largest difference of an output.

    Raises:
        UserError: The outputs differ, the file can't be written, or the data have no `inputs(split, indices)`.
    """
    assembly.silence_lightning()
    with trained.seeded():
        task, facts = trained.task(), trained.facts
        data: Any = trained.data
        network = NormalizingNetwork(task.network, facts.normalize).eval()
        if not callable(getattr(data, "inputs", None)):
            raise UserError(
                f"{trained.run.directory}: {type(data).__name__} has no inputs(split, indices), which the check needs"
            )
        split = "test" if has_split(data, "test") else "val" if has_split(data, "val") else "train"
        if split == "test":
            data.setup("test")
        has_classes, sample = task.kind == "classes", data.inputs(split, slice(2))
        names = ("pixels" if sample.dtype == torch.uint8 else "inputs", "logits" if has_classes else "outputs")
        exported = torch.onnx.export(
            network,
            (sample,),
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            dynamo=True,
            verbose=False,
        )
        assert exported is not None
        model = exported.model_proto
        lists = {"class_names": facts.class_names, "target_names": facts.target_names}
        for key, names_of in lists.items():
            if names_of:
                model.metadata_props.add(key=key, value=json.dumps(names_of, ensure_ascii=False))
        content = model.SerializeToString()
        num = sizes_of(data).get(split) or num_samples(getattr(data, f"{split}_dataloader")())
        if not num:
            raise UserError(
                f"{trained.run.directory}: {type(data).__name__} does not provide the number of {split} samples"
            )
        num_other, difference = _compare(content, network, data, split, num)
        if (num_other and has_classes) or not difference <= TOLERANCE:
            raise UserError(
                f"{path}: not written; on {num} {split} samples ONNX predicts {num_other} different classes, and "
                f"numbers that differ by up to {difference:.2g} (allowed: {TOLERANCE})"
            )
        with writing("output", path):
            write_whole(path, content)
        return f"{num} {split} samples", difference


def _compare(content: bytes, network: nn.Module, data: Any, split: str, num: int) -> tuple[int, float]:
    """Return the number of outputs with another argmax, and the largest difference of an output."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    num_other, difference = 0, 0.0
    with torch.inference_mode():
        for start in range(0, num, BATCH_SIZE):  # all samples may not fit in memory
            part = data.inputs(split, slice(start, start + BATCH_SIZE))
            expected = network(part)
            found = torch.from_numpy(session.run(None, {name: part.numpy()})[0])
            scale = max(1.0, expected.abs().max().item())
            difference = max(difference, (found - expected).abs().max().item() / scale)
            num_other += int((found.argmax(dim=-1) != expected.argmax(dim=-1)).sum())
    return num_other, difference
