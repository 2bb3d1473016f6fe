"""The loggers that extras install: a resumed run goes on in them, and jobs of a sweep don't mix."""

import importlib.util
import json
import struct

import pytest

from leyden.run.directory import Run
from tests import ENGINE
from tests.conftest import QUICK, SMALL, finish, start
from tests.forks import TIMEOUT_S
from tests.training.test_start_exact import kill_at


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"needs {package}")


@needs("mlflow")
@pytest.mark.filterwarnings("ignore:The ``noload``")  # MLflow on SQLAlchemy 2.1
@pytest.mark.slow
def test_mlflow_in_a_file_has_each_point_once(tmp_path, mnist_root):
    from mlflow.tracking import MlflowClient

    arguments = (f"outputs={tmp_path}", "logger=mlflow", "trainer.max_epochs=2", *SMALL)
    kill_at(15, f"run_dir={tmp_path / 'killed'}", *arguments).communicate(timeout=TIMEOUT_S)
    finish(start(f"run_dir={tmp_path / 'killed'}", "resume=must", *arguments))
    finish(start(f"run_dir={tmp_path / 'killed'}", *arguments, "trainer.max_epochs=3"))
    finish(start("-m", "sweep_name=s", "seed=0,1", *arguments))
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mnist_mlp")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert len(runs) == 3
    killed = runs["killed"]
    assert killed.info.status == "FINISHED"
    assert killed.data.params["model.hidden_sizes"] == "[16]"
    history = {name: client.get_metric_history(killed.info.run_id, name) for name in killed.data.metrics}
    assert [point.step for point in history["train/loss_step"]] == [2, 5, 8, 11, 14, 17, 20, 23, 26, 29]
    assert [point.step for point in history["val/acc"]] == [9, 19, 29]
    assert [point.step for point in history["test/acc"]] == [20, 30]
    folders = {path.path for path in client.list_artifacts(killed.info.run_id)}
    assert {"confusion", "errors"} <= folders
    result = json.loads((tmp_path / "killed" / "run.json").read_text())
    assert history["test/acc"][-1].value == pytest.approx(result["metrics"]["test/acc"])
    assert max(point.value for point in history["val/acc"]) == pytest.approx(result["metrics"]["val/acc"])


def records(path):
    """What a .wandb file holds: a log of LevelDB, blocks of 32 KiB of pieces with a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    content, position, pieces = path.read_bytes(), 7, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
        length, kind = struct.unpack("<HB", content[position + 4 : position + 7])
        pieces += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield wandb_internal_pb2.Record.FromString(pieces)
            pieces = b""


@needs("wandb")
@pytest.mark.slow
def test_wandb_offline_keeps_a_run_a_directory(tmp_path, mnist_root):
    arguments = (f"outputs={tmp_path}", "logger=wandb", "logger.wandb.offline=true", "trainer.max_epochs=2", *SMALL)
    finish(start("-m", "sweep.pictures=all", "sweep_name=s", "seed=0,1", "cluster.num_jobs=1", *arguments))
    directories = [path.parent for path in (tmp_path / "sweeps" / "s").glob("*/config.yaml")]
    assert len(directories) == 2
    for directory in directories:
        (path,) = directory.glob("wandb/offline-run-*/*.wandb")
        media = [file.parent.name for file in directory.rglob("media/images/*/*.png")]
        assert sorted(media) == ["confusion", "errors"]
        rows, config = [], {}
        for record in records(path):
            rows.append({item.key or item.nested_key[0]: item.value_json for item in record.history.item})
            config |= {item.key or item.nested_key[0]: item.value_json for item in record.config.update}
        points = [(row["trainer/global_step"], row["val/acc"]) for row in rows if "val/acc" in row]
        assert [step for step, _ in points] == ["9", "19"]
        result = json.loads((directory / "run.json").read_text())
        assert max(float(value) for _, value in points) == pytest.approx(result["metrics"]["val/acc"])
        assert config["seed"] == str(Run(directory).config["seed"])


@needs("wandb")
@pytest.mark.slow
def test_wandb_without_login_is_refused_before_training(tmp_path, mnist_root):
    arguments = (f"outputs={tmp_path}", f"run_dir={tmp_path / 'run'}", "logger=wandb", *QUICK)
    process = start(*arguments, HOME=str(tmp_path), WANDB_API_KEY="")
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2, output
    assert "logger.wandb: not logged in" in output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("package", ["mlflow", "wandb"])
@pytest.mark.parametrize("sweep", [(), ("-m", "seed=0,1")], ids=["run", "sweep"])
def test_a_missing_extra_is_named_before_training(cli, tmp_path, monkeypatch, package, sweep):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == package else find_spec(name, *a)
    )
    run_dir = () if sweep else (f"run_dir={tmp_path / 'run'}",)
    code, _, err = cli("train", *sweep, *run_dir, f"logger={package}", *QUICK)
    assert code == 2
    assert f"logger.{package}: {package} is not installed; pip install 'leyden[{package}]' installs it" in err
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.rglob("config.yaml"))
    assert (ENGINE / "pyproject.toml").read_text().count(f"\n{package} = [") == 1
