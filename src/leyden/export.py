"""Export a run's network as ONNX, and check the file."""

import importlib.util
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from leyden.command import command
from leyden.config import UserError, choice
from leyden.run import Run

NEEDS = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # of a logit


@command
def main(cfg: DictConfig) -> None:
    """Write a network that takes `pixels`, shape (N, C, H, W), uint8, and gives `logits`, shape (N, K).

    What it gives for all images of the test set is held against the run's network. No label is looked at, so this
    is no look at the test set.
    """
    choice(cfg, "checkpoint", "best", "last")
    if missing := [package for package in NEEDS if importlib.util.find_spec(package) is None]:
        raise UserError(f"{', '.join(missing)}: not installed; pip install -e '.[export]' installs it")
    run = Run(cfg.run)
    checkpoint = run.checkpoint(cfg.checkpoint)
    path = Path(cfg.output)
    if path.suffix != ".onnx" or not path.parent.is_dir():
        raise UserError(f"output={path}: must be the name of a .onnx file in a folder that is there")

    from leyden.heavy import build

    build.quiet()

    import onnxruntime
    import torch

    from leyden.data.normalize import FromPixels

    trained, facts = build.trained_network(run, checkpoint)
    network = FromPixels(trained, facts.normalize).eval()
    datamodule = build.trained_data(run, facts, cfg.data_root, world_size=1)
    datamodule.setup("test")
    pixels_NCHW, _ = datamodule.splits["test"]

    partial = path.with_name(f".{path.name}")
    torch.onnx.export(
        network,
        (pixels_NCHW[:2],),
        partial,
        input_names=["pixels"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        external_data=False,
        dynamo=True,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(partial, providers=["CPUExecutionProvider"])
    difference = 0.0
    num_other = 0
    with torch.inference_mode():
        for part_NCHW in torch.split(pixels_NCHW, datamodule.eval_batch_size):
            expected_NK = network(part_NCHW)
            (found,) = session.run(["logits"], {"pixels": part_NCHW.numpy()})
            found_NK = torch.from_numpy(found)
            difference = max(difference, (found_NK - expected_NK).abs().max().item())
            num_other += int((found_NK.argmax(dim=1) != expected_NK.argmax(dim=1)).sum())
    if num_other or not difference <= TOLERANCE:
        partial.unlink()
        raise UserError(
            f"{path}: not written; on {len(pixels_NCHW)} test images ONNX gives {num_other} other classes, and "
            f"logits that differ by up to {difference:.2g} (allowed: {TOLERANCE})"
        )
    partial.replace(path)
    Console(highlight=False, markup=False, soft_wrap=True).print(
        f"{path}\nholds for {len(pixels_NCHW)} test images: same classes, logits within {difference:.1e}"
    )


if __name__ == "__main__":
    main()
