"""Files that are replaced as a whole, so that a crash or a full disk leaves the previous one."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that atomically replaces `path` when it is complete; after an error the old file stays.

    Links are not followed, neither at `path` nor at the temporary name, so that an untrusted directory can't
    redirect the write to a file outside.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # left behind by a killed process
    try:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with open(descriptor, "w+b") as file:  # noqa: PTH123 - Path.open takes no descriptor
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        # If this fails as well, for example in a read-only folder, the first error is the one to report.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # for example for a full disk
            error.filename = str(path)
        raise
