"""Export a run's network to ONNX, and check its outputs against the run's.

leyden export run=DIR [output=FILE.onnx] [checkpoint=best] [data_root=FOLDER]

The file's network takes raw samples of the data set: it contains the
normalisation. pip install 'leyden[export]' installs what this needs.

  output=net.onnx    the file; by default model.onnx in the run directory
  checkpoint=best    or last, or a kept one, such as epoch_3
  data_root=FOLDER   of the data set; by default the folder used in training
  trust=true         use what the record of a run that is not yours names
"""

from pathlib import Path

from leyden.base.arguments import parse_arguments, parse_flag
from leyden.base.errors import UserError, ending, require_packages, require_project
from leyden.base.terminal import show
from leyden.run.process import importing

NEEDS = ("onnx", "onnxscript", "onnxruntime")


def main() -> None:
    """Write an ONNX network that takes raw samples of the data set."""
    with ending():
        keys = dict.fromkeys(("run", "output", "data_root"), "")
        defaults = {**keys, "checkpoint": "best", "trust": "false"}
        _, options = parse_arguments(__doc__, defaults, max_folders=0)
        from leyden.run.directory import Run

        require_project()
        if not options["run"]:
            raise UserError("run=DIR must be given; --help lists the keys")
        run = Run(options["run"], trust=parse_flag(options, "trust"))
        path = Path(options["output"] or run.directory / "model.onnx")
        if path.suffix != ".onnx" or not path.parent.is_dir() or path.is_dir():
            raise UserError(
                f"output={path}: must be the name of a .onnx file in an existing folder"
            )
        run.check_owner()
        run.checkpoint(options["checkpoint"])  # both are refused before PyTorch is imported
        require_packages(NEEDS, "export")
        with importing():
            from leyden.trained.export import export
            from leyden.trained.loading import Trained
        trained = Trained(run, options["checkpoint"], data_root=options["data_root"] or None)
        samples, difference = export(trained, path)
        show(f"{path}\nthe ONNX file agrees on {samples}, within {difference:.1e}")


if __name__ == "__main__":
    main()
