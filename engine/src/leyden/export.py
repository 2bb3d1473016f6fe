"""Export a run's network to ONNX, and check its outputs against the run's."""

import importlib.util
from pathlib import Path

from omegaconf import DictConfig

from leyden.config.errors import UserError
from leyden.config.terminal import show
from leyden.run.command import hydra_command
from leyden.run.directory import Run
from leyden.run.process import importing

NEEDS = ("onnx", "onnxscript", "onnxruntime")


@hydra_command
def main(cfg: DictConfig) -> None:
    """Write an ONNX network that takes raw samples of the dataset: it contains the normalisation."""
    run = Run(cfg.run, trust=cfg.trust)
    path = run.directory / "model.onnx" if cfg.output is None else Path(cfg.output)
    if path.suffix != ".onnx" or not path.parent.is_dir() or path.is_dir():
        raise UserError(f"output={path}: must be the name of a .onnx file in an existing folder")
    run.checkpoint(cfg.checkpoint)  # refused before PyTorch is imported
    if missing := [package for package in NEEDS if importlib.util.find_spec(package) is None]:
        raise UserError(f"{', '.join(missing)}: not installed; pip install 'leyden[export]' installs it")
    with importing():
        from leyden.training.onnx import export
        from leyden.training.trained import Trained
    samples, difference = export(Trained(run, cfg.checkpoint, data_root=cfg.data_root), path)
    show(f"{path}\nthe ONNX file agrees on {samples}, within {difference:.1e}")


if __name__ == "__main__":
    main()
