"""The page on the note: each file that it names is there, and has in it what the page says."""

import ast
import re

import pytest
import yaml

from leyden.config.paths import ROOT
from tests.pages.commands import PAGES

TEXT = PAGES["note"].read_text()
FILES = sorted({*re.findall(r"`([\w/]+/\w+\.(?:py|yaml))`", TEXT)})
NAMED = sorted({*re.findall(r"`([\w.]+)` in\s+`([\w/]+\.(?:py|yaml))`", TEXT)})


def defined(node, prefix=""):
    """Names of the functions and classes in a module, those in a class with its name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield prefix + child.name
            yield from defined(child, f"{prefix}{child.name}.")


def keys(node):
    """Names of the keys in a YAML file, at any depth."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield key
        yield from keys(value)


@pytest.mark.parametrize("path", FILES)
def test_each_file_is_there(path):
    assert (ROOT / path).is_file()


@pytest.mark.parametrize(("name", "path"), NAMED)
def test_each_name_is_in_its_file(name, path):
    text = (ROOT / path).read_text()
    assert name in (defined(ast.parse(text)) if path.endswith(".py") else keys(yaml.safe_load(text)))


def test_no_step_is_without_its_place():
    steps = TEXT.partition("**Why")[0]
    rows = [line for line in steps.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 10
    assert all(
        any(f"`{name}` in `{path}`" in row for name, path in NAMED) for row in rows if "not needed" not in row
    )
    assert len(NAMED) > len(rows)
