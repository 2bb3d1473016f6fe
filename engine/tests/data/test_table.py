"""Tables: each row in one set, cells as they are written, categories and classes, and what is refused."""

import csv
import json
import re

import numpy as np
import pytest
import torch

from leyden.data.table import Table

COLUMNS = {"rooms": [1, 2, 3, 4, 5], "area": [10.5, 20.0, 30.0, 40.0, 50.0], "kind": ["a", "b", "a", "c", "b"]}
WHOLE = {"file": "t.csv", "test_file": None, "test_size": 0.2, "inputs": None, "targets": "area", "classes": False}


def write(root, columns, name="t.csv"):
    with (root / name).open("w", newline="") as file:
        csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])


def table(root, train=True, **changed):
    return Table(str(root), train=train, **{**WHOLE, **changed})


def test_each_row_is_in_one_of_the_sets(tmp_path):
    write(tmp_path, COLUMNS)
    sets = [table(tmp_path, train, inputs=["rooms"]) for train in (True, False)]
    assert sorted(torch.cat([each.data for each in sets])[:, 0].tolist()) == [1, 2, 3, 4, 5]
    assert [len(each.data) for each in sets] == [4, 1]
    for each in sets:
        assert torch.equal(each.targets, torch.tensor([COLUMNS["area"][int(n) - 1] for n in each.data[:, 0]]))
        assert (each.target_names, each.facts) == (["area"], {"column_names": ["rooms"]})
    assert torch.equal(table(tmp_path, inputs=["rooms"]).data, sets[0].data)


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        ([10, 9, -1, 0], ["-1", "0", "9", "10"]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["01", "1", "001"], ["001", "01", "1"]),
        (["12345678901234567891", "12345678901234567890"], ["12345678901234567890", "12345678901234567891"]),
        (["٣", "3"], ["3", "٣"]),
    ],
)
def test_a_class_is_its_text_and_whole_numbers_are_in_their_order(tmp_path, labels, order):
    write(tmp_path, {"x": list(range(len(labels))), "y": labels})
    write(tmp_path, {"x": [0.0], "y": labels[:1]}, "test.csv")
    made = table(tmp_path, test_file="test.csv", targets="y", classes=True)
    assert [made.classes[k] for k in made.targets] == [*map(str, labels)]
    assert made.classes == order


TEXT = "a,b\n1,2\n3,é\n"
WHOLE_TEXT = "rooms,area,kind\n1,10.5,a\n2,20,b\n"
A_ROW = "rooms,area\n1,2\n{},4\n"
# The content of a file, what is asked of it beyond `WHOLE`, and the words that refuse it.
REFUSED = [
    # What is no table.
    (TEXT.encode("latin-1"), {}, "line 3: byte 0xe9 is not UTF-8"),
    ("a,b\n1,2\n".encode("utf-16-le"), {}, "holds NUL characters"),
    ("area;b\n1;2\n", {}, "t.csv: has no column area; it has area;b"),
    *((text, {}, "must have columns of different names, separated by") for text in ("", "a\n", "a,a\n1,2\n")),
    # A row that lacks something.
    ('a,b\n"1"5,2\n', {}, "line 2: ',' expected after '\"'"),
    ('a,b\n1,2\n3,"4\n5,6\n', {}, "line 4: unexpected end of data"),
    ('a,b\n1,2\n"' + "3" * 140_000, {}, "t.csv, line 3: field larger than field limit"),
    ("a,b\n1,2\n3\n", {}, "line 3: has 1 values for 2 columns"),
    # A cell that is no number, in ASCII digits, of float32.
    (A_ROW.format("1_0"), {}, "column rooms is '1_0' in row 2, not a number"),
    (A_ROW.format("1e39"), {}, "column rooms is '1e39' in row 2, not a number"),
    # What is asked of it.
    (WHOLE_TEXT, {}, "column kind is 'a' in row 1, not a number"),
    (WHOLE_TEXT, {"targets": "price"}, "t.csv: has no column price; it has rooms, area, kind"),
    (WHOLE_TEXT, {"inputs": ["doors"]}, "has no column doors"),
    (WHOLE_TEXT, {"targets": ["area", "rooms"], "classes": True}, "must be a column, or several columns of num"),
    (WHOLE_TEXT, {"test_size": 0.99, "inputs": ["rooms"]}, "test_size=0.99 of 2 rows leaves nothing to train on"),
    (WHOLE_TEXT, {"file": "none.csv"}, "none.csv: can't be read (No such file or directory)"),
    (",area\n1,2\n", {}, "column '' is pandas' index; save without it, or select columns by inputs"),
    ("area\n1\n", {}, "inputs=[]: must be at least one"),
    (WHOLE_TEXT, {"inputs": ["rooms", "area"]}, "inputs=['rooms', 'area']: must be at least one, without targets="),
    (WHOLE_TEXT, {"categories": ["area"]}, "inputs=['rooms', 'kind']: must be at least one, without"),
    ("kind,area\na,1\n,2\n", {"categories": ["kind"]}, "column kind is '' in row 2; must be a class or category"),
]


@pytest.mark.parametrize(("content", "asked", "message"), REFUSED)
def test_what_can_not_be_read_is_refused_in_a_line_that_names_it(tmp_path, content, asked, message):
    (tmp_path / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((ValueError, OSError), match=re.escape(message)) as refused:
        table(tmp_path, **asked)
    assert "\n" not in str(refused.value)


def test_categories_of_training_are_columns_after_the_numbers(tmp_path, capfd):
    columns = {"kind": ["b", "a", "b"], "x": [1.5, 2.5, 3.5], "code": [10, 9, 10], "area": [1.0, 2.0, 3.0]}
    write(tmp_path, columns)
    write(tmp_path, {**columns, "kind": ["a", "new", "c"]}, "test.csv")
    asked = {"test_file": "test.csv", "categories": ["kind", "code"]}
    train, test = table(tmp_path, **asked), table(tmp_path, train=False, **asked)
    categories = {"kind": ["a", "b"], "code": ["9", "10"]}
    assert train.facts == {"column_names": ["kind", "x", "code"], "categories": categories}
    assert train.facts == test.facts
    several = {"targets": ["area", "x"], "inputs": ["code"], "test_file": "test.csv"}
    assert table(tmp_path, train=False, **several).targets.tolist() == [[1.0, 1.5], [2.0, 2.5], [3.0, 3.5]]
    assert train.data.tolist() == [[1.5, 0, 1, 0, 1], [2.5, 1, 0, 1, 0], [3.5, 0, 1, 0, 1]]
    assert test.data.tolist() == [[1.5, 1, 0, 0, 1], [2.5, 0, 0, 1, 0], [3.5, 0, 0, 0, 1]]
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "column kind has categories that training does not have, such as 'new' (rows: 2); their columns" in err


def test_a_category_of_the_test_set_alone_is_none(tmp_path):
    alone = np.random.default_rng(0).permutation(10)[0]  # the row that is the test set
    write(tmp_path, {"kind": ["b" if row == alone else "a" for row in range(10)], "area": [*range(10)]})
    held = [table(tmp_path, train, test_size=0.1, categories="kind") for train in (True, False)]
    assert held[0].categories == held[1].categories == {"kind": ["a"]}
    assert [each.data.unique().tolist() for each in held] == [[1.0], [0.0]]


def test_predict_takes_categories_as_texts(command, tmp_path):
    write(tmp_path, {"kind": list("abcabcab"), "x": [*range(8)], "price": [1, 2, 3, 1, 2, 3, 1, 2]})
    write(tmp_path, {"x": [1.5, 2], "kind": ["c", "new"]}, "new.csv")
    given = ("data=table", "task=regression", "callbacks=bare", "model.hidden_sizes=[4]", "trainer.max_epochs=1")
    asked = ("data.dataset.file=t.csv", "data.dataset.targets=price", "data.dataset.categories=[kind]")
    run, output = tmp_path / "run", tmp_path / "o.json"
    command("train", f"run_dir={run}", *given, f"data.root={tmp_path}", *asked, "data.val_size=2")
    _, err = command("predict", f"run={run}", f"table={tmp_path / 'new.csv'}", f"output={output}")
    assert "such as 'new' (rows: 1)" in err
    assert [(row["kind"], row["x"]) for row in json.loads(output.read_text())] == [("c", 1.5), ("new", 2.0)]
    (tmp_path / "german.csv").write_bytes(b"x;kind\n1,5;a\n")
    _, err = command("predict", f"run={run}", f"table={tmp_path / 'german.csv'}", code=2)
    assert err.startswith(f"leyden: table: {tmp_path / 'german.csv'}")
    assert err.count("\n") == 1


def test_a_class_that_training_does_not_know_is_named(tmp_path):
    write(tmp_path, COLUMNS)
    write(tmp_path, {**COLUMNS, "kind": ["d"] * 5}, "u.csv")
    given = {"test_file": "u.csv", "inputs": ["rooms"], "targets": "kind", "classes": True}
    with pytest.raises(ValueError, match=r"u.csv: kind is d, which t.csv does not have"):
        table(tmp_path, train=False, **given)
    write(tmp_path, {"rooms": [1], "sort": ["a"]}, "u.csv")
    with pytest.raises(ValueError, match=r"u.csv: has no column kind; it has rooms, sort"):
        table(tmp_path, train=False, **given)


def test_classes_of_rows_have_no_pictures_of_images_and_no_column_has_the_predictions_name(command, tmp_path):
    write(tmp_path, {"class": [*range(40)], "x": [*range(40)], "y": list("ab") * 20})
    run, asked = tmp_path / "run", ("file=t.csv", "targets=y", "classes=true")
    given = ("data=table", f"data.root={tmp_path}", *(f"data.dataset.{each}" for each in asked), "data.val_size=9")
    _, err = command("train", f"run_dir={run}", *given, "model.hidden_sizes=[4]", "trainer.max_epochs=1")
    assert "failed" not in err
    assert {path.name for path in run.glob("*.png")} == {"curves.png", "confusion.png"}
    _, err = command("predict", f"run={run}", f"table={tmp_path / 't.csv'}", code=2)
    assert "has a column class, which is the name of the prediction" in err
