"""What can be typed next on a command line of Leyden. Nothing heavy is imported: a person waits for it at each TAB."""

import functools
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from leyden.config.paths import CONF, ROOT, SRC
from leyden.editor.composed import Composed

SHELLS = ("bash", "fish", "zsh")
FOLDERS = ("run", "run_dir", "fork", "init_from", "outputs", "data_root", "root", "against")  # keys that name one
FILES = ("images", "table", "output", "picture", "bundle")  # or a folder


def complete(line: str, last: str | None = None) -> list[str]:
    """The words that the last one of a line can become: those that end in `=`, `.` or `/` go on.

    Args:
        line: What stands before the cursor, from the command on, as `leyden train model=c`.
        last: What the shell takes for the last word, as `c` of `model=c`: what is given goes on from there. None: all of it.
    """
    words = split(line)
    *before, current = words
    at = next((n for n, word in enumerate(words) if word == "-m"), None)
    if Path(words[0]).name == "leyden":
        verb, arguments, form = before[1:2], before[2:], "{}"
    elif at is not None:
        verb, arguments, form = before[at + 1 : at + 2], before[at + 2 :], "leyden.{}"
    else:
        return []
    if not verb:
        found: Iterable[str] = (form.format(path.stem) for path in (SRC / "leyden").glob("[!_]*.py"))
    elif (name := verb[0].removeprefix("leyden.")) == "completion":
        found = SHELLS
    elif (CONF / f"{name}.yaml").exists():
        found = overrides(name, arguments, current)
    else:
        found = options(name, current)
    cut = len(current) - len(last) if last is not None and current.endswith(last) else 0
    return sorted({each[cut:] for each in found if each.startswith(current)})


def split(line: str) -> list[str]:
    """The words of a line; the last one is what stands at the cursor, empty after a space."""
    for end in ("", "'", '"'):  # a quote that is still open
        try:
            words = shlex.split(line + end)
        except ValueError:
            continue
        words = words if words and not (line[-1:].isspace() and not end) else [*words, ""]
        while len(words) > 1 and re.fullmatch(r"\w+=.*", words[0]):  # of the environment
            words = words[1:]
        return words
    return [""]


def options(verb: str, current: str) -> Iterator[str]:
    """The options of a verb that Hydra does not configure, by its usage, and folders."""
    path = SRC / "leyden" / f"{verb}.py"
    usages = re.findall(
        rf"^python -m leyden\.{re.escape(verb)} (.*)",
        path.read_text(encoding="utf-8") if path.exists() else "",
        re.M,
    )
    key, sign, value = current.partition("=")
    for name, allowed in re.findall(r"(\w+)=([\w|]*)", " ".join(usages)):
        if not sign:
            yield f"{name}="
        elif name == key and re.fullmatch("[a-z|]+", allowed):
            yield from (f"{key}={each}" for each in allowed.split("|"))
    if not sign or key in (*FOLDERS, *FILES):
        yield from (f"{key}={path}" if sign else path for path in paths(value if sign else key, files=key in FILES))


def overrides(verb: str, arguments: list[str], current: str) -> Iterator[str]:
    """The keys of a configuration and their values, for the choices that are typed already."""
    typed = [each.lstrip("+").partition("=") for each in arguments]
    groups = {group: choice.split(",")[0] for group, sign, choice in typed if sign and (CONF / group).is_dir()}
    composed = Composed(CONF, verb, groups)
    known = Known(verb, composed)
    name, equals, value = current.partition("=")
    key = name.lstrip("+~")
    sign = name[: len(name) - len(key)]
    if not equals:
        yield from (f"{sign}{each}" for each in known.keys(sign, key))
        return
    listed = value[: value.rfind(",") + 1]  # of a sweep
    if (CONF / key).is_dir():
        values: Iterable[str] = composed.choices(key)
    elif (last := key.rpartition(".")[2]) in (*FOLDERS, *FILES):
        values = paths(value.removeprefix(listed), files=last in FILES)
    else:
        values = known.values(key)
    yield from (f"{sign}{key}={listed}{each}" for each in values)


def paths(start: str, *, files: bool) -> Iterator[str]:
    """Folders, and files, whose path starts so; those alone whose name needs no quotes."""
    above = start[: start.rfind("/") + 1]
    try:
        found = [*Path(above or ".").iterdir()]
    except OSError:
        return
    for path in found:
        if re.fullmatch(r"[\w+%-][\w.+%-]*", path.name) and (path.is_dir() or files):
            yield f"{above}{path.name}{'/' if path.is_dir() else ''}"


class Known:
    """What is known of the keys of a configuration: from the files, and from the schema where `make schema` has written it."""

    def __init__(self, verb: str, composed: Composed) -> None:
        self.verb, self.composed = verb, composed

    @functools.cached_property
    def schema(self) -> dict[str, Any]:
        """The schema of the whole configuration; empty where it is not written."""
        path = ROOT / ".vscode" / "schema" / f"{self.verb}.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}

    def keys(self, sign: str, start: str) -> Iterator[str]:
        """Keys as they go on after the last dot, and groups; those that `+` would add, or that there are."""
        above = start.rpartition(".")[0]
        node = self.composed.at(above)
        there: dict[str, Any] = node if isinstance(node, dict) else {}
        names = {
            name: f"{above}.{name}" if above else name for name in there if name not in ("_partial_", "defaults")
        }
        for name, key in names.items() if sign != "+" else ():
            goes_on = isinstance(there[name], dict) and bool(there[name])
            if goes_on:
                yield f"{key}."
            if sign == "~" or not goes_on:
                yield key if sign == "~" else f"{key}="
        if sign in ("+", "++"):
            yield from (f"{above}.{name}=" for name in self.arguments(above) if above and name not in there)
        for group in self.composed.groups():
            is_chosen = group in self.composed.chosen
            if sign != "~" and is_chosen == (sign != "+"):
                yield f"{group}="

    def values(self, key: str) -> list[str]:
        """The values that a key can have, where they are words."""
        above, _, last = key.rpartition(".")
        allowed = self.arguments(above).get(last, {}).get("anyOf", ())
        types = [each.get("type") for each in allowed]
        words = [_text(word) for each in allowed for word in each.get("enum", ())]
        if "boolean" in types or isinstance(self.composed.at(key), bool):
            words += ["true", "false"]
        return [*words, "null"] if words and "null" in types else words

    def arguments(self, key: str) -> dict[str, Any]:
        """The schemas of the keys below a key."""
        definitions = self.schema.get("definitions", {})
        node = self.composed.at(key)
        if isinstance(node, dict) and (target := node.get("_target_")):
            places = [key, *(key.rsplit(".", n)[0] for n in range(1, key.count(".") + 1)), "any"]
            found = [definitions[f"{place}:{target}"] for place in places if f"{place}:{target}" in definitions]
            return dict(found[0]["properties"]) if found else {}
        roots = [each for each in self.schema.get("allOf", ()) if "properties" in each]
        root: dict[str, Any] = roots[0] if roots else {}
        for part in key.split(".") if key else ():
            root = root.get("properties", {}).get(part, {})
        return dict(root.get("properties", {}))


def _text(word: object) -> str:
    """A word as one types it."""
    return json.dumps(word) if word is None or isinstance(word, bool) else str(word)
