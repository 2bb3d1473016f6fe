import csv
import json

import pytest
import yaml

from leyden.config import UserError
from leyden.run import with_values
from leyden.runs import merge, read_jobs
from leyden.summarize import summarize

OBJECTIVE = {"metric": "val/loss", "mode": "min"}


def write(directory, overrides, *, status="finished", value=None, error=None, objective=OBJECTIVE):
    """A run directory as `run.py` writes it."""
    directory.mkdir(parents=True)
    flat = dict(override.split("=") for override in overrides)
    config = {
        "optimizer": {"lr": float(flat.get("optimizer.lr", 0.1))},
        "model": {"hidden_sizes": yaml.safe_load(flat.get("model.hidden_sizes", "[512]"))},
        "seed": int(flat.get("seed", 0)),
        "objective": objective,
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    (directory / "provenance.json").write_text(json.dumps([{"overrides": overrides}]))
    if status:
        result = {
            "status": status,
            "objective": with_values(objective, {objective["metric"]: value}),
            "epochs": 3,
            "seconds": 2.0,
            "error": error,
        }
        (directory / "result.json").write_text(json.dumps(result))


def rows(directory):
    with (directory / "summary.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_table_has_what_varies_best_first_and_seeds_merged(tmp_path, capsys):
    write(tmp_path / "a", ["optimizer.lr=0.01", "seed=0", "sweep_name=x"], value=0.3)
    write(tmp_path / "b", ["optimizer.lr=0.01", "seed=1", "sweep_name=x"], value=0.5)
    write(tmp_path / "c", ["seed=0"], value=0.2)  # the default of optimizer.lr
    write(
        tmp_path / "d", ["optimizer.lr=10"], status="failed", error={"type": "FloatingPointError", "message": "nan"}
    )
    write(tmp_path / "e", ["optimizer.lr=1"], status="pruned", value=0.9)
    write(tmp_path / "f", ["optimizer.lr=2"], status=None)
    summarize(tmp_path)
    found = rows(tmp_path)
    assert list(found[0]) == ["optimizer.lr", "objective", "deviation", "n", "epochs", "seconds", "status"]
    assert [row["optimizer.lr"] for row in found] == ["0.1", "0.01", "1.0", "10.0", "2.0"]
    assert float(found[1]["objective"]) == pytest.approx(0.4)
    assert float(found[1]["deviation"]) == pytest.approx(0.2 / 2**0.5)
    assert found[1]["status"] == "2 finished"
    out = capsys.readouterr().out
    assert f"python -m leyden.evaluate run={tmp_path / 'c'}" in out
    assert "failed: d (FloatingPointError: nan)" in out
    assert "pruned: e" in out
    assert "interrupted: f" in out
    assert out.splitlines()[1].split() == ["0.1", "0.2000", "1", "3", "2", "finished"]
    markdown = (tmp_path / "summary.md").read_text()
    assert "| 0.01 | 0.4000 ± 0.1414 | 2 | 3 | 2 | 2 finished |" in markdown


def test_only_what_has_finished_is_ranked_and_the_best_is_of_the_best_row(tmp_path, capsys):
    maximum = {"metric": "val/acc", "mode": "max"}
    write(tmp_path / "a", ["optimizer.lr=0.5", "seed=0"], status="pruned", value=0.99, objective=maximum)
    for name, lr, seed, value in (
        ("b", 0.1, 0, 0.98),
        ("c", 0.1, 1, 0.9),
        ("d", 0.2, 0, 0.97),
        ("e", 0.2, 1, 0.96),
    ):
        write(tmp_path / name, [f"optimizer.lr={lr}", f"seed={seed}"], value=value, objective=maximum)
    write(tmp_path / "f", ["optimizer.lr=0.2", "seed=2"], status="pruned", value=0.1, objective=maximum)
    (tmp_path / "code" / "conf").mkdir(parents=True)
    (tmp_path / "code" / "conf" / "config.yaml").write_text("a: 1")  # no run
    summarize(tmp_path)
    assert [row["optimizer.lr"] for row in rows(tmp_path)] == ["0.2", "0.1", "0.5"]
    assert float(rows(tmp_path)[0]["objective"]) == pytest.approx(0.965)
    assert rows(tmp_path)[0]["n"] == "2"
    assert "Best: d." in capsys.readouterr().out


def test_lists_and_unequal_keys_are_columns(tmp_path):
    write(tmp_path / "a", ["model.hidden_sizes=[256]"], value=0.3)
    write(tmp_path / "b", ["model.hidden_sizes=[512,256]", "optimizer.lr=0.5"], value=0.2)
    found = merge(read_jobs(tmp_path))
    assert [row.choices for row in found] == [
        {"model.hidden_sizes": [512, 256], "optimizer.lr": 0.5},
        {"model.hidden_sizes": [256], "optimizer.lr": 0.1},
    ]


def test_a_single_run_and_runs_without_objective(tmp_path):
    write(tmp_path / "one" / "a", [], value=0.3)
    summarize(tmp_path / "one")
    assert len(rows(tmp_path / "one")) == 1
    write(tmp_path / "none" / "a", ["seed=1"], status=None)
    summarize(tmp_path / "none")
    assert rows(tmp_path / "none")[0]["status"] == "interrupted"


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(UserError, match="there is no run"):
        summarize(tmp_path)


def test_a_thousand_runs(tmp_path):
    for number in range(1000):
        write(
            tmp_path / str(number),
            [f"optimizer.lr={number % 100 + 1}", f"seed={number // 100}"],
            value=number / 1000,
        )
    summarize(tmp_path)
    assert len(rows(tmp_path)) == 100
    assert {row["n"] for row in rows(tmp_path)} == {"10"}
