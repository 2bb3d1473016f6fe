"""List the runs below a folder, or show the differences between two runs.

leyden runs [DIR] [where=CONDITION] [sort=KEY] [format=table|json|csv]
leyden runs diff=[A,B] [format=table|json]

Lists all runs in or below a folder (default: outputs/): how far each is, its
value, its overrides, and the keys that where= and sort= name.

  where='val/acc > 0.97 and optimizer.lr < 0.01'
                     filter by metrics, keys of config.yaml, status, age (s),
                     epochs; where='tags~moe and note~wider': ~ is: contains
  sort=val/acc       sort by such a key; sort=-val/acc: largest first
  diff=[outputs/a,outputs/b]
                     show differences in configuration, code and result
"""

from leyden.base.arguments import parse_arguments, parse_choice, parse_list
from leyden.base.errors import UserError, ending, require_project, without_garbage_collection
from leyden.base.paths import root


def main() -> None:
    """Run the command."""
    with ending(), without_garbage_collection():
        defaults = {"where": "", "sort": "age", "format": "table", "diff": ""}
        folders, options = parse_arguments(__doc__, defaults, max_folders=1)
        from leyden.report.difference import show_difference
        from leyden.report.listing import list_runs, print_runs

        if options["diff"]:
            form = parse_choice(options, "format", "table", "json")
            if folders or options["where"] or options["sort"] != "age":
                raise UserError("diff: can't be combined with a folder, where or sort")
            show_difference(*parse_list(options, "diff"), form=form)
            return
        form = parse_choice(options, "format", "table", "json", "csv")
        if not folders:
            require_project()
        folder = folders[0] if folders else root() / "outputs"
        print_runs(*list_runs(folder, where=options["where"], sort=options["sort"]), form)


if __name__ == "__main__":
    main()
