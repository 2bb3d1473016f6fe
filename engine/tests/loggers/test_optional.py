"""The loggers that extras install: a resumed run goes on in them, and jobs of a sweep don't mix."""

import importlib.util
import struct

import pytest

from leyden.run.directory import Run
from tests import ENGINE
from tests.conftest import QUICK, SMALL, finish, start


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"needs {package}")


@needs("mlflow")
@pytest.mark.slow(minutes=0.1)
@pytest.mark.filterwarnings("ignore:The ``noload``")  # MLflow on SQLAlchemy 2.1
def test_mlflow_in_a_file(command, tmp_path):
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    arguments = (f"run_dir={tmp_path / 'run'}", "logger=mlflow", "trainer.max_epochs=2", *SMALL)
    _, err = command("train", *arguments, code=2)
    assert err == "leyden: logger.mlflow.tracking_uri: is missing and must be set\n"
    command("train", *arguments, f"logger.mlflow.tracking_uri={uri}")
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("mnist_mlp").experiment_id])
    assert run.info.run_name == str(tmp_path / "run")
    assert run.info.status == "FINISHED"
    assert run.data.params["model.hidden_sizes"] == "[16]"
    points = client.get_metric_history(run.info.run_id, "val/acc")
    assert [point.step for point in points] == [9, 19]
    best = Run(tmp_path / "run").result.metrics["val/acc"]
    assert max(point.value for point in points) == pytest.approx(best)


def records(path):
    """What a .wandb file holds: a log of LevelDB, blocks of 32 KiB of pieces with a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    content = path.read_bytes()
    position = 7
    pieces = b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
        length, kind = struct.unpack("<HB", content[position + 4 : position + 7])
        pieces += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield wandb_internal_pb2.Record.FromString(pieces)
            pieces = b""


def values(items):
    """The values of W&B's items, by key."""
    return {item.key or item.nested_key[0]: item.value_json for item in items}


@needs("wandb")
@pytest.mark.slow
def test_wandb_offline_keeps_a_run_a_directory(tmp_path, mnist_root):
    arguments = (
        "-m",
        "seed=0,1",
        "sweep_name=s",
        "sweep.pictures=all",
        "cluster.num_jobs=1",
        f"outputs={tmp_path}",
        "logger=wandb",
        "logger.wandb.offline=true",
        "trainer.max_epochs=2",
        *SMALL,
    )
    finish(start(*arguments))
    runs = [Run(path.parent) for path in (tmp_path / "sweeps" / "s").glob("*/config.yaml")]
    assert len(runs) == 2
    for run in runs:
        (path,) = run.directory.glob("wandb/offline-run-*/*.wandb")
        media = [file.parent.name for file in run.directory.rglob("media/images/*/*.png")]
        assert sorted(media) == ["confusion", "errors"]
        rows = []
        config = {}
        for record in records(path):
            rows.append(values(record.history.item))
            config |= values(record.config.update)
        points = [row for row in rows if "val/acc" in row]
        assert [row["trainer/global_step"] for row in points] == ["9", "19"]
        best = max(float(row["val/acc"]) for row in points)
        assert best == pytest.approx(run.result.metrics["val/acc"])
        assert config["seed"] == str(run.config["seed"])


@needs("wandb")
@pytest.mark.slow
def test_wandb_without_login_is_refused_before_training(tmp_path, mnist_root):
    arguments = (f"outputs={tmp_path}", f"run_dir={tmp_path / 'run'}", "logger=wandb", *QUICK)
    process = start(*arguments, HOME=str(tmp_path), WANDB_API_KEY="")
    assert "logger.wandb: not logged in" in finish(process, code=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("sweep", [False, True])
def test_a_missing_extra_is_named_before_training(command, tmp_path, monkeypatch, sweep):
    find = importlib.util.find_spec

    def find_others(name, *given):
        return None if name == "wandb" else find(name, *given)

    monkeypatch.setattr(importlib.util, "find_spec", find_others)
    typed = ("-m", "seed=0,1") if sweep else (f"run_dir={tmp_path / 'run'}",)
    _, err = command("train", *typed, "logger=wandb", *QUICK, code=2)
    assert "logger.wandb: wandb is not installed; pip install 'leyden[wandb]' installs it" in err
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.rglob("config.yaml"))
    assert (ENGINE / "pyproject.toml").read_text().count("\nwandb = [") == 1
