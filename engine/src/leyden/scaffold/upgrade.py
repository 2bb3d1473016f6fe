"""Changes that this version asks of a project: imports, classes, settings, its Makefile.

Nothing of a project is imported. Names are found in the text of a file and replaced there, so that
comments, line ends and encodings stay; what can't be replaced safely is listed, to be changed by
hand. Files of runs are never read.
"""

import ast
import io
import os
import re
import subprocess
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from leyden.base.errors import UserError
from leyden.base.terminal import reason_of
from leyden.scaffold.names import (
    GONE_FILES,
    GONE_VERBS,
    exists,
    gone_key,
    is_gone,
    remedy,
    successor,
)

DOTTED = re.compile(r"leyden(?:\.[A-Za-z_]\w*)+", re.ASCII)
# A text in quotes that is a name of the library, alone or as an override's value.
QUOTED = re.compile(rf"""(["'])((?:[\w./@+]+=)?({DOTTED.pattern}))\1""")
STATEMENT = r"(^[ \t]*|[;:][ \t]*)"  # what is before one
FROM = re.compile(
    rf"{STATEMENT}from[ \t]+(leyden[\w.]*)[ \t]+import[ \t]*(\([^)]*\)|(?:[^\r\n;#\\]|\\\r?\n)+)",
    re.MULTILINE,
)
IMPORT = re.compile(rf"{STATEMENT}import[ \t]+([^\r\n;#]+)", re.MULTILINE)
IMPORTED = re.compile(r"([\w.*]+)(?:\s+as\s+(\w+))?")
PACKAGE = re.compile(r"^# @package (\S+)", re.MULTILINE)
VERB = re.compile(rf"leyden[. ]({'|'.join(GONE_VERBS)})\b")
RECIPE = re.compile(rf"\t[@+-]*\S*{VERB.pattern}[^&|;\\]*")  # a line of a recipe that does no more
STRINGS = r"""(?:\s|,|\#[^\n]*|"[^"\n]*"|'[^'\n]*')*"""
DEPENDENCIES = re.compile(rf"^dependencies\s*=\s*\[{STRINGS}\]", re.MULTILINE)
REQUIREMENT = re.compile(r"(?<=[\"'])leyden(?:\[([^\]]*)\])?(?=\s*[\"'@<>=~!;])")
# Of runs, sweeps, environments of Python, and the library: a folder with one is neither read nor
# changed.
OF_OTHERS = (
    *("run.json", "result.json", "provenance.json", "sweep.json", "checkpoints"),
    *("pyvenv.cfg", "conda-meta", "src/leyden/__init__.py"),
)
OF_YAML = (".yaml", ".yml")
READ_SUFFIXES = (".py", ".sh", ".ipynb", *OF_YAML)
MAX_SIZE = 2**22  # bytes of a file


@dataclass(frozen=True)
class Change:
    """A place in a file, what stands there, and what must stand there.

    Args:
        start: The place's first character.
        line: Number of its line, from 1.
        old: What is shown as standing there.
        new: What is shown as its replacement; by hand, what to do.
        end: The character behind the place; None where it is changed by hand.
        text: What is written there.
    """

    start: int
    line: int
    old: str
    new: str
    end: int | None = None
    text: str = ""


class Source:
    """A file of the project, and its changes.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = ""
        self.encoding = "utf-8"
        self.changes: list[Change] = []

    @property
    def edits(self) -> list[Change]:
        """The changes that are not left to the user."""
        return [each for each in self.changes if each.end is not None]

    def read(self) -> None:
        """Read the text.

        Raises:
            SyntaxError: Its encoding is none.
            ValueError: It can't be read as text.
        """
        raw = self.path.read_bytes()
        self.encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        self.text = raw.decode(self.encoding)

    def edit(self, start: int, end: int, text: str, why: str = "") -> None:
        """Add the change of a place, or its removal and the reason."""
        old = " ".join(self.text[start:end].split())
        new = "; ".join(map(str.strip, text.splitlines())) or f"nothing: {why}"
        if self.path.is_symlink():
            self.by_hand(start, old, f"{new} (in a link)")
        else:
            self._add(Change(start, self._line(start), old, new, end, text))

    def by_hand(self, start: int, old: str, what: str) -> None:
        """Add a change that the user must make."""
        self._add(Change(start, self._line(start), old, what))

    def _add(self, change: Change) -> None:
        if change not in self.changes:  # a name that two imports or two aliases lead to
            self.changes.append(change)

    def _line(self, place: int) -> int:
        return self.text.count("\n", 0, place) + 1

    def whole_line(self, place: int) -> tuple[int, int]:
        """Return the place of a character's line, with its end."""
        end = self.text.find("\n", place) + 1
        return self.text.rfind("\n", 0, place) + 1, end or len(self.text)

    def edited(self) -> bytes:
        """Return the file with its edits.

        Raises:
            SyntaxError: It would be no Python any more.
            yaml.YAMLError: It would be no YAML any more.
        """
        text = self.text
        for change in sorted(self.edits, key=lambda each: each.start, reverse=True):
            text = text[: change.start] + change.text + text[change.end :]
        if self.path.suffix == ".py":
            ast.parse(text)
        if self.path.suffix in OF_YAML:
            list(yaml.compose_all(text, Loader=yaml.SafeLoader))
        return text.encode(self.encoding)


def find_changes(project: Path) -> list[Source]:
    """Return the files that a project must change."""
    found = []
    for path in sorted(_files(project)):
        source = Source(path)
        name = path.relative_to(project).as_posix()
        for pattern, what in GONE_FILES.items():
            if fnmatchcase(name, pattern):
                source.by_hand(0, path.name, what)
        try:
            _find_in(source, project / "conf")
        except (ValueError, SyntaxError, yaml.YAMLError, RecursionError) as error:
            what = f"can't be read, look for names of leyden: {reason_of(error)}"
            source.changes = [Change(0, 1, path.name, what)]
        if source.changes:
            found.append(source)
    return found


def _files(project: Path) -> Iterator[Path]:
    """Yield files that may name the library, but those of runs, environments, the library."""
    for place, folders, files in os.walk(project):
        folder = Path(place)
        skipped = {"node_modules", "__pycache__"}
        if folder == project:
            skipped |= {"outputs", "data"}
        entered = [name for name in folders if name not in skipped and not name.startswith(".")]
        folders[:] = [name for name in entered if _is_searched(folder / name)]
        for name in files:
            path = folder / name
            is_read = path.suffix in READ_SUFFIXES or name in ("Makefile", "pyproject.toml")
            if is_read and path.is_file() and path.stat().st_size <= MAX_SIZE:
                yield path


def _is_searched(folder: Path) -> bool:
    return not any((folder / name).exists() for name in OF_OTHERS)


def _find_in(source: Source, conf: Path) -> None:
    source.read()
    if source.path.suffix in OF_YAML:
        _find_in_yaml(source, conf)
    elif source.path.suffix == ".py":
        _find_in_python(source)
    elif source.path.name == "pyproject.toml":
        _find_in_pyproject(source)
    else:
        _find_in_lines(source)


def _list_name(source: Source, start: int, name: str) -> None:
    """List a name of the library that has moved or is gone."""
    new = successor(name)
    if new:
        source.by_hand(start, name, f"is now {new}")
    elif is_gone(name):
        source.by_hand(start, name, remedy(name))


def _find_in_python(source: Source) -> None:
    """Find imports of what has moved, and the whole names that follow.

    Names in quotes are listed.
    """
    if "leyden" not in source.text:
        return
    ast.parse(source.text)  # the text of what is no Python is not understood
    for found in FROM.finditer(source.text):
        _find_in_from(source, found)
    for found in IMPORT.finditer(source.text):
        for imported in IMPORTED.finditer(source.text, *found.span(2)):
            if imported[1].startswith("leyden."):
                _find_in_import(source, imported)
    for found in QUOTED.finditer(source.text):
        _list_name(source, found.start(), found[3])


def _find_in_from(source: Source, found: re.Match[str]) -> None:
    """Find the change of `from MODULE import NAME, …`: a statement for each module of today."""
    before, module, names = found.groups()
    start = found.end(1)
    statement = found[0][len(before) :].rstrip()
    imported: dict[str, list[str]] = defaultdict(list)
    news = []
    for name, bound in IMPORTED.findall(re.sub("#.*", "", names)):
        old = f"{module}.{name}"
        new = successor(old)
        if new:
            news.append(new)
        elif not exists(module if name == "*" else old):
            source.by_hand(start, old, remedy(old))
        home, _, today = (new or old).rpartition(".")
        is_called = bound or name
        imported[home].append(today if today == is_called else f"{today} as {is_called}")
    if news and "#" in statement:
        what = f"has a comment within: is now {', '.join(news)}"
        source.by_hand(start, f"from {module} import …", what)
    elif news:
        line_end = "\n"
        if "\r\n" in source.text:
            line_end = "\r\n"
        between = "; "
        if not before.strip():
            between = line_end + before
        statements = [f"from {home} import {', '.join(names)}" for home, names in imported.items()]
        source.edit(start, start + len(statement), between.join(statements))


def _find_in_import(source: Source, imported: re.Match[str]) -> None:
    """Find the changes of `import MODULE [as NAME]`, if all that is used moved to one place."""
    module, bound = imported.groups()
    use = re.compile(rf"(?<![\w.]){re.escape(bound or module)}\s*\.\s*(\w+)")
    uses = [*use.finditer(source.text)]
    names = {used[1] for used in uses}
    news = [successor(f"{module}.{name}") or "" for name in names]
    homes = {new.rpartition(".")[0] for new in news}
    if len(homes) == 1 and {new.rpartition(".")[2] for new in news} == names:
        (home,) = homes
        source.edit(*imported.span(1), home)
        for used in uses:
            if not bound:
                source.edit(*used.span(), f"{home}.{used[1]}")
    elif not exists(module):
        source.by_hand(imported.start(), module, remedy(module))


def _find_in_yaml(source: Source, conf: Path) -> None:
    """Find values that are a dotted name of the library and, in `conf/`, settings that went."""
    above: str | None = None
    if conf in source.path.parents:
        above = ".".join(source.path.parent.relative_to(conf).parts)
        given = PACKAGE.search(source.text)
        if given:
            above = given[1].replace("_global_", "")
    for document in yaml.compose_all(source.text, Loader=yaml.SafeLoader):
        _find_in_node(source, document, above)


def _find_in_node(source: Source, node: Any, above: str | None) -> None:
    """Find what moved or went in a node; `above` is its dotted key, None outside of `conf/`."""
    if isinstance(node, yaml.ScalarNode) and DOTTED.fullmatch(node.value):
        start = source.text.find(node.value, node.start_mark.index, node.end_mark.index)
        new = successor(node.value)
        if new and start >= 0:
            source.edit(start, start + len(node.value), new)
        else:
            _list_name(source, node.start_mark.index, node.value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _find_in_node(source, value, above)
    elif isinstance(node, yaml.MappingNode):
        is_alone = node.flow_style or len(node.value) == 1
        for key, value in node.value:
            path = None
            if above is not None:
                path = f"{above}.{key.value}".lstrip(".")
            what = path and gone_key(path)
            if not what:
                _find_in_node(source, value, path)
                continue
            start, end = source.whole_line(key.start_mark.index)
            is_named = "&" in source.text[start:end]
            if is_alone or is_named or value.end_mark.index > end:
                source.by_hand(start, str(path), f"went: {what}")
            else:
                source.edit(start, end, "", what)


def _find_in_pyproject(source: Source) -> None:
    """Find the dependency, of which the parts that train are an extra."""
    for dependencies in DEPENDENCIES.finditer(source.text):
        for found in REQUIREMENT.finditer(source.text, *dependencies.span()):
            extras = re.findall(r"[\w-]+", found[1] or "")
            if "train" not in extras:
                source.edit(*found.span(), f"leyden[{','.join(['train', *extras])}]")


def _find_in_lines(source: Source) -> None:
    """Find recipes of a Makefile that are a verb that went.

    Elsewhere what went or moved is listed.
    """
    for found in VERB.finditer(source.text):
        what = GONE_VERBS[found[1]]
        start, end = source.whole_line(found.start())
        line = source.text[start:end].rstrip()
        if source.path.name == "Makefile" and RECIPE.fullmatch(line):
            source.edit(start, end, "", what)
        else:
            source.by_hand(found.start(), found[0], f"is gone: {what}")
    for found in DOTTED.finditer(source.text):
        _list_name(source, found.start(), found[0])


def write_changes(project: Path, sources: list[Source]) -> None:
    """Make the changes that are not left to the user.

    Raises:
        UserError: A file has changes that git does not have, so that it could not undo these.
    """
    new: dict[Path, bytes] = {}
    for source in sources:
        if not source.edits:
            continue
        name = source.path.relative_to(project).as_posix()
        if _has_changes(project, name):
            raise UserError(f"{name}: has changes; commit them first, so that git can undo this")
        try:
            new[source.path] = source.edited()
        except (SyntaxError, ValueError, yaml.YAMLError) as error:
            why = reason_of(error)
            raise UserError(f"{name}: can't be changed, nothing was: {why}") from error
    for path, content in new.items():
        path.write_bytes(content)


def _has_changes(project: Path, name: str) -> bool:
    """Return whether a file differs from what git has, which also keeps what is staged."""
    asked = ["git", "-C", str(project), "status", "--porcelain", "--", name]
    try:
        status = subprocess.run(asked, capture_output=True, text=True).stdout
    except OSError:  # without git there is nothing to lose there
        return False
    return bool(status) and status[1] != " "
