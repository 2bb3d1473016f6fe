from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pytest

from leyden.editor.classes import LATER, required_arguments, schema_of, value_schema

NODE = {"type": "object"}
INTEGER, NUMBER, TEXT, NULL = ({"type": name} for name in ("integer", "number", "string", "null"))


@pytest.mark.parametrize(
    ("hint", "kinds"),
    [
        (int, [INTEGER]),
        (int | None, [INTEGER, NULL]),
        (float | int | float, [NUMBER, INTEGER]),
        (Literal["a", 2] | bool, [{"enum": ["a", 2]}, {"type": "boolean"}]),
        (Sequence[int], [{"type": "array", "items": {"anyOf": [INTEGER, LATER]}}]),
        (tuple[int, ...], [{"type": "array", "items": {"anyOf": [INTEGER, LATER]}}]),
        (tuple[int, str], [{"type": "array", "items": {"anyOf": [INTEGER, TEXT, LATER]}}]),
        (list, [{"type": "array", "items": {}}]),
        (Mapping[str, float], [{"type": "object", "additionalProperties": {"anyOf": [NUMBER, LATER]}}]),
        (Callable[[int], int], [NODE]),
        (type("Own", (), {}), [NODE]),
    ],
)
def test_a_type(hint, kinds):
    assert value_schema(hint, NODE) == {"anyOf": [*kinds, LATER]}


@pytest.mark.parametrize("hint", [Any, "unknown", Any | None, int | Any])
def test_anything_can_stand_where_no_type_is_known(hint):
    assert "anyOf" not in value_schema(hint, NODE)


def test_a_default_of_another_type_is_allowed():
    assert value_schema(int, NODE, None) == {"anyOf": [INTEGER, NULL, LATER]}
    assert value_schema(int, NODE, 3) == {"anyOf": [INTEGER, LATER], "default": 3}


class Base:
    """A base.

    Args:
        size (int, optional): Its size,
            in rows: columns are another matter.

        name: What it is called.
    """

    def __init__(self, size: "int" = 3, name: "Unknown" = None): ...  # noqa: F821


class Open(Base):
    """Takes what its base takes, and more.

    Args:
        *args: Not looked at.
        own: Its own.
    """

    def __init__(self, own: int, *args: Any, **kwargs: bool): ...


def test_arguments_are_told_of_and_those_of_the_bases_too():
    made = schema_of(Open, NODE, ("name",), {})
    told = {name: each.get("description") for name, each in made["properties"].items()}
    assert told == {"own": "Its own.", "size": "Its size, in rows: columns are another matter."}
    assert made["description"] == "Takes what its base takes, and more."
    assert made["properties"]["size"]["anyOf"][0] == INTEGER
    assert "anyOf" not in schema_of(Base, NODE, (), {})["properties"]["name"]
    assert required_arguments(Open, ()) == ["own"]
    assert required_arguments(Open, ("own",)) == []


def test_other_keys_are_errors_where_they_would_be():
    assert schema_of(Base, NODE, (), {})["additionalProperties"] is False
    assert schema_of(Open, NODE, (), {})["additionalProperties"] == {"anyOf": [{"type": "boolean"}, LATER]}
