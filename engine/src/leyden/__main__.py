"""The command `leyden VERB …`, short for `python -m leyden.VERB …`."""

import ast
import difflib
import runpy
import sys
import textwrap
from pathlib import Path

from leyden import __version__
from leyden.base.errors import UserError, ending

HERE = Path(__file__).parent


def main() -> None:
    """Run a verb, or list the verbs if none is given."""
    with ending():
        _main()


def _main() -> None:
    verbs = {path.stem: path for path in sorted(HERE.glob("[!_]*.py"))}
    name, *arguments = sys.argv[1:] or ["--help"]
    if name == "--version":
        print(f"leyden {__version__}")
        return
    if name in ("-h", "--help"):
        print("usage: leyden VERB [key=VALUE ...]     leyden VERB --help     leyden --version\n")
        for verb, path in verbs.items():
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            first = docstring.splitlines()[0]
            print(
                textwrap.fill(first, 79, initial_indent=f"  {verb:<12}", subsequent_indent=" " * 14)
            )
        return
    if name not in verbs:
        hint = ""
        for close in difflib.get_close_matches(name, verbs, 1):
            hint = f"; did you mean {close}?"
        raise UserError(f"{name}: no such verb{hint}; the verbs are {', '.join(verbs)}")
    # Set as by `python -m`: a run records this command line, and starts its other processes with
    # it.
    module = f"leyden.{name}"
    sys.argv = [str(verbs[name]), *arguments]
    sys.orig_argv = [sys.executable, "-m", module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
