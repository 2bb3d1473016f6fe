"""docs/tables/proof.csv: each recipe is in the table, and is composed by its command."""

import csv
import shlex

import hydra
import pytest

from leyden.config.hydra import composing
from tests import ENGINE, conf

with (ENGINE / "docs" / "tables" / "proof.csv").open(newline="") as file:
    ROWS = [
        (name, command.removeprefix("leyden train").strip(), number)
        for name, command, number, _ in [*csv.reader(file)][1:]
    ]


def test_each_recipe_was_made_anew():
    recipes = {path.stem for path in conf("experiment")}
    assert {name for name, *_ in ROWS} == {"default", *recipes}
    assert all(int(number) for *_, number in ROWS)


@pytest.mark.parametrize(("name", "arguments"), [row[:2] for row in ROWS])
def test_each_row_is_that_recipe(name, arguments):
    with composing():
        composed = hydra.compose("train", overrides=shlex.split(arguments), return_hydra_config=True)
    assert composed.hydra.runtime.choices.experiment == (None if name == "default" else name)
