"""Public names: what a project may name."""

import ast
import importlib
import inspect
import re

import pytest

from leyden.base.paths import LIBRARY
from tests import ENGINE, ROOT

DOORS = [
    "leyden",
    *(
        f"leyden.{name}"
        for name in [
            "callbacks",
            "data",
            "exact",
            "loggers",
            "pictures",
            "run",
            "sweep",
            "tasks",
            "verdict",
        ]
    ),
]
MODULES = ["leyden.testing.contracts"]  # of which a project imports all
PUBLIC = {f"{door}.{name}" for door in DOORS for name in importlib.import_module(door).__all__}


def yaml_targets():
    """Each `_target_` of the library's that a config file, or a template of one, names, with the file."""
    folders = [ROOT / "conf", LIBRARY / "conf", LIBRARY / "scaffold" / "templates"]
    for path in (path for folder in folders for path in folder.rglob("*.yaml")):
        for name in re.findall(r"_target_: *(leyden\.[\w.]+)", path.read_text()):
            yield path, name


def imported_names():
    """Each name of the library's that the template or a page imports, with the file."""
    for folder in ("src", "tests", "scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            yield from ((path, name) for name in names_in(path.read_text()))
    for path in (LIBRARY / "scaffold" / "templates").glob("*.txt"):
        lines = re.findall(r"^from leyden.*$", path.read_text().replace("$imports", "Task"), re.M)
        yield from ((path, name) for name in names_in("\n".join(lines)))
    for path in [*(ENGINE / "docs").glob("*.md"), ROOT / "README.md", ROOT / "AGENTS.md"]:
        for block in re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S):
            yield from ((path, name) for name in names_in(block))


def names_in(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "leyden":
            star = [node.module] if node.names[0].name == "*" else []
            yield from star or [f"{node.module}.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("leyden"))


def test_what_a_project_names_is_public():
    named = [*yaml_targets(), *imported_names()]
    assert len(named) > 40
    for path, name in named:
        assert name in (*PUBLIC, *DOORS, *MODULES), f"{path}: {name}"


@pytest.mark.parametrize("door", DOORS)
def test_public_names_are_sorted_there_and_explained(door):
    module = importlib.import_module(door)
    assert module.__all__ == sorted(
        module.__all__, key=lambda name: (name.islower(), not name.isupper(), name)
    )
    assert "    " in module.__doc__ or "\n\n" in module.__doc__  # an example, or a paragraph
    for name in set(module.__all__) - {"__version__"}:
        assert inspect.getdoc(getattr(module, name)), name
    with pytest.raises(AttributeError, match=f"module '{door}' has no attribute 'no'"):
        module.no  # noqa: B018


def test_a_public_name_that_goes_has_a_line_in_the_changelog():
    """The list is that of the last release; a release writes it anew."""
    released = {*(ENGINE / "tests" / "public_names.txt").read_text().split()}
    changelog = (ENGINE / "CHANGELOG.md").read_text()
    assert len(released) > 50
    assert [name for name in sorted(released - PUBLIC) if f"`{name}`" not in changelog] == []
