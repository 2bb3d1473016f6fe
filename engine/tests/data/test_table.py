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
    rows = zip(*columns.values(), strict=True)
    with (root / name).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def table(root, train=True, **changed):
    return Table(str(root), train=train, **WHOLE | changed)


def test_each_row_is_in_one_of_the_sets(tmp_path):
    rooms = [1, 2, 3, 4, 5]
    write(tmp_path, {"rooms": rooms, "area": [10, 20, 30, 40, 50]})
    train = table(tmp_path, inputs=["rooms"])
    test = table(tmp_path, train=False, inputs=["rooms"])
    assert len(train.data) == 4
    assert len(test.data) == 1
    every = torch.cat([train.data, test.data])
    assert sorted(every[:, 0].tolist()) == rooms
    for each in (train, test):
        assert torch.equal(each.targets, 10 * each.data[:, 0])
        assert each.target_names == ["area"]
        assert each.facts == {"column_names": ["rooms"]}
    again = table(tmp_path, inputs=["rooms"])
    assert torch.equal(again.data, train.data)


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        ("10 9 -1 0", "-1 0 9 10"),
        ("10 9 x", "10 9 x"),
        ("01 1 001", "001 01 1"),
        ("٣ 3", "3 ٣"),
        (f"{10**19 + 1} {10**19}", f"{10**19} {10**19 + 1}"),
    ],
)
def test_a_class_is_its_text_and_whole_numbers_are_in_their_order(tmp_path, labels, order):
    labels = labels.split()
    write(tmp_path, {"x": range(len(labels)), "y": labels})
    made = table(tmp_path, test_file="t.csv", targets="y", classes=True)
    assert [made.classes[k] for k in made.targets] == labels
    assert made.classes == order.split()


def split_table(root, **changed):
    """The data module of a table, with all of its splits."""
    dataset = functools.partial(Table, **WHOLE | {"test_size": 0.1} | changed)
    data = small.in_memory(dataset, root=root, val_size=20, split_seed=3)
    data.setup("fit")
    data.setup("test")
    return data


def values_in(data, split):
    inputs = data.inputs(split, slice(None))
    return {*inputs.flatten().tolist()}


NEIGHBOURS = (
    "data: neighbouring rows share 84% of their values (others 2%), and the split is random"
)


@pytest.mark.parametrize(
    ("given", "gap", "line"),
    [
        ({}, 0, NEIGHBOURS),
        ({"split": "order", "gap": 8}, 8, ""),
        ({"split": "random"}, 0, ""),
    ],
)
def test_windows_of_a_series_share_no_value_across_an_ordered_split(
    tmp_path, capfd, given, gap, line
):
    series = np.random.default_rng(0).normal(size=307)
    write(tmp_path, {str(k): series[k : k + 300] for k in range(8)})
    data = split_table(tmp_path, targets="7", **given)
    err = capfd.readouterr().err
    assert err.count("\n") == bool(line)
    assert line in err
    held = values_in(data, "val") | values_in(data, "test")
    assert held.isdisjoint(values_in(data, "train")) == bool(gap)
    assert data.sizes == {"val": 20, "train": 250 - 2 * gap, "test": 30}


@pytest.fixture
def visits(tmp_path):
    """A table of 17 persons, in the order of its days; the number of a row is the target."""
    numbers = np.arange(200)
    write(
        tmp_path,
        {
            "day": np.datetime64("2026-01-01") + numbers,
            "who": numbers % 17,
            "x": np.random.default_rng(0).normal(size=200),
            "area": numbers,
        },
    )
    return tmp_path


def test_a_random_split_of_what_looks_ordered_is_said(visits, capfd):
    split_table(visits, inputs=["x"])
    line = "data: t.csv: rows look ordered by day, and the split is random"
    assert line in capfd.readouterr().err


def test_no_group_is_in_two_splits(visits, capfd):
    data = split_table(visits, inputs=["x"], group="who")
    train = data.held[True].targets
    seen = []
    for rows in (
        train[data.indices["train"]],
        train[data.indices["val"]],
        data.held[False].targets,
    ):
        assert len(rows) >= 20
        seen += (rows % 17).unique().tolist()
    assert sorted(seen) == [*range(17)]
    assert not capfd.readouterr().err
    assert table(visits, group="who", categories=["day"]).facts["column_names"] == ["day", "x"]


TEXT = "rooms,area,kind\n1,10.5,a\n2,20,b\n"
OF_KINDS = {
    "test_file": "u.csv",
    "inputs": ["rooms"],
    "targets": "kind",
    "classes": True,
    "train": False,
}
NAMES = "must have columns of different names, separated by"
# The content of a file, what is asked of it beyond `WHOLE`, and the words that refuse it.
REFUSED = [
    # What is no table.
    ("a,b\n1,2\n3,é\n".encode("latin-1"), {}, "line 3: byte 0xe9 is not UTF-8"),
    ("a,b\n1,2\n".encode("utf-16-le"), {}, "holds NUL characters"),
    ("area;b\n1;2\n", {}, "t.csv: has no column area; it has area;b"),
    ("", {}, NAMES),
    ("a\n", {}, NAMES),
    ("a,a\n1,2\n", {}, NAMES),
    # A row that lacks something.
    ('a,b\n"1"5,2\n', {}, "line 2: ',' expected after '\"'"),
    ('a,b\n1,2\n3,"4\n5,6\n', {}, "line 4: unexpected end of data"),
    ('a,b\n1,2\n"' + "3" * 140_000, {}, "t.csv, line 3: field larger than field limit"),
    ("a,b\n1,2\n3\n", {}, "line 3: has 1 values for 2 columns"),
    # A cell that is no number, in ASCII digits, of float32.
    ("rooms,area\n1,2\n1_0,4\n", {}, "column rooms is '1_0' in row 2, not a number"),
    ("rooms,area\n1,2\n1e39,4\n", {}, "column rooms is '1e39' in row 2, not a number"),
    # What is asked of it.
    (TEXT, {}, "column kind is 'a' in row 1, not a number"),
    (TEXT, {"targets": "price"}, "t.csv: has no column price; it has rooms, area, kind"),
    (TEXT, {"inputs": ["doors"]}, "has no column doors"),
    (
        TEXT,
        {"targets": ["area", "rooms"], "classes": True},
        "must be a column, or several columns of num",
    ),
    (
        TEXT,
        {"test_size": 0.99, "inputs": ["rooms"]},
        "test_size=0.99 of 2 rows leaves nothing to train on",
    ),
    (TEXT, {"file": "none.csv"}, "none.csv: can't be read (No such file or directory)"),
    (
        ",area\n1,2\n",
        {},
        "column '' is pandas' index; save without it, or select columns by inputs",
    ),
    ("area\n1\n", {}, "inputs=[]: must be at least one"),
    (
        TEXT,
        {"inputs": ["rooms", "area"]},
        "inputs=['rooms', 'area']: must be at least one, without targets=",
    ),
    (
        TEXT,
        {"categories": ["area"]},
        "inputs=['rooms', 'kind']: must be at least one, without",
    ),
    (
        "kind,area\na,1\n,2\n",
        {"categories": ["kind"]},
        "column kind is '' in row 2; must be a class or category",
    ),
    (
        TEXT,
        {"split": "group"},
        "split=group: must be random or order; group=COLUMN keeps rows",
    ),
    (TEXT, {"gap": 2}, "gap=2: leaves out rows between the parts of split=order only"),
    (
        TEXT,
        {"split": "order", "group": "kind"},
        "group=kind: whole groups are drawn at random; remove spl",
    ),
    (
        TEXT,
        {"inputs": ["rooms"], "split": "order", "gap": 1},
        "test_size=0.2 of 2 rows leaves nothing to",
    ),
    # What another table for the test set must have.
    (TEXT, OF_KINDS, "u.csv: kind is d, which t.csv does not have"),
    (
        "rooms,kind,x\n1,d,2\n",
        OF_KINDS | {"group": "kind", "targets": "rooms", "inputs": ["x"]},
        "u.csv: kind: has groups of the training set: d",
    ),
    (
        TEXT,
        OF_KINDS | {"inputs": ["area"]},
        "u.csv: has no column area; it has rooms, kind, x",
    ),
]


@pytest.mark.parametrize(("content", "asked", "message"), REFUSED)
def test_what_can_not_be_read_is_refused_in_a_line_that_names_it(tmp_path, content, asked, message):
    if isinstance(content, str):
        content = content.encode()
    (tmp_path / "t.csv").write_bytes(content)
    write(tmp_path, {"rooms": [1], "kind": ["d"], "x": [1]}, "u.csv")
    with pytest.raises((ValueError, OSError), match=re.escape(message)) as refused:
        table(tmp_path, **asked)
    assert "\n" not in str(refused.value)


def test_categories_of_training_are_columns_after_the_numbers(tmp_path, capfd):
    columns = {"kind": "bab", "x": [1.5, 2.5, 3.5], "code": [10, 9, 10], "area": [1, 2, 3]}
    write(tmp_path, columns)
    write(tmp_path, columns | {"kind": ["a", "new", "c"]}, "test.csv")
    asked = {"test_file": "test.csv", "categories": ["kind", "code"]}
    train = table(tmp_path, **asked)
    test = table(tmp_path, train=False, **asked)
    assert train.facts["column_names"] == ["kind", "x", "code"]
    assert train.facts["categories"] == {"kind": ["a", "b"], "code": ["9", "10"]}
    assert test.facts == train.facts
    assert train.data.tolist() == [[1.5, 0, 1, 0, 1], [2.5, 1, 0, 1, 0], [3.5, 0, 1, 0, 1]]
    assert test.data.tolist() == [[1.5, 1, 0, 0, 1], [2.5, 0, 0, 1, 0], [3.5, 0, 0, 0, 1]]
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    unknown = "column kind has categories that training does not have, such as 'new' (rows: 2)"
    assert f"{unknown}; their columns" in err


def test_several_targets_are_columns(tmp_path):
    write(tmp_path, {"code": [10, 9], "x": [1.5, 2.5], "area": [1, 2]})
    made = table(tmp_path, test_file="t.csv", targets=["area", "x"])
    assert made.targets.tolist() == [[1.0, 1.5], [2.0, 2.5]]


def test_a_category_of_the_test_set_alone_is_none(tmp_path):
    rows = np.random.default_rng(0).permutation(10)
    kinds = ["a"] * 10
    kinds[rows[0]] = "b"  # the row that is the test set
    write(tmp_path, {"kind": kinds, "area": range(10)})
    for train, value in ((True, 1.0), (False, 0.0)):
        made = table(tmp_path, train, test_size=0.1, categories="kind")
        assert made.categories == {"kind": ["a"]}
        assert made.data.unique().tolist() == [value]


TYPED = ("data=table", "data.dataset.file=t.csv", "model.hidden_sizes=[4]", "trainer.max_epochs=1")
PRICES = ("task=regression", "callbacks=bare", "data.dataset.targets=price")


def trained(command, root, *typed):
    run = root / "run"
    _, err = command("train", f"run_dir={run}", f"data.root={root}", *TYPED, *typed)
    return run, err


def test_predict_takes_categories_as_texts(command, tmp_path):
    write(tmp_path, {"kind": "abcabcab", "x": range(8), "price": range(8)})
    new = tmp_path / "new.csv"
    write(tmp_path, {"x": [1.5, 2], "kind": ["c", "new"]}, new.name)
    asked = ("data.dataset.categories=[kind]", "data.val_size=2")
    run, _ = trained(command, tmp_path, *PRICES, *asked)
    output = tmp_path / "o.json"
    _, err = command("predict", f"run={run}", f"table={new}", f"output={output}")
    assert "such as 'new' (rows: 1)" in err
    first, second = json.loads(output.read_text())
    assert first["kind"] == "c"
    assert first["x"] == 1.5
    assert second["kind"] == "new"
    assert second["x"] == 2.0
    german = tmp_path / "german.csv"
    german.write_bytes(b"x;kind\n1,5;a\n")
    _, err = command("predict", f"run={run}", f"table={german}", code=2)
    assert re.fullmatch(f"leyden: table: {german}.*\n", err)


def test_a_run_whose_record_has_no_keys_of_a_split_resumes_with_the_same_rows(command, tmp_path):
    write(tmp_path, {"x": range(40), "price": range(40)})
    asked = (*PRICES, "data.val_size=5", "test=false")
    directory, _ = trained(command, tmp_path, *asked)
    run = Run(directory)
    config = run.config
    for key in ("split", "gap", "group"):
        del config["data"]["dataset"][key]
    records.put(directory, config=config)
    trained(command, tmp_path, *asked, "trainer.max_epochs=2")
    assert run.result.epochs == 2
    assert len(run.starts) == 2
    _, err = command("train", f"run_dir={directory}", "data.dataset.split=order", code=2)
    differ = "holds a run with different settings: data.dataset.split: None there, 'order' here"
    assert differ in err


def test_predict_shows_the_first_rows_with_the_truth_beside_the_prediction(command, tmp_path):
    columns = {f"x{n}": range(30) for n in range(9)}
    prices = [0.5 * n for n in range(30)]
    write(tmp_path, columns | {"price": prices, "kind": "ab" * 15})
    asked = (
        "data.val_size=5",
        "data.dataset.split=random",
        f"data.dataset.inputs=[{','.join(columns)}]",
    )
    run, _ = trained(command, tmp_path, *PRICES, *asked)
    predicting = ("predict", f"run={run}", f"table={tmp_path / 't.csv'}")
    output = tmp_path / "o.json"
    out, _ = command(*predicting, f"output={output}")
    head, *rows, last = out.splitlines()
    assert head.split() == ["x0", "x1", "x2", "x3", "true", "price", "predicted", "price"]
    assert len(rows) == 20
    assert rows[3].split()[4] == "1.5"
    assert last == "10 further rows and 5 further columns are not shown; output=FILE.csv writes all"
    every = json.loads(output.read_text())
    assert [row["true price"] for row in every] == prices
    assert {*columns} < {*every[0]}
    shutil.rmtree(run)
    trained(command, tmp_path, "data.dataset.targets=kind", "data.dataset.classes=true", *asked)
    out, _ = command(*predicting)
    head = out.splitlines()[0]
    assert head.split() == ["x0", "x1", "x2", "x3", "true", "kind", "class", "probability"]


def test_classes_of_rows_have_no_pictures_of_images_and_no_column_has_the_predictions_name(
    command, tmp_path
):
    write(tmp_path, {"class": range(40), "x": range(40), "y": "ab" * 20})
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


ENCODINGS = ["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "latin-1", "cp1252"]


def as_csv(rng, rows):
    """The bytes of a CSV, and whether it is one that must be read."""
    separator = rng.choice([",", ",", ",", ",", ";", "\t", "|"])
    quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    end = rng.choice(["\n", "\r\n"])
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=end)
    for row in rows:
        writer.writerow([cell.replace("\0", "\ue000") for cell in row])  # Python 3.10 writes no NUL
    text = file.getvalue().replace("\ue000", "\0")
    encoding = rng.choice(ENCODINGS)
    try:
        content = text.encode(encoding)
    except UnicodeEncodeError:  # Latin-1 has no such letter
        encoding = "utf-8"
        content = text.encode()
    is_utf_8 = content == text.encode() or encoding == "utf-8-sig"
    return content, is_utf_8 and separator == ","


def read(root, file, *, classes):
    """The numbers and targets of a table's rows, as they lie in it."""
    asked = {"file": file, "test_size": 0.4, "targets": "y", "classes": classes}
    train = table(root, inputs=["x"], **asked)
    test = table(root, train=False, inputs=["x"], **asked)
    num_test = len(test.data)
    order = np.random.default_rng(0).permutation(num_test + len(train.data))
    places = np.concatenate([np.sort(order[num_test:]), np.sort(order[:num_test])])
    rows = np.argsort(places)
    x = torch.cat([train.data[:, 0], test.data[:, 0]])[rows]
    y = torch.cat([train.targets, test.targets])[rows]
    if classes:
        return x.tolist(), [train.classes[k] for k in y]
    return x.tolist(), y.tolist()


def number(cell):
    """A cell as a number, by another reader than the one that is tested; None for none."""
    if not NUMBER.fullmatch(cell):
        return None
    with np.errstate(over="ignore"):
        found = np.float32(np.float64(cell))
    return float(found) if np.isfinite(found) else None


def test_a_table_is_read_right_or_refused_in_a_line_that_names_it(tmp_path, drawn):
    for _ in range(300):
        num = drawn.randint(2, 6)
        cells = GOOD if drawn.random() < 0.7 else GOOD + ODD
        x = drawn.choices(cells, k=num)
        numbers = [number(cell) for cell in x]
        classes = drawn.random() < 0.6
        if classes:
            y = drawn.choices(LABELS, k=num)
            targets = [cell or None for cell in y]
        else:
            y = drawn.choices(cells, k=num)
            targets = [number(cell) for cell in y]
        content, must_be_read = as_csv(drawn, [("x", "y"), *zip(x, y, strict=True)])
        file = "t.txt" if drawn.random() < 0.1 else "t.csv"
        is_cut = drawn.random() < 0.3
        if is_cut:
            content = content[: drawn.randrange(len(content))]
        if is_cut or file == "t.txt" or None in [*numbers, *targets]:
            must_be_read = False
        (tmp_path / file).write_bytes(content)
        print(f"{file} {content[:80]!r} {x=} {y=} {classes=} {must_be_read=}")  # shown if it fails
        try:
            found_x, found_y = read(tmp_path, file, classes=classes)
        except (ValueError, OSError) as error:
            refused = str(error)
            assert not must_be_read, refused
            assert file in refused
            assert "\n" not in refused
            continue
        # Of a file that was cut the rows before the last one are right.
        kept = len(found_x) - 1 if is_cut else num
        assert found_x[:kept] == numbers[:kept]
        assert found_y[:kept] == targets[:kept]
