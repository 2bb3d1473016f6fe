"""A text that is always there: the sources of Python's standard library."""

import sysconfig
from pathlib import Path

from leyden.data.text import Text


class PythonSources(Text):
    """Modules of the standard library, one after the other by name; ASCII, other characters as `?`.

    Source: the Python that runs this; another version is another text.
    """

    def read(self, root: Path, file: str) -> bytes:
        """The text of the modules that match a pattern, as `*.py`, in the library's folder."""
        if {"/", "\\", ".."} & {*file, file[:2]}:
            raise ValueError(f"file={file}: must be a pattern of names of modules, as *.py")
        found = sorted(Path(sysconfig.get_path("stdlib")).glob(file))
        if not found:
            raise FileNotFoundError(f"file={file}: no module of the standard library")
        return b"\n".join(path.read_text("utf-8", errors="replace").encode("ascii", "replace") for path in found)
