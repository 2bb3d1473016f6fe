"""Say what a run is for: change its note and tags, which `leyden runs` shows and finds."""

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from leyden.config import arguments
from leyden.config.errors import UserError, ending
from leyden.config.terminal import show
from leyden.run.directory import Run
from leyden.run.identity import hydra_value

USAGE = """\
leyden note run=DIR [note=TEXT] [tags=[WORD,...]]

Changes the note or the tags of a run, as `leyden train ... note="wider layers" tags=[moe]` gives them. note=null and
tags=[] remove them. Find runs by them with leyden runs where='tags~moe and note~wider'."""


def main() -> None:
    """Run the command."""
    with ending():
        _, options = arguments.parse_arguments(USAGE, {"run": "", "note": "", "tags": ""}, max_folders=0)
        if not options["run"]:
            raise UserError("run=DIR is needed; leyden runs lists the runs")
        new: dict[str, object] = {}
        if text := options["note"]:
            new["note"] = None if text == "null" else text
        if options["tags"]:
            new["tags"] = _tags(options["tags"])
        if not new:
            raise UserError("note=TEXT or tags=[WORD,...] is needed")
        run = Run(options["run"])
        run.annotate(new)
        show(f"{options['run']}: {' '.join(f'{key}={hydra_value(value)}' for key, value in new.items())}")


def _tags(text: str) -> list[str]:
    """Return a list of words, in Hydra's syntax or as words with commas."""
    try:
        found = (
            OverridesParser.create().parse_override(f"tags=[{text.removeprefix('[').removesuffix(']')}]").value()
        )
    except HydraException as error:
        raise UserError(f"tags={text}: must be words, such as tags=[moe,wide]") from error
    return [str(each) for each in found] if isinstance(found, list) else []


if __name__ == "__main__":
    main()
