import csv

import numpy as np
import pytest
import torch

from leyden.data.table import Table

COLUMNS = {"rooms": [1, 2, 3, 4, 5], "area": [10.5, 20.0, 30.0, 40.0, 50.0], "kind": ["a", "b", "a", "c", "b"]}
WHOLE = {"file": "t.csv", "test_file": None, "test_size": 0.2, "inputs": None, "targets": "area", "classes": False}


def write(root, columns, name="t.csv"):
    if name.endswith(".npz"):
        np.savez(root / name, **{key: np.array(values) for key, values in columns.items()})
        return
    if name.endswith(".parquet"):
        pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install -e '.[parquet]'")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(columns), root / name)
        return
    with (root / name).open("w", newline="") as file:
        csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])


def table(root, train=True, **changed):
    return Table(str(root), train=train, **{**WHOLE, **changed})


@pytest.mark.parametrize("file", ["t.csv", "t.npz", "t.parquet"])
def test_each_row_is_in_one_of_the_sets(tmp_path, file):
    write(tmp_path, COLUMNS, file)
    sets = [table(tmp_path, train, file=file, inputs=["rooms"]) for train in (True, False)]
    assert sorted(torch.cat([each.data for each in sets])[:, 0].tolist()) == [1, 2, 3, 4, 5]
    assert [len(each.data) for each in sets] == [4, 1]
    for each in sets:
        assert torch.equal(each.targets, torch.tensor([COLUMNS["area"][int(n) - 1] for n in each.data[:, 0]]))
        assert (each.target_names, each.facts) == (["area"], {"column_names": ["rooms"]})
    assert torch.equal(table(tmp_path, file=file, inputs=["rooms"]).data, sets[0].data)


def test_classes_of_any_kind(tmp_path):
    write(tmp_path, COLUMNS)
    made = table(tmp_path, inputs=["rooms"], targets="kind", classes=True)
    assert made.classes == ["a", "b", "c"]
    assert [made.classes[k] for k in made.targets] == [COLUMNS["kind"][int(n) - 1] for n in made.data[:, 0]]
    whole = table(tmp_path, inputs=["area"], targets="rooms", classes=True)
    assert whole.classes == ["1", "2", "3", "4", "5"]


def test_several_numbers_and_a_test_set_of_its_own(tmp_path):
    write(tmp_path, COLUMNS)
    write(tmp_path, {key: values[:2] for key, values in COLUMNS.items()}, "u.csv")
    given = {"test_file": "u.csv", "inputs": ["rooms"], "targets": ["area", "rooms"]}
    train, test = (table(tmp_path, train, **given) for train in (True, False))
    assert (train.targets.shape, test.targets.shape) == ((5, 2), (2, 2))
    assert test.targets.tolist() == [[10.5, 1.0], [20.0, 2.0]]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, "column kind is 'a' in row 1, no number; inputs names those to take"),
        ({"targets": "price"}, "t.csv: has no column price; it has rooms, area, kind"),
        ({"inputs": ["doors"]}, "has no column doors"),
        ({"targets": ["area", "rooms"], "classes": True}, "must be a name, or several where they are no classes"),
        ({"test_size": 1.0}, "test_size=1.0: must be a part"),
        ({"file": "../t.csv"}, "must be the name of a .csv, .parquet, .npz file in root"),
        ({"file": "t.xlsx"}, "must be the name of a"),
        ({"file": "none.csv"}, "there is no none.csv"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, changed, message):
    write(tmp_path, COLUMNS)
    with pytest.raises((ValueError, OSError), match=message):
        table(tmp_path, **changed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3\n", "line 3: has 1 values for 2 columns"),
        ("a,b\n1,2\nnan,4\n", "column a is nan in row 2; must be a number"),
        ("a,b\n1,2\n,4\n", "column a is '' in row 2, no number"),
        ("", "has no row; must"),
        ("a,b\n", "has no row; must have a line of names"),
        ('a,b\n1,2\n"' + "3" * 140_000, "t.csv, line 3: field larger than field limit"),
    ],
)
def test_a_row_that_lacks_something_is_named(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        table(tmp_path, targets="b")


def test_a_class_that_training_does_not_know_is_named(tmp_path):
    write(tmp_path, COLUMNS)
    write(tmp_path, {**COLUMNS, "kind": ["d"] * 5}, "u.csv")
    with pytest.raises(ValueError, match=r"u.csv: kind is d, which t.csv does not have"):
        table(tmp_path, train=False, test_file="u.csv", inputs=["rooms"], targets="kind", classes=True)
