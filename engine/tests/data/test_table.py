import csv
import functools
import io
import json
import re
import shutil

import numpy as np
import pytest
import torch

from leyden.data.table import Table
from leyden.run.directory import Run
from tests import records
from tests.data import small

WHOLE = {
    "file": "t.csv",
    "test_file": None,
    "test_size": 0.2,
    "inputs": None,
    "targets": "area",
    "classes": False,
}


def write(root, columns, name="t.csv"):
    with (root / name).open("w", newline="") as file:
        csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])


def table(root, train=True, **changed):
    return Table(str(root), train=train, **{**WHOLE, **changed})


def test_each_row_is_in_one_of_the_sets(tmp_path):
    areas = [10.5, 20.0, 30.0, 40.0, 50.0]
    write(tmp_path, {"rooms": [1, 2, 3, 4, 5], "area": areas, "kind": list("abacb")})
    sets = [table(tmp_path, train, inputs=["rooms"]) for train in (True, False)]
    assert sorted(torch.cat([each.data for each in sets])[:, 0].tolist()) == [1, 2, 3, 4, 5]
    assert [len(each.data) for each in sets] == [4, 1]
    for each in sets:
        assert torch.equal(each.targets, torch.tensor([areas[int(n) - 1] for n in each.data[:, 0]]))
        assert (each.target_names, each.facts) == (["area"], {"column_names": ["rooms"]})
    assert torch.equal(table(tmp_path, inputs=["rooms"]).data, sets[0].data)


def test_a_class_is_its_text_and_whole_numbers_are_in_their_order(tmp_path):
    orders = {"10 9 -1 0": "-1 0 9 10", "10 9 x": "10 9 x", "01 1 001": "001 01 1", "٣ 3": "3 ٣"}
    orders["12345678901234567891 12345678901234567890"] = (
        "12345678901234567890 12345678901234567891"
    )
    for labels, order in orders.items():
        labels = labels.split()
        write(tmp_path, {"x": range(len(labels)), "y": labels})
        write(tmp_path, {"x": [0.0], "y": labels[:1]}, "test.csv")
        made = table(tmp_path, test_file="test.csv", targets="y", classes=True)
        assert [made.classes[k] for k in made.targets] == labels
        assert made.classes == order.split()


def split_table(root, **changed):
    """The data module of a table, with all of its splits."""
    dataset = functools.partial(Table, **{**WHOLE, "test_size": 0.1, **changed})
    data = small.in_memory(dataset, root=root, val_size=20, split_seed=3)
    data.setup("fit")
    data.setup("test")
    return data


def values_in(data, split):
    return set(data.inputs(split, slice(None)).flatten().tolist())


ORDER = {"split": "order", "gap": 8}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"targets": "7"},
            "data: neighbouring rows share 84% of their values (others 2%), and the split is random",
        ),
        ({"targets": "7", **ORDER}, ""),
        ({"targets": "7", "split": "random"}, ""),
    ],
)
def test_windows_of_a_series_share_no_value_across_an_ordered_split(tmp_path, capfd, given, line):
    series = np.random.default_rng(0).normal(size=307)
    write(tmp_path, {str(k): series[k : k + 300] for k in range(8)})
    data = split_table(tmp_path, **given)
    err = capfd.readouterr().err
    assert err.count("\n") == bool(line)
    assert line in err
    shared = [len(values_in(data, split) & values_in(data, "train")) for split in ("val", "test")]
    assert (shared == [0, 0]) == ("gap" in given)
    assert data.sizes == {"val": 20, "train": 270 - 20 - given.get("gap", 0) * 2, "test": 30}


def test_a_time_is_said_and_no_group_is_in_two_splits(tmp_path, capfd):
    days = [f"2026-{1 + n // 28:02d}-{1 + n % 28:02d}" for n in range(200)]
    who, x = [f"p{n % 17}" for n in range(200)], np.random.default_rng(0).normal(size=200)
    write(tmp_path, {"day": days, "who": who, "x": x, "area": range(200)})
    split_table(tmp_path, inputs=["x"])
    assert (
        "data: t.csv: rows look ordered by day, and the split is random" in capfd.readouterr().err
    )
    data = split_table(tmp_path, inputs=["x"], group="who")
    held = {split: data.held[True].targets[data.indices[split]] for split in ("train", "val")}
    held["test"] = data.held[False].targets
    groups = [{*(rows % 17).tolist()} for rows in held.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 17
    assert [len(held[split]) >= 20 for split in ("val", "test")] == [True, True]
    assert not capfd.readouterr().err
    assert table(tmp_path, group="who", categories=["day"]).facts["column_names"] == ["day", "x"]


TEXT = "a,b\n1,2\n3,é\n"
WHOLE_TEXT = "rooms,area,kind\n1,10.5,a\n2,20,b\n"
KINDS_TEXT = "rooms,kind,x\n1,d,2\n"
A_ROW = "rooms,area\n1,2\n{},4\n"
OF_KINDS = {
    "test_file": "u.csv",
    "inputs": ["rooms"],
    "targets": "kind",
    "classes": True,
    "train": False,
}
# The content of a file, what is asked of it beyond `WHOLE`, and the words that refuse it.
REFUSED = [
    # What is no table.
    (TEXT.encode("latin-1"), {}, "line 3: byte 0xe9 is not UTF-8"),
    ("a,b\n1,2\n".encode("utf-16-le"), {}, "holds NUL characters"),
    ("area;b\n1;2\n", {}, "t.csv: has no column area; it has area;b"),
    *(
        (text, {}, "must have columns of different names, separated by")
        for text in ("", "a\n", "a,a\n1,2\n")
    ),
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
    (
        WHOLE_TEXT,
        {"targets": ["area", "rooms"], "classes": True},
        "must be a column, or several columns of num",
    ),
    (
        WHOLE_TEXT,
        {"test_size": 0.99, "inputs": ["rooms"]},
        "test_size=0.99 of 2 rows leaves nothing to train on",
    ),
    (WHOLE_TEXT, {"file": "none.csv"}, "none.csv: can't be read (No such file or directory)"),
    (
        ",area\n1,2\n",
        {},
        "column '' is pandas' index; save without it, or select columns by inputs",
    ),
    ("area\n1\n", {}, "inputs=[]: must be at least one"),
    (
        WHOLE_TEXT,
        {"inputs": ["rooms", "area"]},
        "inputs=['rooms', 'area']: must be at least one, without targets=",
    ),
    (
        WHOLE_TEXT,
        {"categories": ["area"]},
        "inputs=['rooms', 'kind']: must be at least one, without",
    ),
    (
        "kind,area\na,1\n,2\n",
        {"categories": ["kind"]},
        "column kind is '' in row 2; must be a class or category",
    ),
    (
        WHOLE_TEXT,
        {"split": "group"},
        "split=group: must be random or order; group=COLUMN keeps rows",
    ),
    (WHOLE_TEXT, {"gap": 2}, "gap=2: leaves out rows between the parts of split=order only"),
    (
        WHOLE_TEXT,
        {"split": "order", "group": "kind"},
        "group=kind: whole groups are drawn at random; remove spl",
    ),
    (
        WHOLE_TEXT,
        {"inputs": ["rooms"], "split": "order", "gap": 1},
        "test_size=0.2 of 2 rows leaves nothing to",
    ),
    # What another table for the test set must have.
    (WHOLE_TEXT, OF_KINDS, "u.csv: kind is d, which t.csv does not have"),
    (
        KINDS_TEXT,
        {**OF_KINDS, "group": "kind", "targets": "rooms", "inputs": ["x"]},
        "u.csv: kind: has groups of the training set: d",
    ),
    (
        WHOLE_TEXT,
        {**OF_KINDS, "inputs": ["area"]},
        "u.csv: has no column area; it has rooms, kind, x",
    ),
]


@pytest.mark.parametrize(("content", "asked", "message"), REFUSED)
def test_what_can_not_be_read_is_refused_in_a_line_that_names_it(tmp_path, content, asked, message):
    (tmp_path / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    write(tmp_path, {"rooms": [1], "kind": ["d"], "x": [1]}, "u.csv")
    with pytest.raises((ValueError, OSError), match=re.escape(message)) as refused:
        table(tmp_path, **asked)
    assert "\n" not in str(refused.value)


def test_categories_of_training_are_columns_after_the_numbers(tmp_path, capfd):
    columns = {
        "kind": ["b", "a", "b"],
        "x": [1.5, 2.5, 3.5],
        "code": [10, 9, 10],
        "area": [1.0, 2.0, 3.0],
    }
    write(tmp_path, columns)
    write(tmp_path, {**columns, "kind": ["a", "new", "c"]}, "test.csv")
    asked = {"test_file": "test.csv", "categories": ["kind", "code"]}
    train, test = table(tmp_path, **asked), table(tmp_path, train=False, **asked)
    categories = {"kind": ["a", "b"], "code": ["9", "10"]}
    assert (
        train.facts
        == test.facts
        == {"column_names": ["kind", "x", "code"], "categories": categories}
    )
    several = {"targets": ["area", "x"], "inputs": ["code"], "test_file": "test.csv"}
    assert table(tmp_path, train=False, **several).targets.tolist() == [
        [1.0, 1.5],
        [2.0, 2.5],
        [3.0, 3.5],
    ]
    assert train.data.tolist() == [[1.5, 0, 1, 0, 1], [2.5, 1, 0, 1, 0], [3.5, 0, 1, 0, 1]]
    assert test.data.tolist() == [[1.5, 1, 0, 0, 1], [2.5, 0, 0, 1, 0], [3.5, 0, 0, 0, 1]]
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert (
        "column kind has categories that training does not have, such as 'new' (rows: 2); their columns"
        in err
    )
    alone = np.random.default_rng(0).permutation(10)[
        0
    ]  # the row that is the test set has a category of its own
    write(
        tmp_path, {"kind": ["b" if row == alone else "a" for row in range(10)], "area": range(10)}
    )
    held = [table(tmp_path, train, test_size=0.1, categories="kind") for train in (True, False)]
    assert held[0].categories == held[1].categories == {"kind": ["a"]}
    assert [each.data.unique().tolist() for each in held] == [[1.0], [0.0]]


def trained(command, root, *typed):
    few = (
        "data=table",
        "model.hidden_sizes=[4]",
        "trainer.max_epochs=1",
        "data.dataset.file=t.csv",
    )
    _, err = command("train", f"run_dir={root / 'run'}", *few, f"data.root={root}", *typed)
    return root / "run", err


def test_predict_takes_categories_as_texts(command, tmp_path):
    write(tmp_path, {"kind": list("abcabcab"), "x": range(8), "price": [1, 2, 3, 1, 2, 3, 1, 2]})
    write(tmp_path, {"x": [1.5, 2], "kind": ["c", "new"]}, "new.csv")
    asked = ("data.dataset.targets=price", "data.dataset.categories=[kind]", "data.val_size=2")
    run, _ = trained(command, tmp_path, "task=regression", "callbacks=bare", *asked)
    output, german = tmp_path / "o.json", tmp_path / "german.csv"
    german.write_bytes(b"x;kind\n1,5;a\n")
    _, err = command("predict", f"run={run}", f"table={tmp_path / 'new.csv'}", f"output={output}")
    assert "such as 'new' (rows: 1)" in err
    assert [(row["kind"], row["x"]) for row in json.loads(output.read_text())] == [
        ("c", 1.5),
        ("new", 2.0),
    ]
    _, err = command("predict", f"run={run}", f"table={german}", code=2)
    assert re.fullmatch(f"leyden: table: {german}.*\n", err)


def test_a_run_whose_record_has_no_keys_of_a_split_resumes_with_the_same_rows(command, tmp_path):
    write(tmp_path, {"x": range(40), "price": [n % 7 for n in range(40)]})
    asked = (
        "task=regression",
        "callbacks=bare",
        "data.dataset.targets=price",
        "data.val_size=5",
        "test=false",
    )
    run = Run(trained(command, tmp_path, *asked)[0])
    config = run.config
    for key in ("split", "gap", "group"):
        del config["data"]["dataset"][key]
    records.put(run.directory, config=config)
    trained(command, tmp_path, *asked, "trainer.max_epochs=2")
    assert (run.result.epochs, len(run.starts)) == (2, 2)
    _, err = command("train", f"run_dir={run.directory}", "data.dataset.split=order", code=2)
    assert (
        "holds a run with different settings: data.dataset.split: None there, 'order' here" in err
    )


def test_predict_shows_the_first_rows_with_the_truth_beside_the_prediction(command, tmp_path):
    columns = {f"x{n}": range(30) for n in range(9)}
    write(tmp_path, {**columns, "price": [0.5 * n for n in range(30)], "kind": list("ab") * 15})
    inputs, output = (
        ("data.val_size=5", f"data.dataset.inputs=[{','.join(columns)}]"),
        tmp_path / "o.json",
    )
    asked = (
        "task=regression",
        "callbacks=bare",
        "data.dataset.split=random",
        "data.dataset.targets=price",
    )
    run, _ = trained(command, tmp_path, *asked, *inputs)
    out, _ = command("predict", f"run={run}", f"table={tmp_path / 't.csv'}", f"output={output}")
    head, *rows, last = out.splitlines()
    assert head.split() == ["x0", "x1", "x2", "x3", "true", "price", "predicted", "price"]
    assert (len(rows), rows[3].split()[4]) == (20, "1.5")
    assert last == "10 further rows and 5 further columns are not shown; output=FILE.csv writes all"
    every = json.loads(output.read_text())
    assert [row["true price"] for row in every] == [0.5 * n for n in range(30)]
    assert {*columns} < {*every[0]}
    shutil.rmtree(run)
    asked = ("data.dataset.split=random", "data.dataset.targets=kind", "data.dataset.classes=true")
    trained(command, tmp_path, *asked, *inputs)
    out, _ = command("predict", f"run={run}", f"table={tmp_path / 't.csv'}")
    assert out.splitlines()[0].split() == [
        "x0",
        "x1",
        "x2",
        "x3",
        "true",
        "kind",
        "class",
        "probability",
    ]


def test_classes_of_rows_have_no_pictures_of_images_and_no_column_has_the_predictions_name(
    command, tmp_path
):
    write(tmp_path, {"class": range(40), "x": range(40), "y": list("ab") * 20})
    asked = ("data.dataset.targets=y", "data.dataset.classes=true", "data.val_size=9")
    run, err = trained(command, tmp_path, *asked)
    assert "failed" not in err
    assert {path.name for path in run.glob("*.png")} == {"curves.png", "confusion.png"}
    _, err = command("predict", f"run={run}", f"table={tmp_path / 't.csv'}", code=2)
    assert "has a column class, which is the name of the prediction" in err


GOOD = "1 -2.5 +3 .5 5. 1e3 2E-1 007 0.1 123456789 -0 9007199254740993"
ODD = "1_0 ٣ １ nan inf 1e39 1e400 1e 1,5 1.234,5 0x10 True é"
LABELS = (
    "1 01 001 10 9 a B é € 1_0 ٣ 12345678901234567890 12345678901234567891 1.0 1e0 nan True a,b a;b"
)
GOOD, ODD = [*GOOD.split(), " 3", " 4 "], [*ODD.split(), "x\x00", "", " ", "1 000"]
LABELS = [*LABELS.split(), 'say "x"', "two\nlines", " 1", ""]
NUMBER = re.compile(r" ?[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)? ?")


def as_csv(rng, rows):
    """The bytes of a CSV, and whether it is one that must be read."""
    separator = rng.choice([",", ",", ",", ",", ";", "\t", "|"])
    quoting, end = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), rng.choice(["\n", "\r\n"])
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=end)
    for row in rows:
        writer.writerow([cell.replace("\0", "\ue000") for cell in row])  # Python 3.10 writes no NUL
    encoding = rng.choice(
        ["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "latin-1", "cp1252"]
    )
    text = file.getvalue().replace("\ue000", "\0")
    try:
        content = text.encode(encoding)
    except UnicodeEncodeError:  # Latin-1 has no such letter
        content, encoding = text.encode(), "utf-8"
    return content, separator == "," and (content == text.encode() or encoding == "utf-8-sig")


def read(root, file, *, classes):
    """The numbers and targets of a table's rows, as they lie in it."""
    given = {
        "test_file": None,
        "test_size": 0.4,
        "inputs": ["x"],
        "targets": "y",
        "classes": classes,
    }
    made = [Table(str(root), train=train, file=file, **given) for train in (True, False)]
    num = len(made[1].data)
    order = np.random.default_rng(0).permutation(num + len(made[0].data))
    rows = np.argsort(np.concatenate([np.sort(order[num:]), np.sort(order[:num])]))
    x = torch.cat([each.data[:, 0] for each in made])[rows].tolist()
    y = torch.cat([each.targets for each in made])[rows].tolist()
    return x, [made[0].classes[k] for k in y] if classes else y


def number(cell):
    """A cell as a number, by another reader than the one that is tested; None for none."""
    if not NUMBER.fullmatch(cell):
        return None
    with np.errstate(over="ignore"):
        found = np.float32(np.float64(cell))
    return float(found) if np.isfinite(found) else None


def test_a_table_is_read_right_or_refused_in_a_line_that_names_it(tmp_path, drawn):
    for _ in range(300):
        num, classes = drawn.randint(2, 6), drawn.random() < 0.6
        cells = GOOD if drawn.random() < 0.7 else GOOD + ODD
        x, y = (drawn.choices(each, k=num) for each in (cells, LABELS if classes else cells))
        content, must_be_read = as_csv(drawn, [["x", "y"], *zip(x, y, strict=True)])
        expected = [*map(number, x)], [cell or None for cell in y] if classes else [*map(number, y)]
        file = "t.txt" if drawn.random() < 0.1 else "t.csv"
        length = drawn.randrange(len(content) + 1) if drawn.random() < 0.3 else len(content)
        is_cut = length < len(content)
        must_be_read &= (
            not is_cut and file == "t.csv" and all(None not in column for column in expected)
        )
        content = content[:length]
        (tmp_path / file).write_bytes(content)
        print(f"{file} {content[:80]!r} {x=} {y=} {classes=} {must_be_read=}")  # shown if it fails
        refused = ""
        try:
            found = read(tmp_path, file, classes=classes)
        except (ValueError, OSError) as error:
            refused = str(error)
        if refused:
            assert (file in refused, "\n" in refused, must_be_read) == (True, False, False), refused
            continue
        kept = (
            len(found[0]) - 1 if is_cut else num
        )  # of a file that was cut the rows before the last one are right
        assert [each[:kept] for each in found] == [each[:kept] for each in expected]
