"""docs/tables/proof.csv: each recipe is in the table."""

import csv

from tests import ENGINE, conf


def test_each_recipe_was_made_anew():
    with (ENGINE / "docs" / "tables" / "proof.csv").open(newline="") as file:
        rows = [*csv.reader(file)][1:]
    assert {row[0] for row in rows} == {"default", *(path.stem for path in conf("experiment"))}
    assert all(int(row[2]) for row in rows)
