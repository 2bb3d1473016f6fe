"""docs/reproducing.md: each recipe is in the table. tests/pages has its commands."""

import re
import shlex

import hydra
import pytest

from leyden.config.hydra import composing
from tests import ENGINE, conf

TEXT = (ENGINE / "docs" / "reproducing.md").read_text()
ROWS = re.findall(r"^\| (\S+) \| `leyden train ?(.*?)` \| (\d+), to step", TEXT, re.M)


def test_each_recipe_was_made_anew():
    recipes = {path.stem for path in conf("experiment")}
    assert {name for name, *_ in ROWS} == {"default", *recipes}
    assert all(int(number) for *_, number in ROWS)


@pytest.mark.parametrize(("name", "arguments"), [row[:2] for row in ROWS])
def test_each_row_is_that_recipe(name, arguments):
    with composing():
        composed = hydra.compose("train", overrides=shlex.split(arguments), return_hydra_config=True)
    assert composed.hydra.runtime.choices.experiment == (None if name == "default" else name)
