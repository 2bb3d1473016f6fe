"""Growth of the time and memory of `leyden runs`, `summarize` and `compare` with the number of runs.

python engine/bench/many_runs.py 20000 100000

The run directories are simulated: sweeps of the default run's configuration, one in a hundred runs without a result.
The disk's cache is warm. Nothing is kept from one command to the next.
"""

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import yaml

from leyden.base.paths import PROJECT, root
from leyden.config.checks import Objective
from leyden.run.keys import Role, has
from leyden.run.record import RunRecord
from leyden.run.result import Result

COMMANDS = {
    "`runs sort=-val/acc`": ("runs", "outputs", "sort=-val/acc"),
    "`runs where='optimizer.lr > 0.001'`": ("runs", "outputs", "where=optimizer.lr > 0.001"),
    "`summarize`": ("summarize", "outputs"),
    "`compare` of two halves": (
        "compare",
        "outputs",
        "a=optimizer.lr > 0.001",
        "b=optimizer.lr <= 0.001",
    ),
}
NUM_ROUNDS = 3
RUNS_PER_SWEEP = 500
NUM_SEEDS = 5
SHARE_WITHOUT_RESULT = 0.01
START = datetime(2026, 1, 1, tzinfo=timezone.utc)
GROUPS = {"data": "mnist", "model": "mlp", "task": "classification", "optimizer": "keras_rmsprop"}
GROUPS |= {"scheduler": "none", "trainer": "auto", "callbacks": "default", "logger": "default"}
GROUPS |= {"cluster": "local", "experiment": None, "sweep": "given"}
OTHER_FILES = ("curves.png", "errors.png", "hparams.tfevents", "events.out.tfevents.1.vm.1.0")


def default_config() -> dict[str, Any]:
    """Return the configuration of the default run."""
    command = [sys.executable, "-m", "leyden.train", "--cfg", "job", "--resolve", "run_dir=x"]
    config = yaml.safe_load(subprocess.check_output(command, cwd=root(), text=True))
    return {key: value for key, value in config.items() if has(key, Role.RECORDED)}


def simulate(outputs: Path, num_runs: int) -> None:
    """Write sweeps of run directories, each with the files of a run of the default configuration."""
    config, draw = default_config(), random.Random(0)
    yaml_text = yaml.safe_dump(config)
    curves = "step,metric,value\n" + "".join(
        f"{step},train/loss,0.5\n" for step in range(0, 2345, 50)
    )
    for number in range(num_runs):
        sweep, job = divmod(number, RUNS_PER_SWEEP)
        setting, seed = divmod(job, NUM_SEEDS)
        rate, width = 10 ** -(2 + setting % 10 / 5), 64 * (1 + setting // 10)
        directory = (
            outputs
            / "sweeps"
            / f"s{sweep}"
            / f"model.hidden_sizes-{width}_lr-{rate:.3g}_seed-{seed}"
        )
        (directory / "checkpoints").mkdir(parents=True)
        for name in (*OTHER_FILES, "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
            (directory / name).touch()
        own = {
            "seed": seed,
            "data": {**config["data"], "seed": seed, "split_seed": seed},
            "optimizer": {**config["optimizer"], "lr": rate},
            "model": {**config["model"], "hidden_sizes": [width]},
        }
        (directory / "config.yaml").write_text(yaml_text)
        overrides = [f"optimizer.lr={rate!r}", f"model.hidden_sizes=[{width}]", f"seed={seed}"]
        provenance = {
            "time": (START + timedelta(minutes=number)).isoformat(),
            "command": ["python", "-m", "leyden.train", "-m", *overrides],
            "overrides": overrides,
            "groups": GROUPS,
            "machine": {"threads": 2},
            "job": None,
            "git": {"sha": "0" * 40, "dirty": True, "diff": "+ a line of a difference\n" * 100},
            "versions": {f"package-{each}": "1.2.3" for each in range(30)},
        }
        (directory / "metrics.csv").write_text(curves)
        (directory / "fingerprint.csv").write_text(
            f"step,weights,optimizer,random\n2345,{number:032x},{0:032x},{0:032x}\n"
        )
        accuracy = draw.gauss(0.97 - 0.01 * abs(setting % 10 - 5), 0.002)
        result = Result(
            "finished",
            Objective("val/acc", "max", accuracy),
            {
                "val/loss": 0.1,
                "val/acc": accuracy,
                "train/loss": 0.05,
                "train/acc": 0.99,
                "num_parameters": width,
            },
            epochs=5,
            optimizer_steps=2345,
            seconds=draw.uniform(6, 8),
            samples_per_second=40000.0,
            checkpoint="checkpoints/best.ckpt",
            stages={"train": ["train/loss", "train/acc"], "val": ["val/loss", "val/acc"]},
            val_samples=5000,
        )
        has_ended = draw.random() >= SHARE_WITHOUT_RESULT
        RunRecord({**config, **own}, [provenance], result if has_ended else None).write(directory)


def measure(verb: str, *arguments: str, project: Path) -> tuple[float, float, float]:
    """Return the seconds, the CPU seconds and the megabytes that a command takes."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", f"leyden.{verb}", *arguments],
        cwd=project,
        env={**os.environ, PROJECT: str(project)},
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


def main() -> None:
    """Print the table."""
    rows = []
    for num_runs in map(int, sys.argv[1:] or ("20000",)):
        with tempfile.TemporaryDirectory() as folder:
            project = Path(folder)
            simulate(project / "outputs", num_runs)
            found: dict[str, list[tuple[float, float, float]]] = {}
            for _ in range(NUM_ROUNDS):
                for name, command in COMMANDS.items():
                    found.setdefault(name, []).append(measure(*command, project=project))
            for name, values in found.items():
                seconds, cpu, memory = map(statistics.median, zip(*values, strict=True))
                low, high = min(values)[0], max(values)[0]
                rows.append(
                    f"| {num_runs:,} | {name} | {seconds:.1f} ({low:.1f} to {high:.1f}) "
                    f"| {cpu:.1f} | {cpu / num_runs * 1e6:.0f} | {memory:.0f} |"
                )
    print(
        "\n| runs | command | s | CPU s | CPU microseconds per run | MB |\n|---|---|---|---|---|---|",
        *rows,
        sep="\n",
    )


if __name__ == "__main__":
    main()
