"""Say what a run is for: change its note and tags, which `leyden runs` shows.

leyden note run=DIR [note=TEXT] [tags=[WORD,...]]

Changes the note or the tags of a run, as `leyden train ... note="wider layers"
tags=[moe]` gives them. note=null and tags=null remove them. Find runs by them
with leyden runs where='tags~moe and note~wider'.
"""

from leyden.base.arguments import parse_arguments, parse_list
from leyden.base.errors import UserError, ending
from leyden.base.terminal import show


def main() -> None:
    """Run the command."""
    with ending():
        _, options = parse_arguments(__doc__, {"run": "", "note": "", "tags": ""}, max_folders=0)
        from leyden.run.directory import Run
        from leyden.run.identity import hydra_value

        if not options["run"]:
            raise UserError("run=DIR is needed; leyden runs lists the runs")
        new: dict[str, object] = {}
        if options["note"]:
            new["note"] = options["note"]
        if options["note"] == "null":
            new["note"] = None
        if options["tags"]:
            words = parse_list(options, "tags")
            new["tags"] = [word for word in words if word]
        if options["tags"] == "null":
            new["tags"] = []
        if not new:
            raise UserError("note=TEXT or tags=[WORD,...] is needed")
        run = Run(options["run"])
        run.check_owner()  # the new record is signed by whoever writes it
        run.annotate(new)
        changed = []
        for key, value in new.items():
            changed.append(f"{key}={hydra_value(value)}")
        show(f"{options['run']}: {' '.join(changed)}")


if __name__ == "__main__":
    main()
