"""Files of a run: opened without following links, replaced as a whole, and checked for damage.

A run directory may be a stranger's, or in a folder where others write. So all its files are opened
here: a link isn't followed, and for a pipe or a device nobody waits. Links to folders above the run
are the user's own.
"""

import contextlib
import errno
import os
import pickletools
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

# The format in which this version writes each kind of file; docs/formats.md has the keys. It reads
# no other one.
FORMATS = {"run.json": 1, "starts.json": 1, "sweep.json": 1, "job.json": 1, "checkpoint": 1}
FORMATS["plan.json"] = 1
LINK = "is a link, which is not followed"
NO_FILE = "is not a regular file"


def opened(path: Path | str, mode: str = "rb", *, follow: bool = False) -> Any:
    """Open a regular file of a run.

    Args:
        path: Path of the file.
        mode: `rb` to read it, `ab` to append to it, `ab+` for both.
        follow: Whether a link is followed.

    Raises:
        OSError: The file can't be opened, is a link, or is no regular file.
    """

    def opener(name: str, flags: int) -> int:
        flags |= getattr(os, "O_NONBLOCK", 0)
        if not follow:
            flags |= getattr(os, "O_NOFOLLOW", 0)
        try:
            return os.open(name, flags, 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise OSError(errno.ELOOP, LINK, str(path)) from None
            if error.errno == errno.ENXIO:  # a pipe that nobody reads
                raise OSError(errno.EINVAL, NO_FILE, str(path)) from None
            raise

    buffering = 0 if mode == "rb" else -1
    file = open(path, mode, buffering, opener=opener)  # noqa: SIM115 - the caller closes it
    kind = os.fstat(file.fileno()).st_mode
    if not stat.S_ISREG(kind):
        file.close()
        raise OSError(errno.EINVAL, NO_FILE, str(path))
    return file


class FormatError(ValueError):
    """A file is in a format that this version can't read."""


def take_format(kind: str, content: dict[str, Any]) -> None:
    """Remove the number of its format from a file's content.

    Args:
        kind: A key of `FORMATS`.
        content: The parsed content.

    Raises:
        FormatError: It is not the one that this version reads.
    """
    number = content.pop("format", None)
    if type(number) is not int or number != FORMATS[kind]:
        raise FormatError(
            f"has format {number!r}, and this version of leyden reads {FORMATS[kind]} alone"
        )


def read_bounded(path: Path | str, max_bytes: int) -> bytes:
    """Return the content of a file of a run.

    Raises:
        OSError: The file can't be read, or is larger than allowed.
    """
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise OSError(errno.EFBIG, f"is larger than {max_bytes // 2**20} MiB", str(path))
        # One call of the system reads less than 2 GiB; without a size, there are four.
        content: bytes = file.read(size if size < 2**30 else -1)
    return content


def make_folder(path: Path) -> None:
    """Make a folder of a run, unless it is there.

    The run directory itself, if it was deleted, isn't made again.

    Raises:
        OSError: The folder can't be made, or is a link, through which nothing is written.
    """
    path.mkdir(exist_ok=True)
    if path.is_symlink():
        raise OSError(errno.ELOOP, LINK, str(path))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that replaces `path` when it is complete; after an error the old one stays.

    Links are not followed, neither at `path` nor at the temporary name, so that an untrusted
    directory can't redirect the write to a file outside.
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
        # If this fails as well, for example in a read-only folder, the first error is the one to
        # report.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # for example for a full disk
            error.filename = str(path)
        raise


def damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, an archive with checksums; None if it is intact."""
    try:
        with opened(path) as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            # A checkpoint holds archives: of one that is cut off, Python would find the last of
            # these.
            if min(entry.header_offset for entry in entries) > 0:
                return "is cut off"
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                return "is compressed, as PyTorch's files never are"
            size = os.fstat(file.fileno()).st_size
            if sum(entry.file_size for entry in entries) > size:
                return "has parts that overlap"
            corrupt = archive.testzip()
            if corrupt is None:
                _check_pickles(archive)
    except Exception as error:  # zipfile raises various types for a damaged file
        text = getattr(error, "strerror", None) or str(error)
        return text or type(error).__name__
    return f"{corrupt} is corrupt" if corrupt else None


MAX_PICKLE_BYTES = 2**26
MAX_CONTAINERS = 2**20  # in a pickle; a tensor takes seven
# In a pickle; what is in two containers counts twice, as it does when it is copied or hashed.
MAX_CHECKPOINT_VALUES = 2**23
TOO_MUCH = "is refused: its values are too many, or nested too deeply"
GETS = ("GET", "BINGET", "LONG_BINGET")
PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
# Operations that fill a container that is there.
FILLS = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")
EMPTY = ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET")
# Of an operation's values, with the container first: those that it hashes, or gives to a function.
HASHED = {
    "SETITEM": slice(1, 2),
    "SETITEMS": slice(1, None, 2),
    "ADDITEMS": slice(1, None),
    "REDUCE": slice(1, 2),
    "NEWOBJ": slice(1, 2),
    "BINPERSID": slice(0, 1),
}
# A container, as a list that begins with 1.
Container = list[Any]
PLAIN_VALUE: Container = [1]  # any value that is no container


def check_bounds(file: BinaryIO) -> None:
    """Check, before a checkpoint is parsed, that its values can be hashed and copied in seconds.

    A tuple of two references to a tuple of two references, and so on, is tiny, and takes centuries
    to hash.

    Raises:
        ValueError: They can't, or the file is no checkpoint.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            _check_pickles(archive)
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from error
    finally:
        file.seek(0)


def _check_pickles(archive: zipfile.ZipFile) -> None:
    """Check each entry that PyTorch may take for the pickle: it ignores the case of names."""
    for entry in archive.infolist():
        name = entry.filename.lower()
        if not name.endswith("data.pkl"):
            continue
        if entry.file_size > MAX_PICKLE_BYTES:
            raise ValueError(TOO_MUCH)
        _check_pickle(archive.read(entry))


def _check_pickle(content: bytes) -> None:
    """Check a pickle by what its operations would put into containers, without making anything."""
    containers, hashed = _containers(content)
    sizes: dict[int, int] = {id(PLAIN_VALUE): 1}
    for each in containers:
        _measure(each, sizes)
    if sum(sizes[id(each)] for each in hashed) > MAX_CHECKPOINT_VALUES:
        raise ValueError(TOO_MUCH)


def _containers(content: bytes) -> tuple[list[Container], list[Container]]:
    """Return the containers in a pickle, and those values that are hashed."""
    stack: list[Container] = []
    marks: list[int] = []
    memo: dict[int, Container] = {}
    found: list[Container] = []
    hashed: list[Container] = []
    argument: Any
    for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
        if number > MAX_CHECKPOINT_VALUES or len(found) > MAX_CONTAINERS:
            raise ValueError(TOO_MUCH)
        name: str = operation.name
        if name in PUTS:
            memo[argument] = stack[-1]
            continue
        if name in GETS:
            stack.append(memo[argument])
            continue
        if name == "MARK":
            marks.append(len(stack))
            continue
        taken = operation.stack_before
        if not taken and name not in EMPTY:
            stack.append(PLAIN_VALUE)
            continue
        if pickletools.markobject in taken:
            start = marks.pop() - taken.index(pickletools.markobject)
        else:
            start = len(stack) - len(taken)
        values = stack[start:]
        del stack[start:]
        if name in HASHED:
            hashed += values[HASHED[name]]
        if not operation.stack_after:
            continue
        if name in FILLS and values[0] is not PLAIN_VALUE:
            values[0].extend(values[1:])
            stack.append(values[0])
        else:
            found.append([1, *values])
            stack.append(found[-1])
    return found, hashed


def _measure(container: Container, sizes: dict[int, int]) -> None:
    """Add to `sizes`, by ids, the number of values in a container and in each that it holds."""
    pending = [container]
    while pending:
        each = pending[-1]
        key = id(each)
        known = sizes.get(key)
        if known is None:
            sizes[key] = 0  # it is being measured
            inner = [part for part in each[1:] if not sizes.get(id(part))]
            if any(id(part) in sizes for part in inner):
                raise ValueError("is refused: a value in it holds itself")
            pending += inner
            continue
        if known == 0:
            sizes[key] = 1 + sum(sizes[id(part)] for part in each[1:])
            if sizes[key] > MAX_CHECKPOINT_VALUES:
                raise ValueError(TOO_MUCH)
        pending.pop()
