"""Write JSON schemas for the files in conf/, so that an editor can complete and check them."""

import json

from leyden.config import arguments
from leyden.config.paths import ROOT
from leyden.run.files import write_whole
from leyden.run.process import importing

USAGE = """\
leyden schema

Writes .vscode/schema/ from the signatures of the classes that conf/ can name. docs/editors.md lists the editors
that read it."""
FOLDER = ROOT / ".vscode" / "schema"


def main() -> None:
    """Run the command."""
    with arguments.exit_on_user_error():
        arguments.parse_arguments(USAGE, {}, max_folders=0)
        with importing():
            from leyden.editor.schemas import schemas
        made = schemas()
        FOLDER.mkdir(parents=True, exist_ok=True)
        for name, schema in made.items():
            write_whole(FOLDER / f"{name}.json", json.dumps(schema))
        for path in FOLDER.glob("*.json"):
            if path.stem not in made:
                path.unlink()
        print(f"{FOLDER} is written")


if __name__ == "__main__":
    main()
