"""One run from end to end: trained, resumed for another epoch, evaluated."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SMALL = ("data.val_size=59000", "callbacks=bare", "logger=none", "test=true")


def leyden(verb, *arguments):
    command = [sys.executable, "-m", f"leyden.{verb}", *arguments]
    return subprocess.check_output(command, cwd=ROOT, text=True)


def test_a_run_is_trained_resumed_and_evaluated(tmp_path):
    directory = tmp_path / "run"
    for num_epochs in (1, 2):
        leyden(
            "train",
            *SMALL,
            f"run_dir={directory}",
            f"outputs={tmp_path}",
            f"trainer.max_epochs={num_epochs}",
        )
        record = directory / "run.json"
        result = json.loads(record.read_text())
        assert result["status"] == "finished"
        assert result["epochs"] == num_epochs
    accuracy = result["metrics"]["test/acc"]
    assert accuracy > 0.5
    evaluated = leyden("evaluate", f"run={directory}", f"outputs={tmp_path}")
    assert f"{accuracy:.4f}" in evaluated
