"""The sources of Python's standard library, a text that needs no download."""

import sysconfig
from pathlib import Path

from leyden.data import Text


class PythonSources(Text):
    """Modules of Python's standard library, concatenated by name; non-ASCII characters become `?`.

    Source: the running Python; another version gives another text.
    """

    def read(self, root: Path, file: str) -> bytes:
        """Return the text of the modules that match a pattern as `*.py`; `root` is not used."""
        if "/" in file or "\\" in file or file.startswith(".."):
            raise ValueError(f"file={file}: must be a pattern of names of modules, as *.py")
        folder = Path(sysconfig.get_path("stdlib"))
        found = sorted(folder.glob(file))
        if not found:
            raise FileNotFoundError(f"file={file}: no module of the standard library")
        texts = [path.read_text("utf-8", errors="replace") for path in found]
        text = "\n".join(texts)
        return text.encode("ascii", "replace")
