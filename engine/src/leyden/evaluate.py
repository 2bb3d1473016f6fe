"""Evaluate a run, or all runs of a sweep's setting, on the test set.

leyden evaluate run=DIR [checkpoint=best] [accelerator=cpu] [data_root=FOLDER]
    [outputs=FOLDER] [format=table|json]
leyden evaluate runs=DIR [row=1] …

Each test evaluation is recorded in outputs/test_evaluations.csv. With runs=,
all runs of one of a sweep's settings are evaluated, and their mean counts as
one test evaluation.

  row=1              row of that setting in the table of leyden summarize
  checkpoint=best    or last, or a kept one, such as epoch_3
  accelerator=cpu    or gpu, or auto; by default cpu if the run took it, else
                     auto
  data_root=FOLDER   of the data set; by default the folder used in training
  format=json        the metrics, of a row those of each run
  trust=true         use what the record of a run that is not yours names
"""

from pathlib import Path

from leyden.base.arguments import parse_arguments, parse_choice, parse_flag, parse_number
from leyden.base.errors import UserError, ending, require_project
from leyden.base.paths import root
from leyden.base.table import json_text, print_table
from leyden.base.terminal import show
from leyden.run.process import importing

EVALUATE_OPTIONS = dict.fromkeys(("run", "runs", "row", "accelerator", "data_root", "outputs"), "")
EVALUATE_OPTIONS |= {"checkpoint": "best", "format": "table", "trust": "false"}


def main() -> None:
    """Print the test metrics, and record the test evaluation."""
    with ending():
        _, options = parse_arguments(__doc__, EVALUATE_OPTIONS, max_folders=0)
        from leyden.run.directory import Run

        require_project()
        if (not options["run"]) == (not options["runs"]):
            raise UserError(
                "run=DIR, or runs=DIR with row=NUMBER, must be given; --help lists the keys"
            )
        if options["run"] and options["row"]:
            raise UserError(f"row={options['row']}: is for runs=DIR, of whose settings it is one")
        form = parse_choice(options, "format", "table", "json")
        trust = parse_flag(options, "trust")
        checkpoint = options["checkpoint"]
        number = parse_number(options, "row") or 1
        if options["run"]:
            run = Run(options["run"], trust=trust)
            run.check_owner()
            run.checkpoint(checkpoint)  # both are refused before PyTorch is imported
        with importing():
            from leyden.trained.evaluation import evaluate, runs_of_row
            from leyden.trained.loading import Trained
        data_root = options["data_root"] or None
        row = ""
        overlap = 0.0
        if options["run"]:
            runs = [Trained(run, checkpoint, data_root=data_root)]
        else:
            folder = Path(options["runs"])
            runs, row, overlap = runs_of_row(
                folder, number, checkpoint, data_root=data_root, trust=trust
            )
        accelerator = options["accelerator"] or None
        outputs = options["outputs"] or str(root() / "outputs")
        found = evaluate(runs, outputs=outputs, accelerator=accelerator, row=row, overlap=overlap)
        if form == "json":
            content = {"of": found.where, "metrics": found.metrics}
            print(json_text({**content, "test_evaluations": found.number}))
            return
        rows = [{"metric": name, "value": text} for name, text in found.shown.items()]
        print_table(rows, header=False)
        show(f"{found.where}\n{found.message}")


if __name__ == "__main__":
    main()
