"""The sources of Python's standard library, a text that needs no download."""

import sysconfig
from pathlib import Path

from leyden.data import Text


class PythonSources(Text):
    """Modules of Python's standard library, concatenated by name; non-ASCII characters become `?`.

    Source: the running Python; another version gives another text.
    """

    def read(self, root: Path, file: str) -> bytes:
        """Return the text of the modules that match a pattern, such as `*.py`; `root` is not used."""
        if {"/", "\\", ".."} & {*file, file[:2]}:
            raise ValueError(f"file={file}: must be a pattern of names of modules, as *.py")
        found = sorted(Path(sysconfig.get_path("stdlib")).glob(file))
        if not found:
            raise FileNotFoundError(f"file={file}: no module of the standard library")
        texts = [path.read_text("utf-8", errors="replace") for path in found]
        return b"\n".join(text.encode("ascii", "replace") for text in texts)
