"""Predict with a trained run: classes of images, or targets of a table."""

from pathlib import Path

from omegaconf import DictConfig

from leyden.config.errors import UserError
from leyden.run.command import hydra_command
from leyden.run.directory import Run
from leyden.run.process import importing

INPUTS = ("images", "table")


@hydra_command
def main(cfg: DictConfig) -> None:
    """Print a trained network's predictions; also write them to a file, if requested."""
    if len([key for key in INPUTS if cfg[key] is not None]) != 1:
        raise UserError("images=FILES, table=FILE: give one of them")
    output = _output_path(cfg, "output", ".csv", ".json")
    run = Run(cfg.run, trust=cfg.trust)
    run.checkpoint(cfg.checkpoint)  # refused before PyTorch is imported
    with importing():
        from leyden.training.predict import predict
        from leyden.training.trained import Trained
    predict(cfg, Trained(run, cfg.checkpoint), output)


def _output_path(cfg: DictConfig, key: str, *suffixes: str) -> Path | None:
    """Return the path that a setting names, checked for its suffix and folder; None if it is null."""
    if cfg[key] is None:
        return None
    path = Path(cfg[key])
    if path.suffix not in suffixes:
        raise UserError(f"{key}={path}: must end in {' or '.join(suffixes)}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{key}={path}: there is no folder {path.parent}")
    return path


if __name__ == "__main__":
    main()
