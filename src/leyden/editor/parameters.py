"""What a class or function takes, as a JSON schema: its arguments, their types, and what its docstring says of them."""

import collections.abc
import contextlib
import inspect
import numbers
import re
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from leyden.assembly.signatures import signature

Schema = dict[str, Any]

# An interpolation, or a value that is still to be given: both can stand for anything.
LATER: Schema = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}
PLAIN: dict[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def schema_of(made: Any, node: Schema, given: Collection[str], nested: Mapping[str, Schema]) -> Schema:
    """The schema of a node whose `_target_` is a class or function.

    Other keys are errors, unless its constructor takes any: then those of the bases are known, too. Where it hands
    the rest on to a class of the engine, that is known to take no others.

    Args:
        made: The class or function.
        node: Schema of a node that makes something, for arguments that are no plain values.
        given: Arguments that the program gives, which are no keys.
        nested: Schemas of such nodes for arguments of these names, in place of `node`.

    Example:
        >>> def sized(size: int, *, names: list[str] | None = None): ...
        >>> schema_of(sized, {}, (), {})["properties"]["size"]["anyOf"][0]
        {'type': 'integer'}
    """
    properties: Schema = {}
    rest: Any = True
    for part in inspect.getmro(made) if inspect.isclass(made) else (made,):
        try:
            parameters = signature(part).parameters
        except (TypeError, ValueError):  # of a class that is written in C
            break
        told, hints = _told(part), _hints(part)
        for name, parameter in parameters.items():
            if parameter.kind not in VARIADIC and name not in given:
                schema = value(hints.get(name, Any), nested.get(name, node), parameter.default)
                if name in told:
                    schema["description"] = told[name]
                properties.setdefault(name, schema)
        keywords = [name for name, each in parameters.items() if each.kind == each.VAR_KEYWORD]
        if not keywords:
            if part is made or part.__module__.startswith("leyden."):
                rest = False
            break
        if part is made:
            rest = value(hints.get(keywords[0], Any), node)
    first = (inspect.getdoc(made) or "").split("\n\n")[0]
    return {
        "description": " ".join(first.split()),
        "properties": properties,
        "patternProperties": {"^(_.*_|defaults)$": {}},
        "additionalProperties": rest,
    }


def needed(made: Any, given: Collection[str]) -> list[str]:
    """Arguments of a class or function that a configuration must have."""
    try:
        parameters = signature(made).parameters.items()
    except (TypeError, ValueError):
        return []
    return [
        n for n, each in parameters if each.default is each.empty and each.kind not in VARIADIC and n not in given
    ]


def value(hint: Any, node: Schema, default: Any = inspect.Parameter.empty) -> Schema:
    """The schema of a value of a type, with its default if there is one; an interpolation can stand for it."""
    kinds = list(_kinds(hint, node))
    if {} in kinds:
        schema: Schema = {"if": {"type": "object", "required": ["_target_"]}, "then": node}
    else:
        kinds += [{"type": "null"}] if default is None else []
        schema = {"anyOf": [*(kind for n, kind in enumerate(kinds) if kind not in kinds[:n]), LATER]}
    return {**schema, "default": default} if type(default) in PLAIN and default is not None else schema


def _kinds(hint: Any, node: Schema) -> Iterator[Schema]:
    """The schemas of the types that a hint allows; an empty one stands for anything."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    base = origin or hint
    if hint in PLAIN:
        yield {"type": PLAIN[hint]}
    elif base is typing.Literal:
        yield {"enum": list(parts)}
    elif base in (typing.Union, types.UnionType):
        for part in parts:
            yield from _kinds(part, node)
    elif base is typing.Annotated:
        yield from _kinds(parts[0], node)
    elif base is Any or not inspect.isclass(base):  # a type variable, a name that is known to a type checker only
        yield {}
    elif issubclass(base, numbers.Number):
        yield {"type": "number"}
    elif issubclass(base, collections.abc.Mapping):
        yield {"type": "object", "additionalProperties": value(parts[1], node) if len(parts) == 2 else {}}
    elif issubclass(base, list | tuple | set) or base in (collections.abc.Sequence, collections.abc.Iterable):
        items = [part for part in parts if part is not ...]
        yield {"type": "array", "items": value(typing.Union[tuple(items)], node) if items else {}}  # noqa: UP007
    else:
        if hasattr(base, "__fspath__"):
            yield {"type": "string"}
        yield node


def _hints(made: Any) -> dict[str, Any]:
    """The types of the arguments; one that names what only a type checker imports is left out."""
    function = inspect.unwrap(made.__init__ if inspect.isclass(made) else made)
    hints: dict[str, Any] = {}
    annotated = {name: each.annotation for name, each in signature(function).parameters.items()}
    for name, hint in annotated.items():
        with contextlib.suppress(Exception):  # any code can stand in a hint
            if hint is not inspect.Parameter.empty:
                hints[name] = eval(hint, function.__globals__) if isinstance(hint, str) else hint
    return hints


def _told(made: Any) -> dict[str, str]:
    """What the section "Args:" of a docstring says of each argument."""
    told: dict[str, str] = {}
    for doc in (made.__doc__, made.__init__.__doc__ if inspect.isclass(made) else None):
        for section in re.findall(r"^Args:\n((?: .*\n|\n)+)", inspect.cleandoc(doc or "") + "\n", re.M):
            indent = len(section) - len(section.lstrip(" "))
            entry = rf"^ {{{indent}}}\*{{0,2}}(\w+)(?: *\(.*?\))?: *(.*\n(?: {{{indent + 1},}}.*\n|\n)*)"
            told |= {name: " ".join(text.split()) for name, text in re.findall(entry, section, re.M)}
    return told
