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
    """A run directory as a run writes it; `begun` is recorded of its start, `more` are further metrics."""
    config, result = {**composed(tuple(overrides)), "objective": objective}, None
    if status:
        metrics = {} if value is None else {objective["metric"]: value, **dict(more)}
        aim = {**objective, "value": value}
        result = {"status": status, "objective": aim, "metrics": metrics, **ENDED, **ended}
    start = {"overrides": overrides, "data": data, **dict(begun)}
    records.put(directory, config=config, starts=[start], result=result)


def grid(folder, losses, *typed, name="optimizer.lr", **more):
    """For each value of a setting its runs, by seed: those that have no loss have failed."""
    for setting, values in losses.items():
        for seed, value in enumerate(values):
            ends = {"value": value, "status": "failed" if value is None else "finished"} | more
            write(
                folder / f"{setting}_{seed}", [*typed, f"{name}={setting}", f"seed={seed}"], **ends
            )


def rows(directory):
    return records.table(directory / "summary.csv")


def cells(directory, *columns):
    found = []
    for row in rows(directory):
        found.append(tuple(row[column] for column in columns))
    return found


def test_the_sweep_says_what_a_mean_is_over_and_what_nobody_has_typed_is_no_repetition(tmp_path):
    for size in (1, 2):
        grid(
            tmp_path / "s" / str(size),
            {lr: [0.1 * size] for lr in (0.01, 0.02)},
            f"model.hidden_sizes=[{size}]",
        )
    for described, num in ((["model.hidden_sizes"], 2), ([], 4)):
        (tmp_path / "s" / "sweep.json").write_text(json.dumps({"average_over": described}))
        summarize(tmp_path / "s")
        first, *others = rows(tmp_path / "s")
        assert (1 + len(others), {*first} & {*described}) == (num, set())
    for fold in range(2):  # without a description, folds are repetitions
        grid(
            tmp_path / "folds" / str(fold),
            {0.01: [0.1], 0.02: [0.2]},
            "data.num_folds=2",
            f"data.fold={fold}",
        )
    summarize(tmp_path / "folds")
    assert cells(tmp_path / "folds", "optimizer.lr", "n") == [("0.01", "2"), ("0.02", "2")]
    assert [*of_groups("optimizer.lr=0.1").sweep.average_over] == ["seed", "data.fold"]
    for seed in range(6):
        place = tmp_path / "t" / str(seed)
        write(place, [f"seed={seed}"], value=0.1 * seed)
        if seed > 2:  # somebody has edited a file of conf/
            config = records.config(place)
            config["optimizer"]["lr"], config["data"]["root"] = (
                0.7,
                f"/{seed}",
            )  # the latter is a place
            records.put(place, config=config)
    summarize(tmp_path / "t")
    assert cells(tmp_path / "t", "optimizer.lr", "n") == [("0.1", "3"), ("0.7", "3")]
    assert {*rows(tmp_path / "t")[0]} & {"data.seed", "data.root", "seed"} == set()


def test_a_parent_per_seed_is_one_setting(tmp_path):
    for seed in range(3):
        for parents in ("a", "b"):
            typed = [f"init_from=/{parents}" r"/seed-$\{seed\}", f"seed={seed}"]
            write(
                tmp_path / f"{parents}{seed}",
                [f"init_from=/{parents}/seed-{seed}", typed[1]],
                value=0.1,
                begun={"overrides": typed},
            )
    summarize(tmp_path)
    found = cells(tmp_path, "init_from", "n")
    assert found == [("/a/seed-${seed}", "3"), ("/b/seed-${seed}", "3")]


def test_the_table_has_what_varies_best_first_and_seeds_merged(tmp_path, capsys):
    write(
        tmp_path / "a", ["optimizer.lr=0.01", "model.dropout=0"], value=0.3
    )  # 0 and 0.0 are one setting
    # Of seed 1 there is one value, the mean of three; a mean over all four runs would be larger than that of c.
    for number, value in enumerate((0.4, 0.4, 0.7)):
        write(tmp_path / f"b{number}", ["optimizer.lr=0.01", "seed=1"], value=value)
    write(tmp_path / "c", ["seed=0"], value=0.425)  # the default of optimizer.lr
    error = {"type": "FloatingPointError", "message": "nan"}
    write(tmp_path / "d", ["optimizer.lr=10"], status="failed", error=error)
    for seed, value in enumerate((0.001, 0.002)):
        write(
            tmp_path / f"e{seed}", ["optimizer.lr=1", f"seed={seed}"], status="pruned", value=value
        )
    write(tmp_path / "f", ["optimizer.lr=2"], status=None)
    write(tmp_path / "g", ["optimizer.lr=0.01", "seed=2"], status="pruned", value=0.1)
    write(tmp_path / "h", ["optimizer.lr=0.01", "seed=3"], value=float("nan"))
    (tmp_path / "code" / "conf").mkdir(parents=True)
    (tmp_path / "code" / "conf" / "config.yaml").write_text("a: 1")  # no run
    summarize(tmp_path)
    found = rows(tmp_path)
    assert (
        " ".join(found[0]) == "optimizer.lr objective deviation n epochs seconds status like_best"
    )
    # What has finished comes first.
    assert [row["optimizer.lr"] for row in found] == ["0.01", "0.1", "1", "10", "2"]
    assert [float(found[0][key]) for key in ("objective", "deviation")] == pytest.approx(
        [0.4, 0.2 / 2**0.5]
    )
    assert (found[0]["n"], found[0]["status"]) == ("2", "4 finished, 1 pruned, 1 diverged")
    out = capsys.readouterr().out
    said = "failed: d (FloatingPointError: nan); pruned: e0; diverged: h; interrupted: f"
    said += f"; leyden evaluate runs={tmp_path}; Runs that repeat another one count once in n"
    assert [each for each in said.split("; ") if each not in out] == []
    lines = [line.split() for line in out.splitlines()]
    assert lines[1][:7] == ["1", "0.01", "0.4000", "±", "0.1414", "2", "of"]
    assert lines[2] == ["2", "0.1", "0.4250", "1", "3", "2", "finished"]


def test_what_a_run_does_not_have_is_a_gap_and_null_a_value(called, tmp_path, capsys):
    """Of two optimizers one has a momentum, which one run has set to null."""
    for number, momentum in enumerate(("0.5", "0.9", "null", "")):
        typed = ["optimizer=sgd", f"optimizer.momentum={momentum}"] if momentum else []
        write(tmp_path / f"r{number}", [*typed, "seed=0"], value=0.1 * (number + 1))
    summarize(tmp_path)
    momenta = [("sgd", "0.5"), ("sgd", "0.9"), ("sgd", "null"), ("", "")]
    assert cells(tmp_path, "optimizer", "optimizer.momentum") == momenta
    assert "None" not in capsys.readouterr().out
    assert varying_keys([{"a": None, "b": 1}, {"b": 1}]) == ["a"]
    (tmp_path / "study.journal").touch()
    line = f"The search in a browser, after pip install optuna-dashboard: optuna-dashboard {tmp_path}/study.journal"
    assert line in called(command, tmp_path)
    found = json.loads(called(command, tmp_path, "format=json"))  # the same for other programs
    assert found["objective"] == OBJECTIVE
    assert [row["choices"] for row in found["rows"]][2:] == [
        {"optimizer": "sgd", "optimizer.momentum": None},
        {},
    ]
    first = found["rows"][0]
    expected = {
        "objective": 0.1,
        "deviation": None,
        "n": 1,
        "status": "finished",
        "like_best": None,
    }
    assert {key: first[key] for key in expected} == expected
    assert first["runs"] == [str(tmp_path / "r0")]


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
    assert (
        cells(tmp_path, "optimizer.lr", "n", "like_best")
        == [("0.1", "3", "yes"), ("0.2", "3", "no")] * 2
    )
    assert f"Rows of different data are not compared: they differ in {key}." in out
    best = r"With 95 % confidence the best setting of rows (\d) to (\d) is row (\d)\."
    assert re.findall(best, out) == [("1", "2", "1"), ("3", "4", "3")]
    assert out.count("The test evaluation of all") == 2
    assert " row=3" in out
    said = "Add data sets: 2 have all settings, and a ranking takes 6."
    assert (said in out, said in called(command, ".", "over=data")) == (False, True)
    # Run by run there are verdicts on one data set alone.
    sides = ("a=optimizer.lr=0.1", "b=optimizer.lr=0.2")
    refused = f"runs of different data can't be compared; these differ in {key}: choose runs of one"
    assert refused in called(compare, ".", *sides)
    assert "96.25 % interval" in called(
        compare, ".", *(f"{side} and objective<0.6" for side in sides)
    )


SAME_DATA = [  # overrides by setting, and digests of the data, by seed, too
    # The folder may be a copy on another machine; its content is the same.
    (lambda size: [f"data.batch_size={size}", f"data.root=/{size}"], lambda size, seed: {"x": "1"}),
    (
        lambda size: [f"data.normalize={'unit' if size == 64 else 'standardize'}"],
        lambda size, seed: None,
    ),
    (lambda size: [f"optimizer.lr={size}"], lambda size, seed: {"x": "1"} if size == 64 else None),
    (lambda size: [f"optimizer.lr={size}"], lambda size, seed: {"drawn": str(seed)}),
]


def test_settings_are_ranked_over_data_sets_and_together_where_they_leave_what_is_measured(
    called, tmp_path
):
    """The worst one of the first has the best mean over all runs, by one data set."""
    for number, (data, size) in enumerate(
        itertools.product(("mnist", "fashion_mnist"), (1000, 2000, 3000))
    ):
        losses = {0.1: (0.2, 0.3), 0.2: (0.3, 0.4), 0.3: (0.4, 0.5) if number < 5 else (-9.0, -8.0)}
        grid(tmp_path / "over" / str(number), losses, f"data={data}", f"data.val_size={size}")
    out = called(command, "over", "over=data")
    ranks = re.findall(r"mean rank (\S+)( ≈)?: optimizer.lr=(\S+)", out)
    assert ranks == [("1.17", "", "0.1"), ("2.17", " ≈", "0.2"), ("2.67", "", "0.3")]
    assert "Over 6 data sets, mean ranks closer than 1.42 can't be told apart" in out
    assert "over data,1," in (tmp_path / "over" / "looks.csv").read_text()
    found = [row["optimizer.lr"] for row in rows(tmp_path / "over")]
    assert found == ["0.1", "0.2", "0.3"] * 5 + ["0.3", "0.1", "0.2"]
    for number, (typed, digest) in enumerate(SAME_DATA):
        place = tmp_path / str(number)
        for size, seed in itertools.product((64, 128), range(3)):
            loss = 0.2 + 0.1 * (size > 64) + 0.01 * seed**2
            write(
                place / f"{size}_{seed}",
                [*typed(size), f"seed={seed}"],
                value=loss,
                data=digest(size, seed),
            )
        out = called(command, place)
        assert "different data" not in out
        assert ("Each seed has data of its own" in out) == (digest(64, 0) != digest(64, 1))
        assert cells(place, "n", "like_best") == [("3", "yes"), ("3", "no")], number


def test_rows_that_may_be_the_best_are_marked_and_looks_are_counted(tmp_path, capsys, monkeypatch):
    losses = {
        1: (0.3, 0.4, 0.5, 0.6),
        2: (0.31, 0.38, 0.52, 0.6),
        3: (1.3, 1.4, 1.6, 1.5),
        4: (2.0,),
    }
    for seed in range(4):
        grid(tmp_path, {setting: values[: seed + 1] for setting, values in losses.items()})
        summarize(tmp_path)
        summarize(tmp_path)  # the same runs are the same look
        said = capsys.readouterr().out
        assert ("Look " in said) == (seed > 2)
        if seed == 2:
            assert "0.4033 ± 0.1069 ≈" in said
            assert said.count("of those with 3 runs is row 1 or one marked ≈.") == 2
    assert [row["like_best"] for row in rows(tmp_path)] == ["yes", "yes", "no", ""]
    assert (
        said.count("Look 2 at these settings (looks.csv): it spends 0.62 % of the 5 % error rate.")
        == 2
    )
    write(tmp_path / "running", ["optimizer.lr=1", "seed=9"], status=None)
    monkeypatch.setattr("leyden.report.records.is_held", lambda directory: True)
    summarize(tmp_path)
    assert "Runs queued or running: 1. Which rows may be the best" in capsys.readouterr().out
    found = [
        (row["comparison"], row["look"], row["runs"])
        for row in records.table(tmp_path / "looks.csv")
    ]
    assert found == [("summary", "1", "9"), ("summary", "2", "12")]


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


def test_a_run_that_is_damaged_is_named_and_stops_nothing(tmp_path, capsys):
    """The record's own fields are in `run/test_record.py`."""
    damaged = [*itertools.product(("run.json", "job.json"), (b"", b"3", b"\xff\x00", None))]
    damaged += [
        ("run.json", b'{"a": '),
        ("job.json", b'[{"overrides": 3}]'),
        ("metrics.csv", b"\xff\x00"),
    ]
    for number, (status, (name, content)) in enumerate(
        itertools.product(("finished", None), damaged)
    ):
        place = tmp_path / str(number)
        write(place / "a", ["optimizer.lr=0.01"], value=0.3)
        write(place / "b", ["optimizer.lr=1"], value=0.2, status=status)
        (place / "b" / name).unlink(missing_ok=True)
        (place / "b" / name).mkdir() if content is None else (place / "b" / name).write_bytes(
            content
        )
        summarize(place)
        err, found = capsys.readouterr().err, rows(place)
        assert "0.3" in [row["objective"] for row in found]
        assert len(err.splitlines()) == (len(found) == 1), (name, content, err)
        assert not err or err.startswith(f"leyden: skipped: {place / 'b'} can't be read ("), (
            name,
            content,
        )
