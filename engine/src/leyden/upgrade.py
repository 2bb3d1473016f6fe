"""List what a project must change for this version of Leyden, or change it.

leyden upgrade [write=true]

Reads the project's Python files, conf/, pyproject.toml and Makefile, and prints
each name, key and command of an earlier version with what takes its place.
write=true edits the files; what it can't edit stays under "by hand". Runs are
not touched. Call it after a newer library was installed or took the place of
engine/.
"""

from typing import TYPE_CHECKING

from leyden.base.arguments import parse_arguments, parse_flag
from leyden.base.errors import ending, require_project
from leyden.base.paths import root
from leyden.base.terminal import show

if TYPE_CHECKING:
    from leyden.scaffold.upgrade import Change, Source


def main() -> None:
    """Run the command."""
    with ending():
        _, options = parse_arguments(__doc__, {"write": "false"}, max_folders=0)
        is_written = parse_flag(options, "write")
        from leyden.scaffold.upgrade import find_changes, write_changes

        require_project()
        sources = find_changes(root())
        edited = [source for source in sources if source.edits]
        edits = [_line(source, change) for source in edited for change in source.edits]
        left = [
            _line(source, change)
            for source in sources
            for change in source.changes
            if change.end is None
        ]
        if is_written:
            write_changes(root(), edited)
        for line in edits:
            show(line)
        if left:
            print("by hand:")
        for line in left:
            show(f"  {line}")
        count = f"places: {len(edits)}, files: {len(edited)}"
        if not sources:
            print("nothing to change")
        elif edits and is_written:
            print(f"changed, as git diff shows ({count})")
        elif edits:
            print(f"leyden upgrade write=true changes them ({count})")


def _line(source: "Source", change: "Change") -> str:
    return f"{source.path.relative_to(root())}:{change.line}: {change.old} → {change.new}"


if __name__ == "__main__":
    main()
