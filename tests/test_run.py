"""One run from end to end: trained, resumed for another epoch, evaluated."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SMALL = ("data.val_size=59000", "callbacks=bare", "logger=none", "test=true")


def leyden(verb, *arguments):
    command = [sys.executable, "-m", f"leyden.{verb}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


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
        result = json.loads((directory / "run.json").read_text())
        assert (result["status"], result["epochs"]) == ("finished", num_epochs)
    assert result["metrics"]["test/acc"] > 0.5
    evaluated = leyden("evaluate", f"run={directory}", f"outputs={tmp_path}")
    assert f"{result['metrics']['test/acc']:.4f}" in evaluated
