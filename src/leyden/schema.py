"""Write JSON schemas of the files in conf/, by which an editor completes and checks them."""

import json

from leyden.config import arguments
from leyden.config.paths import ROOT
from leyden.run.files import write_whole
from leyden.run.process import importing

USAGE = """\
python -m leyden.schema

Writes .vscode/schema/, from the constructors of what conf/ can name. docs/editors.md tells which editors read it."""
FOLDER = ROOT / ".vscode" / "schema"


def main() -> None:
    """The command."""
    with arguments.exit_on_user_error():
        arguments.parse_arguments(USAGE, {}, most=0)
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
