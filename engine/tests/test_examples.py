"""The examples in docstrings hold."""

import doctest
import importlib

import pytest

from leyden.config.paths import LIBRARY

SRC = LIBRARY.parent
PATHS = sorted(path.relative_to(SRC) for path in SRC.rglob("*.py") if ">>> " in path.read_text())
MODULES = [".".join(path.with_suffix("").parts) for path in PATHS]


@pytest.mark.parametrize("name", MODULES)
def test_an_example_holds(name):
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.attempted
    assert not found.failed
