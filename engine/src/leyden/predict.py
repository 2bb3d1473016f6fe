"""Predict with a trained run: classes of images, or targets of a table.

leyden predict run=DIR images=FILES [invert=true] [output=FILE]
    [checkpoint=best] [accelerator=cpu]
leyden predict run=DIR table=FILE.csv …

Prints classes or reconstruction errors of images, or predictions for the rows
of a table.

  images=digits/     an image file, a folder of them, or a list: [a.png,b.jpg]
  table=new.csv      a file with the columns that the run was trained on
  invert=true        for dark digits on a light background, if the run was
                     trained on MNIST
  output=all.csv     a .csv or .json file to write
  checkpoint=best    or last, or a kept one, such as epoch_3
  accelerator=cpu    or gpu, or auto; by default cpu if the run took it, else
                     auto
  trust=true         use what the record of a run that is not yours names
"""

from pathlib import Path

from leyden.base.arguments import parse_arguments, parse_flag, parse_list
from leyden.base.errors import UserError, ending, require_project
from leyden.run.process import importing


def main() -> None:
    """Print a trained network's predictions; also write them to a file, if requested."""
    with ending():
        keys = dict.fromkeys(("run", "images", "table", "output", "accelerator"), "")
        defaults = {**keys, "invert": "false", "checkpoint": "best", "trust": "false"}
        _, options = parse_arguments(__doc__, defaults, max_folders=0)
        from leyden.run.directory import Run

        require_project()
        if not options["run"] or (not options["images"]) == (not options["table"]):
            raise UserError(
                "run=DIR with images=FILES, or with table=FILE: must be given; --help lists the "
                "keys"
            )
        invert = parse_flag(options, "invert")
        trust = parse_flag(options, "trust")
        if invert and options["table"]:
            raise UserError("invert=true: is for images")
        output = _output_path(options["output"])
        if output and options["table"] and output.resolve() == Path(options["table"]).resolve():
            raise UserError(f"output={output}: is the table that is read; choose another file")
        run = Run(options["run"], trust=trust)
        run.check_owner()
        run.checkpoint(options["checkpoint"])  # both are refused before PyTorch is imported
        with importing():
            from leyden.trained.loading import Trained
            from leyden.trained.predict import predict
        images = [options["images"]] if options["images"] else []
        if options["images"].startswith("["):  # a name without brackets may have a comma
            images = parse_list(options, "images")
        trained = Trained(run, options["checkpoint"])
        accelerator = options["accelerator"] or None
        table = options["table"]
        predict(trained, images, table, invert=invert, accelerator=accelerator, output=output)


def _output_path(text: str) -> Path | None:
    """Return the path of a file to write, checked for its suffix and folder; None without one."""
    if not text:
        return None
    path = Path(text)
    if path.suffix not in (".csv", ".json"):
        raise UserError(f"output={path}: must end in .csv or .json")
    if not path.absolute().parent.is_dir():
        raise UserError(f"output={path}: there is no folder {path.parent}")
    return path


if __name__ == "__main__":
    main()
