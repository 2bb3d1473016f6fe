"""What a project must change for this version of the library: imports, classes in YAML, settings, its Makefile.

Nothing of a project is imported. A file is edited at the places that are found, so that comments, line ends and
encodings stay; what can't be edited safely is listed, to be changed by hand. Files of runs are never read.
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
IN_STRING = re.compile(rf"(?:[\w./@+]+=)?({DOTTED.pattern})")  # alone, or an override's value
PACKAGE = re.compile(r"^# @package (\S+)", re.MULTILINE)
VERB = re.compile(rf"leyden[. ]({'|'.join(GONE_VERBS)})\b")
RECIPE = re.compile(rf"\t[@+-]*\S*{VERB.pattern}[^&|;\\]*")  # a line of a recipe that does no more
STRINGS = r"""(?:\s|,|\#[^\n]*|"[^"\n]*"|'[^'\n]*')*"""
DEPENDENCIES = re.compile(rf"^dependencies\s*=\s*\[{STRINGS}\]", re.MULTILINE)
REQUIREMENT = re.compile(r"(?<=[\"'])leyden(?:\[([^\]]*)\])?(?=\s*[\"'@<>=~!;])")
LINE_END = re.compile(r"\r\n|\r|\n")
# What a run or a sweep keeps; a folder with one is neither read nor changed. And environments of Python.
OF_RUNS = ("run.json", "result.json", "provenance.json", "sweep.json", "checkpoints")
OF_OTHERS = ("pyvenv.cfg", "conda-meta", "src/leyden/__init__.py")
PYTHON = (".py",)
YAML = (".yaml", ".yml")
OTHER_FILES = (".sh", ".ipynb")
MAX_SIZE = 2**22  # bytes of a file


@dataclass(frozen=True)
class Change:
    """A place in a file, what stands there, and what must stand there.

    Args:
        path: The file.
        line: Number of the line, from 1.
        old: What is shown as standing there.
        new: What is shown as its replacement; by hand, what to do.
        span: The first character of the place and the one behind it; None where it is changed by hand.
        text: What is written there.
    """

    path: Path
    line: int
    old: str
    new: str
    span: tuple[int, int] | None = None
    text: str = ""


class Source:
    """A file of the project.

    Args:
        path: The file.

    Raises:
        ValueError: It can't be read as text.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        raw = path.read_bytes()
        self.encoding = "utf-8"
        if path.suffix in PYTHON:
            self.encoding = _declared_encoding(raw)
        elif raw.startswith(b"\xef\xbb\xbf"):
            self.encoding = "utf-8-sig"
        self.text = raw.decode(self.encoding)
        self.starts = [0]  # of lines
        for match in LINE_END.finditer(self.text):
            self.starts.append(match.end())

    def span(self, node: Any) -> tuple[int, int]:
        """Return the place of a node of Python's syntax tree, which counts bytes."""
        start = self._position(node.lineno, node.col_offset)
        return start, self._position(node.end_lineno, node.end_col_offset)

    def _position(self, line: int, num_bytes: int) -> int:
        start = self.starts[line - 1]
        before = self.text[start : start + num_bytes].encode()[:num_bytes]
        return start + len(before.decode())

    def line(self, position: int) -> int:
        """Return the number of a character's line."""
        return sum(start <= position for start in self.starts)

    def whole_line(self, position: int) -> tuple[int, int]:
        """Return the place of a character's line, with its end."""
        number = self.line(position)
        starts = [*self.starts, len(self.text)]
        return starts[number - 1], starts[number]

    def edit(self, span: tuple[int, int], new: str, shown: tuple[str, str] | None = None) -> Change:
        """Return the change of a place."""
        old = self.text[span[0] : span[1]]
        old_shown, new_shown = shown or (old, new)
        return Change(self.path, self.line(span[0]), old_shown, new_shown, span, new)

    def by_hand(self, position: int, old: str, what: str) -> Change:
        """Return a change that the user must make."""
        return Change(self.path, self.line(position), old, what)

    def changed(self, changes: list[Change]) -> bytes:
        """Return the file with the changes made.

        Raises:
            ValueError: It would be no Python or YAML any more.
        """
        text = self.text
        for change in sorted(changes, key=lambda change: change.span or (0, 0), reverse=True):
            if change.span is not None:
                start, end = change.span
                text = text[:start] + change.text + text[end:]
        try:
            if self.path.suffix in PYTHON:
                ast.parse(text)
            if self.path.suffix in YAML:
                list(yaml.compose_all(text, Loader=yaml.SafeLoader))
        except (SyntaxError, yaml.YAMLError) as error:
            raise ValueError(str(error)) from error
        return text.encode(self.encoding)


def _declared_encoding(raw: bytes) -> str:
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
    except SyntaxError as error:
        raise ValueError(str(error)) from error
    return encoding


def find_changes(project: Path) -> list[Change]:
    """Return what a project must change, by file and line."""
    found: list[Change] = []
    for path in sorted(_files(project)):
        name = path.relative_to(project).as_posix()
        for pattern, what in GONE_FILES.items():
            if fnmatchcase(name, pattern):
                found.append(Change(path, 1, path.name, what))
        found += _changes_in(path, project)
    return found


def _files(project: Path) -> Iterator[Path]:
    """Yield files that may name the library, without those of runs, environments and the library."""
    for place, folders, files in os.walk(project):
        folder = Path(place)
        skipped = {"node_modules", "__pycache__"}
        if folder == project:
            skipped |= {"outputs", "data"}
        entered = [name for name in folders if name not in skipped and not name.startswith(".")]
        folders[:] = [name for name in entered if _is_searched(folder / name)]
        for name in files:
            path = folder / name
            is_read = path.suffix in (*PYTHON, *YAML, *OTHER_FILES)
            is_read = is_read or name in ("Makefile", "pyproject.toml")
            if is_read and path.is_file() and path.stat().st_size <= MAX_SIZE:
                yield path


def _is_searched(folder: Path) -> bool:
    return not any((folder / name).exists() for name in (*OF_RUNS, *OF_OTHERS))


def _changes_in(path: Path, project: Path) -> list[Change]:
    """Return the changes of a file; of one that is a link or can't be read, by hand."""
    if path.suffix not in YAML and b"leyden" not in path.read_bytes():
        return []
    try:
        if path.suffix in PYTHON:
            found = PythonSource(path).changes()
        elif path.suffix in YAML:
            source = Source(path)
            found = [*_classes_in_yaml(source), *_settings_in_yaml(source, project / "conf")]
        elif path.name == "pyproject.toml":
            found = [*_in_pyproject(Source(path))]
        else:
            found = [*_in_text(Source(path))]
    except (ValueError, SyntaxError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        return [Change(path, 1, path.name, f"can't be read, look for names of leyden: {reason}")]
    if path.is_symlink():
        return [Change(path, each.line, each.old, f"{each.new} (in a link)") for each in found]
    return found


class PythonSource(Source):
    """A file of Python: its imports of the library, and the uses of what they bind.

    Args:
        path: The file.

    Raises:
        SyntaxError: It is no Python.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.nodes = [*ast.walk(ast.parse(self.text))]

    def changes(self) -> list[Change]:
        """Return the changes of imports and uses; strings that name something that moved are listed."""
        found: list[Change] = []
        for node in self.nodes:
            if isinstance(node, ast.ImportFrom):
                found += self._from_import(node)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    found += self._import(alias)
            elif isinstance(node, ast.Constant):
                found += self._string(node)
        return [*dict.fromkeys(found)]  # two imports of a module have the same uses

    def _string(self, node: ast.Constant) -> Iterator[Change]:
        match = IN_STRING.fullmatch(str(node.value))
        new = successor(match[1]) if match else None
        if match and new:
            start, _ = self.span(node)
            yield self.by_hand(start, f'"{match[0]}"', f"in a string: is now {new}")

    def _from_import(self, node: ast.ImportFrom) -> Iterator[Change]:
        """Yield the change of `from MODULE import NAME, …`: a statement for each module of today."""
        module = node.module or ""
        if node.level or module.split(".")[0] != "leyden":
            return
        start, end = self.span(node)
        imported: dict[str, list[str]] = defaultdict(list)
        news: list[str] = []
        for alias in node.names:
            old = f"{module}.{alias.name}"
            new = successor(old)
            if new is None:
                imported[module].append(_as(alias.name, alias.asname))
                if not exists(module if alias.name == "*" else old):
                    yield self.by_hand(start, old, remedy(old))
                continue
            news.append(new)
            home, _, name = new.rpartition(".")
            imported[home].append(_as(name, alias.asname or alias.name))
        if not news:
            return
        old_text = self.text[start:end]
        shown = f"from {module} import …" if "\n" in old_text else old_text
        if "#" in old_text:
            what = f"has a comment within: is now {', '.join(news)}"
            yield self.by_hand(start, shown, what)
            return
        statements = [f"from {home} import {', '.join(names)}" for home, names in imported.items()]
        text = self._between(start, end).join(statements)
        yield self.edit((start, end), text, (shown, "; ".join(statements)))

    def _between(self, start: int, end: int) -> str:
        """Return what separates two statements in the place of one: a line end, or `;` beside others."""
        first, _ = self.whole_line(start)
        _, last = self.whole_line(end)
        indent = self.text[first:start]
        rest = self.text[end:last]
        if indent.strip() or rest.partition("#")[0].strip():
            return "; "
        line_end = "\r\n" if rest.endswith("\r\n") else "\n"
        return line_end + indent

    def _import(self, alias: ast.alias) -> Iterator[Change]:
        """Yield the changes of `import MODULE [as NAME]` and of its uses, if all of these have moved."""
        if not alias.name.startswith("leyden."):
            return
        span = self.span(alias)
        uses = self._uses(alias)
        news = [successor(f"{alias.name}.{use.attr}") or "" for use in uses]
        homes = sorted({new.rpartition(".")[0] for new in news})
        has_one_home = len(homes) == 1 or not alias.asname
        if not uses or "" in homes or not has_one_home:
            if not exists(alias.name):
                yield self.by_hand(span[0], alias.name, remedy(alias.name))
            return
        yield self.edit(span, ", ".join(_as(home, alias.asname) for home in homes))
        for use, new in zip(uses, news, strict=True):
            home, _, name = new.rpartition(".")
            yield self.edit(self.span(use), f"{alias.asname or home}.{name}")

    def _uses(self, alias: ast.alias) -> list[ast.Attribute]:
        """Return the attributes of an imported module that are used; none where its name is used otherwise."""
        called = alias.asname or alias.name
        uses: list[ast.Attribute] = []
        owners: set[ast.AST] = set()
        for node in self.nodes:
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == called:
                uses.append(node)
                owners.add(node.value)
                start, end = self.span(node)
                text = "".join(self.text[start:end].split())
                if text != ast.unparse(node):  # in f-strings of Python 3.11 places are wrong
                    return []
        for node in self.nodes:
            name = getattr(node, "id", getattr(node, "arg", None))
            if name == called and node not in owners and not isinstance(node, ast.keyword):
                return []
        return uses


def _as(name: str, bound: str | None) -> str:
    return name if bound in (None, name) else f"{name} as {bound}"


def _classes_in_yaml(source: Source) -> Iterator[Change]:
    """Yield the changes of values that are a dotted name of the library."""
    before: Any = None
    for token in yaml.scan(source.text):
        is_key = isinstance(before, yaml.KeyToken)
        before = token
        if is_key or not isinstance(token, yaml.ScalarToken):
            continue
        if not DOTTED.fullmatch(token.value):
            continue
        start = token.start_mark.index + (token.style is not None)
        span = (start, start + len(token.value))
        new = successor(token.value)
        if new is not None and source.text[span[0] : span[1]] == token.value:
            yield source.edit(span, new)
        elif is_gone(token.value):
            yield source.by_hand(start, token.value, remedy(token.value))


def _settings_in_yaml(source: Source, conf: Path) -> Iterator[Change]:
    """Yield the settings of a config file that went."""
    if conf not in source.path.parents:
        return
    package = ".".join(source.path.parent.relative_to(conf).parts)
    given = PACKAGE.search(source.text)
    if given:
        package = given[1].replace("_global_", "")
    for document in yaml.compose_all(source.text, Loader=yaml.SafeLoader):
        yield from _gone_keys(source, document, package)


def _gone_keys(source: Source, node: Any, above: str) -> Iterator[Change]:
    """Yield the settings below a node that went."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        path = f"{above}.{key.value}".lstrip(".")
        what = gone_key(path)
        if what is None:
            yield from _gone_keys(source, value, path)
            continue
        start, end = source.whole_line(key.start_mark.index)
        line = source.text[start:end].strip()
        is_alone = line.startswith(key.value) and value.end_mark.index <= end
        is_named = "&" in line
        if is_alone and not is_named and len(node.value) > 1 and not node.flow_style:
            yield source.edit((start, end), "", (line, f"nothing: {what}"))
        else:
            yield source.by_hand(start, path, f"went: {what}")


def _in_pyproject(source: Source) -> Iterator[Change]:
    """Yield the change of the dependency, of which the parts that train are an extra."""
    for dependencies in DEPENDENCIES.finditer(source.text):
        for match in REQUIREMENT.finditer(source.text, *dependencies.span()):
            extras = re.findall(r"[\w-]+", match[1] or "")
            if "train" not in extras:
                yield source.edit(match.span(), f"leyden[{','.join(['train', *extras])}]")


def _in_text(source: Source) -> Iterator[Change]:
    """Yield recipes of a Makefile that are a verb that went; elsewhere what went or moved is listed."""
    for start in source.starts:
        span = source.whole_line(start)
        line = source.text[span[0] : span[1]]
        gone = VERB.search(line)
        if gone and source.path.name == "Makefile" and RECIPE.fullmatch(line.rstrip()):
            yield source.edit(span, "", (line.strip(), f"nothing: {GONE_VERBS[gone[1]]}"))
        elif gone:
            yield source.by_hand(start, gone[0], f"is gone: {GONE_VERBS[gone[1]]}")
        else:
            for name in DOTTED.findall(line):
                new = successor(name)
                if new or is_gone(name):
                    yield source.by_hand(start, name, f"is now {new}" if new else remedy(name))


def write_changes(project: Path, changes: list[Change]) -> None:
    """Make the changes that are not left to the user.

    Raises:
        UserError: A file has changes that git does not have, so that it could not undo these.
    """
    by_file: dict[Path, list[Change]] = defaultdict(list)
    for change in changes:
        if change.span is not None:
            by_file[change.path].append(change)
    new: dict[Path, bytes] = {}
    for path, edits in by_file.items():
        name = path.relative_to(project).as_posix()
        if _has_changes(project, name):
            raise UserError(f"{name}: has changes; commit them first, so that git can undo this")
        try:
            new[path] = Source(path).changed(edits)
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{name}: can't be changed, nothing was: {reason}") from error
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
