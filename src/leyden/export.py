"""Export a run: its network as ONNX, checked; or the whole run as one file, to be handed on."""

import importlib.util
import tempfile
from pathlib import Path

from omegaconf import DictConfig

from leyden.config.checks import choice
from leyden.config.importing import importing
from leyden.config.mistakes import UserError
from leyden.config.schema import EXPORTS
from leyden.config.terminal import Terminal
from leyden.run.bundle import pack
from leyden.run.command import command
from leyden.run.directory import Run

NEEDS = ("onnx", "onnxscript", "onnxruntime")


@command
def main(cfg: DictConfig) -> None:
    """Write a network that takes samples as they are in the data set: the normalisation is inside; or a bundle."""
    choice(cfg, "format", *EXPORTS)
    if cfg.format == "bundle" and cfg.checkpoint != "best":
        raise UserError(f"checkpoint={cfg.checkpoint}: must be best, which is what a bundle holds")
    if cfg.license is not None and not cfg.license.startswith(("https://", "http://")):
        raise UserError(f"license={cfg.license}: must be a URL, as https://creativecommons.org/licenses/by/4.0/")
    run = Run(cfg.run)
    checkpoint = run.checkpoint(cfg.checkpoint)
    path = run.directory / EXPORTS[cfg.format] if cfg.output is None else Path(cfg.output)
    suffix = Path(EXPORTS[cfg.format]).suffix
    if path.suffix != suffix or not path.parent.is_dir() or path.is_dir():
        raise UserError(f"output={path}: must be the name of a {suffix} file in a folder that is there")
    if cfg.format == "onnx":
        said = _export(run, checkpoint, path, cfg.data_root)
    else:
        with tempfile.TemporaryDirectory() as folder:
            onnx: Path | None = Path(folder) / EXPORTS["onnx"]
            try:
                said = _export(run, checkpoint, Path(folder) / EXPORTS["onnx"], cfg.data_root)
            except Exception as error:  # whatever there is in a network that ONNX can't say
                onnx, said = None, f"without {EXPORTS['onnx']}: {' '.join(str(error).split())}"
            pack(run, path, onnx=onnx, license_url=cfg.license)
    Terminal().print(f"{path}\n{said}")


def _export(run: Run, checkpoint: Path, path: Path, data_root: str | None) -> str:
    if missing := [package for package in NEEDS if importlib.util.find_spec(package) is None]:
        raise UserError(f"{', '.join(missing)}: not installed; pip install -e '.[export]' installs it")
    with importing():
        from leyden.training.onnx import export
    num, difference = export(run, checkpoint, path, data_root=data_root)
    return f"the ONNX file holds for {num} test samples, within {difference:.1e}"


if __name__ == "__main__":
    main()
