"""The table of a sweep: what it has of its runs, and which rows are said to be the best."""

import functools
import itertools
import json
import os
import re

import pytest
import yaml
from omegaconf import OmegaConf

from leyden import compare
from leyden import summarize as command
from leyden.config.checks import PARTS
from leyden.report.records import varying_keys
from leyden.report.summary import summarize
from leyden.run.identity import RunIdentity
from leyden.testing.contracts import compose
from tests import records

OBJECTIVE = {"metric": "val/loss", "mode": "min"}
ENDED = {
    "epochs": 3,
    "seconds": 2.0,
    "optimizer_steps": 30,
    "samples_per_second": 100.0,
    "error": None,
}
of_groups = functools.cache(compose)


@functools.cache
def composed(overrides):
    """What a run of these overrides keeps as its configuration; Hydra composes once for each choice of groups."""
    groups = [text for text in overrides if text.partition("=")[0] in PARTS]
    cfg = of_groups("optimizer.lr=0.1", *groups).copy()
    for key, _, value in (text.partition("=") for text in overrides if text not in groups):
        OmegaConf.update(cfg, key, yaml.safe_load(value))
    return RunIdentity.of(cfg, ()).saved_config


def write(
    directory,
    overrides,
    *,
    value=None,
    objective=OBJECTIVE,
    data=None,
    begun=(),
    more=(),
    status="finished",
    **ended,
):
    """A run directory as a run writes it.

    `begun` is recorded of its start, `more` are further metrics.
    """
    config = {**composed(tuple(overrides)), "objective": objective}
    result = None
    if status:
        metrics = {} if value is None else {objective["metric"]: value, **dict(more)}
        aim = {**objective, "value": value}
        result = {"status": status, "objective": aim, "metrics": metrics, **ENDED, **ended}
    start = {"overrides": overrides, "data": data, **dict(begun)}
    records.put(directory, config=config, starts=[start], result=result)


def grid(folder, losses, *typed, name="optimizer.lr", **more):
    """For each value of a setting its runs, by seed."""
    for setting, values in losses.items():
        for seed, value in enumerate(values):
            overrides = [*typed, f"{name}={setting}", f"seed={seed}"]
            write(folder / f"{setting}_{seed}", overrides, value=value, **more)


def rows(directory):
    return records.table(directory / "summary.csv")


def cells(directory, *columns):
    found = []
    for row in rows(directory):
        found.append(tuple(row[column] for column in columns))
    return found


@pytest.mark.parametrize(("averaged", "num_rows"), [(["model.hidden_sizes"], 2), ([], 4)])
def test_a_sweep_says_what_a_mean_is_over(tmp_path, averaged, num_rows):
    for size in (1, 2):
        losses = {0.01: [0.1 * size], 0.02: [0.1 * size]}
        grid(tmp_path / str(size), losses, f"model.hidden_sizes=[{size}]")
    (tmp_path / "sweep.json").write_text(json.dumps({"format": 1, "average_over": averaged}))
    summarize(tmp_path)
    found = rows(tmp_path)
    assert len(found) == num_rows
    assert not {*found[0]} & {*averaged}


def test_without_a_description_folds_are_repetitions(tmp_path):
    for fold in range(2):
        typed = ("data.num_folds=2", f"data.fold={fold}")
        grid(tmp_path / str(fold), {0.01: [0.1], 0.02: [0.2]}, *typed)
    summarize(tmp_path)
    assert cells(tmp_path, "optimizer.lr", "n") == [("0.01", "2"), ("0.02", "2")]
    assert [*of_groups("optimizer.lr=0.1").sweep.average_over] == ["seed", "data.fold"]


def test_what_nobody_has_typed_is_no_repetition(tmp_path):
    for seed in range(6):
        place = tmp_path / str(seed)
        write(place, [f"seed={seed}"], value=0.1 * seed)
        if seed > 2:  # somebody has edited a file of conf/
            config = records.config(place)
            config["optimizer"]["lr"] = 0.7
            config["data"]["root"] = f"/{seed}"  # a place
            records.put(place, config=config)
    summarize(tmp_path)
    assert cells(tmp_path, "optimizer.lr", "n") == [("0.1", "3"), ("0.7", "3")]
    assert {"data.seed", "data.root", "seed"}.isdisjoint(rows(tmp_path)[0])


def test_a_parent_per_seed_is_one_setting(tmp_path):
    for parents, seed in itertools.product("ab", range(3)):
        parent = f"init_from=/{parents}/seed-{seed}"
        typed = [f"init_from=/{parents}" r"/seed-$\{seed\}", f"seed={seed}"]
        begun = {"overrides": typed}
        write(tmp_path / f"{parents}{seed}", [parent, typed[1]], value=0.1, begun=begun)
    summarize(tmp_path)
    found = cells(tmp_path, "init_from", "n")
    assert found == [("/a/seed-${seed}", "3"), ("/b/seed-${seed}", "3")]


def test_the_table_has_what_varies_best_first_and_seeds_merged(tmp_path, capsys):
    # 0 and 0.0 are one setting.
    write(tmp_path / "a", ["optimizer.lr=0.01", "model.dropout=0"], value=0.3)
    # Of seed 1 there is one value, the mean of three; one over all four runs would be larger than c.
    for number, value in enumerate((0.4, 0.4, 0.7)):
        write(tmp_path / f"b{number}", ["optimizer.lr=0.01", "seed=1"], value=value)
    write(tmp_path / "c", ["seed=0"], value=0.425)  # the default of optimizer.lr
    error = {"type": "FloatingPointError", "message": "nan"}
    write(tmp_path / "d", ["optimizer.lr=10"], status="failed", error=error)
    write(tmp_path / "e0", ["optimizer.lr=1", "seed=0"], status="pruned", value=0.001)
    write(tmp_path / "e1", ["optimizer.lr=1", "seed=1"], status="pruned", value=0.002)
    write(tmp_path / "f", ["optimizer.lr=2"], status=None)
    write(tmp_path / "g", ["optimizer.lr=0.01", "seed=2"], status="pruned", value=0.1)
    write(tmp_path / "h", ["optimizer.lr=0.01", "seed=3"], value=float("nan"))
    (tmp_path / "code" / "conf").mkdir(parents=True)
    (tmp_path / "code" / "conf" / "config.yaml").write_text("a: 1")  # no run
    summarize(tmp_path)
    found = rows(tmp_path)
    columns = "optimizer.lr objective deviation n epochs seconds status like_best"
    assert [*found[0]] == columns.split()
    # What has finished comes first.
    assert [row["optimizer.lr"] for row in found] == ["0.01", "0.1", "1", "10", "2"]
    first = found[0]
    assert float(first["objective"]) == pytest.approx(0.4)
    assert float(first["deviation"]) == pytest.approx(0.2 / 2**0.5)
    assert first["n"] == "2"
    assert first["status"] == "4 finished, 1 pruned, 1 diverged"
    out = capsys.readouterr().out
    for said in (
        "failed: d (FloatingPointError: nan)",
        "pruned: e0",
        "diverged: h",
        "interrupted: f",
        f"leyden evaluate runs={tmp_path}",
        "Runs that repeat another one count once in n",
    ):
        assert said in out
    _, first, second, *_ = out.splitlines()
    assert first.split()[:7] == ["1", "0.01", "0.4000", "±", "0.1414", "2", "of"]
    assert second.split() == ["2", "0.1", "0.4250", "1", "3", "2", "finished"]


@pytest.fixture
def momenta(tmp_path):
    """Runs of two optimizers, of which one has a momentum, which one run has set to null."""
    for number, momentum in enumerate(("0.5", "0.9", "null")):
        typed = ["optimizer=sgd", f"optimizer.momentum={momentum}", "seed=0"]
        write(tmp_path / f"r{number}", typed, value=0.1 * (number + 1))
    write(tmp_path / "r3", ["seed=0"], value=0.4)
    return tmp_path


def test_what_a_run_does_not_have_is_a_gap_and_null_a_value(momenta, capsys):
    summarize(momenta)
    found = cells(momenta, "optimizer", "optimizer.momentum")
    assert found == [("sgd", "0.5"), ("sgd", "0.9"), ("sgd", "null"), ("", "")]
    assert "None" not in capsys.readouterr().out
    assert varying_keys([{"a": None, "b": 1}, {"b": 1}]) == ["a"]


def test_other_programs_get_the_same(called, momenta):
    found = json.loads(called(command, momenta, "format=json"))
    assert found["objective"] == OBJECTIVE
    first, _, third, last = found["rows"]
    assert third["choices"] == {"optimizer": "sgd", "optimizer.momentum": None}
    assert last["choices"] == {}
    expected = {
        "objective": 0.1,
        "deviation": None,
        "n": 1,
        "status": "finished",
        "like_best": None,
        "runs": [str(momenta / "r0")],
    }
    assert first.items() >= expected.items()


def test_a_search_may_be_looked_at_in_a_browser(called, momenta):
    (momenta / "study.journal").touch()
    line = "The search in a browser, after pip install optuna-dashboard: optuna-dashboard"
    assert f"{line} {momenta}/study.journal" in called(command, momenta)


DATA = [  # overrides of two data sets, the digests of their content, and the key that tells them apart
    ("data=mnist", "data=fashion_mnist", (None, None), "data"),
    ("data.val_size=1000", "data.val_size=5000", (None, None), "data.val_size"),
    ("data.root=/a", "data.root=/b", ({"x.csv": "1"}, {"x.csv": "2"}), "data.digest"),
]


@pytest.mark.parametrize(("a", "b", "digests", "key"), DATA)
def test_rows_of_different_data_are_ranked_apart_and_not_compared(
    called, tmp_path, capsys, a, b, digests, key
):
    """An easy and a difficult data set."""
    for place, (typed, digest, worse) in enumerate(zip((a, b), digests, (0.0, 1.0), strict=True)):
        losses = {}
        for lr in (0.1, 0.2):
            losses[lr] = [worse + lr + 0.1 + 0.01 * seed**2 * lr for seed in range(3)]
        grid(tmp_path / str(place), losses, typed, data=digest)
    summarize(tmp_path)
    out = " ".join(capsys.readouterr().out.split())
    found = cells(tmp_path, "optimizer.lr", "n", "like_best")
    assert found == [("0.1", "3", "yes"), ("0.2", "3", "no")] * 2
    assert f"Rows of different data are not compared: they differ in {key}." in out
    best = r"With 95 % confidence the best setting of rows (\d) to (\d) is row (\d)\."
    assert re.findall(best, out) == [("1", "2", "1"), ("3", "4", "3")]
    assert out.count("The test evaluation of all") == 2
    assert " row=3" in out
    said = "Add data sets: 2 have all settings, and a ranking takes 6."
    assert said not in out
    assert said in called(command, ".", "over=data")
    # Run by run there are verdicts on one data set alone.
    sides = ("a=optimizer.lr=0.1", "b=optimizer.lr=0.2")
    refused = f"runs of different data can't be compared; these differ in {key}: choose runs of one"
    assert refused in called(compare, ".", *sides)
    of_one = [f"{side} and objective<0.6" for side in sides]
    assert "96.25 % interval" in called(compare, ".", *of_one)


def test_settings_are_ranked_over_data_sets(called, tmp_path):
    """The worst one has the best mean over all runs, by one data set."""
    losses = {0.1: (0.2, 0.3), 0.2: (0.3, 0.4), 0.3: (0.4, 0.5)}
    for data, size in itertools.product(("fashion_mnist", "mnist"), (1000, 2000, 3000)):
        if (data, size) == ("mnist", 3000):
            losses[0.3] = (-9.0, -8.0)
        grid(tmp_path / f"{data}{size}", losses, f"data={data}", f"data.val_size={size}")
    out = called(command, tmp_path, "over=data")
    ranks = re.findall(r"mean rank (\S+)( ≈)?: optimizer.lr=(\S+)", out)
    assert ranks == [("1.17", "", "0.1"), ("2.17", " ≈", "0.2"), ("2.67", "", "0.3")]
    assert "Over 6 data sets, mean ranks closer than 1.42 can't be told apart" in out
    assert "over data,1," in (tmp_path / "looks.csv").read_text()
    found = [row["optimizer.lr"] for row in rows(tmp_path)]
    assert found == ["0.1", "0.2", "0.3"] * 5 + ["0.3", "0.1", "0.2"]


SAME = {"x": "1"}
DRAWN = [{"drawn": "0"}, {"drawn": "1"}, {"drawn": "2"}]
SAME_DATA = [  # overrides of two settings, and for each the digests of the data, by seed
    # The folder may be a copy on another machine; its content is the same.
    ("data.root=/a", "data.root=/b", [SAME] * 3, [SAME] * 3),
    ("data.normalize=unit", "data.normalize=standardize", [None] * 3, [None] * 3),
    ("optimizer.lr=64", "optimizer.lr=128", [SAME] * 3, [None] * 3),
    ("optimizer.lr=64", "optimizer.lr=128", DRAWN, DRAWN),
]


@pytest.mark.parametrize(("good", "bad", "of_good", "of_bad"), SAME_DATA)
def test_rows_are_ranked_together_where_they_leave_what_is_measured(
    called, tmp_path, good, bad, of_good, of_bad
):
    for seed, loss in enumerate((0.2, 0.21, 0.24)):
        typed = [good, "data.batch_size=64", f"seed={seed}"]
        write(tmp_path / f"good{seed}", typed, value=loss, data=of_good[seed])
        typed = [bad, "data.batch_size=128", f"seed={seed}"]
        write(tmp_path / f"bad{seed}", typed, value=loss + 0.1, data=of_bad[seed])
    out = called(command, tmp_path)
    assert "different data" not in out
    assert ("Each seed has data of its own" in out) == (of_good == DRAWN)
    assert cells(tmp_path, "n", "like_best") == [("3", "yes"), ("3", "no")]


def test_rows_that_may_be_the_best_are_marked_and_looks_are_counted(tmp_path, capsys, monkeypatch):
    losses = {
        1: (0.3, 0.4, 0.5, 0.6),
        2: (0.31, 0.38, 0.52, 0.6),
        3: (1.3, 1.4, 1.6, 1.5),
        4: (2.0,),
    }
    for num_seeds in range(1, 5):
        grid(tmp_path, {setting: values[:num_seeds] for setting, values in losses.items()})
        summarize(tmp_path)
        summarize(tmp_path)  # the same runs are the same look
        said = capsys.readouterr().out
        assert ("Look " in said) == (num_seeds == 4)
        if num_seeds == 3:
            assert "0.4033 ± 0.1069 ≈" in said
            assert said.count("of those with 3 runs is row 1 or one marked ≈.") == 2
    assert [row["like_best"] for row in rows(tmp_path)] == ["yes", "yes", "no", ""]
    look = "Look 2 at these settings (looks.csv): it spends 0.62 % of the 5 % error rate."
    assert said.count(look) == 2
    write(tmp_path / "running", ["optimizer.lr=1", "seed=9"], status=None)
    monkeypatch.setattr("leyden.report.records.is_held", lambda directory: True)
    summarize(tmp_path)
    assert "Runs queued or running: 1. Which rows may be the best" in capsys.readouterr().out
    looks = records.table(tmp_path / "looks.csv")
    assert [row["comparison"] for row in looks] == ["summary", "summary"]
    assert [row["look"] for row in looks] == ["1", "2"]
    assert [row["runs"] for row in looks] == ["9", "12"]


def test_nothing_is_written_to_a_folder_of_another_person_nor_to_what_is_linked_to(
    called, tmp_path
):
    grid(tmp_path / "s", {1: (0.3, 0.4, 0.5), 2: (1.3, 1.4, 1.6)})
    sides = ("s", "a=optimizer.lr=1", "b=optimizer.lr=2")
    for path in (tmp_path / "s").iterdir():
        records.put(path, is_own=False)
    before = sorted(tmp_path.rglob("*"))
    for verb, arguments in ((command, ("s",)), (command, ("s", "format=json")), (compare, sides)):
        assert "since none of these runs is signed with your key" in called(verb, *arguments)
    assert sorted(tmp_path.rglob("*")) == before
    grid(tmp_path / "s", {3: (0.3,)})  # one of one's own there
    (tmp_path / "mine").write_text("mine")
    for name in ("summary.csv", f"summary.csv.{os.getpid()}.tmp"):
        (tmp_path / "s" / name).symlink_to(tmp_path / "mine")
    assert "written: s/summary.csv" in called(command, "s")
    called(compare, *sides)
    assert len((tmp_path / "s" / "looks.csv").read_text().splitlines()) == 3
    assert (tmp_path / "mine").read_text() == "mine"
    assert {path.name for path in (tmp_path / "s").glob("*.*")} == {"looks.csv", "summary.csv"}
    assert not any(path.is_symlink() for path in (tmp_path / "s").iterdir())


DAMAGED = [
    *itertools.product(("run.json", "job.json"), (b"", b"3", b"\xff\x00", None)),
    ("run.json", b'{"a": '),
    ("job.json", b'[{"overrides": 3}]'),
    ("metrics.csv", b"\xff\x00"),
]


@pytest.mark.parametrize("status", ["finished", None])
@pytest.mark.parametrize(("name", "content"), DAMAGED)
def test_a_run_that_is_damaged_is_named_and_stops_nothing(tmp_path, capsys, status, name, content):
    """The record's own fields are in `run/test_record.py`."""
    write(tmp_path / "a", ["optimizer.lr=0.01"], value=0.3)
    write(tmp_path / "b", ["optimizer.lr=1"], value=0.2, status=status)
    path = tmp_path / "b" / name
    path.unlink(missing_ok=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    summarize(tmp_path)
    err = capsys.readouterr().err
    found = rows(tmp_path)
    assert "0.3" in [row["objective"] for row in found]
    assert err.count("\n") == (len(found) == 1)
    assert not err or err.startswith(f"leyden: skipped: {tmp_path / 'b'} can't be read (")
