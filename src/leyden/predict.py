"""Ask a trained run: classes of images, numbers of a table, the rest of a text."""

from pathlib import Path

from omegaconf import DictConfig

from leyden.config.errors import UserError
from leyden.run.command import hydra_command
from leyden.run.directory import Run
from leyden.run.process import importing

ASKED = ("images", "table", "prompt")


@hydra_command
def main(cfg: DictConfig) -> None:
    """Print what a trained network says, and write it to a file or draw a picture if asked to."""
    if len([key for key in ASKED if cfg[key] is not None]) != 1:
        raise UserError("images=FILES, table=FILE, prompt=TEXT: give one of them")
    output = _target(cfg, "output", ".csv", ".json")
    picture = _target(cfg, "picture", ".png")
    run = Run(cfg.run)
    checkpoint = run.checkpoint(cfg.checkpoint)
    with importing():
        from leyden.training.predict import predict
    predict(cfg, run, checkpoint, output, picture)


def _target(cfg: DictConfig, key: str, *suffixes: str) -> Path | None:
    """The file that a key names, which can be written; None for none."""
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
