"""Growth of the time and memory of `leyden runs`, `summarize` and `compare` with the number of runs.

python engine/bench/many_runs.py 20000 100000

The run directories are simulated: sweeps of the default run's configuration, one in a hundred runs without a result.
Cold is without the index of runs in outputs/, and writes it; warm is with it. The disk's cache is warm in both. The
index takes no runs that have just ended, so this waits before it starts.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import yaml

from leyden.config.paths import PROJECT, ROOT
from leyden.report.index import INDEX_FILE, MIN_AGE_NS
from leyden.run.identity import CONTROL_KEYS

COMMANDS = {
    "`runs sort=-val/acc`": ("runs", "outputs", "sort=-val/acc"),
    "`runs where='optimizer.lr > 0.001'`": ("runs", "outputs", "where=optimizer.lr > 0.001"),
    "`summarize`": ("summarize", "outputs"),
    "`compare` of two halves": ("compare", "outputs", "a=optimizer.lr > 0.001", "b=optimizer.lr <= 0.001"),
}
NUM_ROUNDS = 3
RUNS_PER_SWEEP = 500
NUM_SEEDS = 5
SHARE_WITHOUT_RESULT = 0.01
START = datetime(2026, 1, 1, tzinfo=timezone.utc)
OTHER_FILES = (".lock", "curves.png", "errors.png", "hparams.tfevents", "events.out.tfevents.1.vm.1.0")


def default_config() -> str:
    """Return the `config.yaml` of the default run, with `SEED`, `RATE` and `WIDTH` in place of three values."""
    command = [sys.executable, "-m", "leyden.train", "--cfg", "job", "--resolve", "run_dir=x"]
    config = yaml.safe_load(subprocess.check_output(command, cwd=ROOT, text=True))
    config = {key: value for key, value in config.items() if key not in CONTROL_KEYS}
    config["seed"] = config["data"]["seed"] = config["data"]["split_seed"] = "SEED"
    config["optimizer"]["lr"], config["model"]["hidden_sizes"] = "RATE", ["WIDTH"]
    return yaml.safe_dump(config, sort_keys=False)


def simulate(outputs: Path, num_runs: int) -> None:
    """Write sweeps of run directories, each with the files of a run of the default configuration."""
    config, draw = default_config(), random.Random(0)
    curves = "step,metric,value\n" + "".join(f"{step},train/loss,0.5\n" for step in range(0, 2345, 50))
    for number in range(num_runs):
        sweep, job = divmod(number, RUNS_PER_SWEEP)
        setting, seed = divmod(job, NUM_SEEDS)
        rate, width = 10 ** -(2 + setting % 10 / 5), 64 * (1 + setting // 10)
        directory = outputs / "sweeps" / f"s{sweep}" / f"model.hidden_sizes-{width}_lr-{rate:.3g}_seed-{seed}"
        (directory / "checkpoints").mkdir(parents=True)
        for name in (*OTHER_FILES, "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
            (directory / name).touch()
        values = {"SEED": str(seed), "RATE": repr(rate), "WIDTH": str(width)}
        text = config
        for name, value in values.items():
            text = text.replace(name, value)
        (directory / "config.yaml").write_text(text)
        overrides = [f"optimizer.lr={rate!r}", f"model.hidden_sizes=[{width}]", f"seed={seed}"]
        provenance = {
            "time": (START + timedelta(minutes=number)).isoformat(),
            "command": ["python", "-m", "leyden.train", "-m", *overrides],
            "overrides": overrides,
            "job": None,
            "git": {"sha": "0" * 40, "dirty": True, "diff": "+ a line of a difference\n" * 100},
            "versions": {f"package-{each}": "1.2.3" for each in range(30)},
        }
        (directory / "provenance.json").write_text(json.dumps([provenance], indent=2))
        (directory / "metrics.csv").write_text(curves)
        (directory / "fingerprint.csv").write_text(
            f"step,weights,optimizer,random\n2345,{number:032x},{0:032x},{0:032x}\n"
        )
        if draw.random() < SHARE_WITHOUT_RESULT:
            continue
        accuracy = draw.gauss(0.97 - 0.01 * abs(setting % 10 - 5), 0.002)
        metrics = {
            "val/loss": 0.1,
            "val/acc": accuracy,
            "train/loss": 0.05,
            "train/acc": 0.99,
            "num_parameters": width,
        }
        result = {
            "status": "finished",
            "objective": {"metric": "val/acc", "mode": "max", "value": accuracy},
            "metrics": metrics,
            "epochs": 5,
            "optimizer_steps": 2345,
            "seconds": draw.uniform(6, 8),
            "samples_per_second": 40000.0,
            "checkpoint": "checkpoints/best.ckpt",
            "requeues": 0,
            "error": None,
            "stages": {"train": ["train/loss", "train/acc"], "val": ["val/loss", "val/acc"]},
            "can_be_tested": True,
            "takes_optimizer": True,
            "test_split": [],
        }
        (directory / "result.json").write_text(json.dumps(result, indent=2))


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
            time.sleep(MIN_AGE_NS / 1e9 + 1)
            found: dict[tuple[str, bool], list[tuple[float, float, float]]] = {}
            first = next(iter(COMMANDS))
            for _ in range(NUM_ROUNDS):
                (project / "outputs" / INDEX_FILE).unlink(missing_ok=True)
                for name, is_warm in ((first, False), *((name, True) for name in COMMANDS)):
                    measured = measure(*COMMANDS[name], project=project)
                    found.setdefault((name, is_warm), []).append(measured)
            for (name, is_warm), values in found.items():
                seconds, cpu, memory = map(statistics.median, zip(*values, strict=True))
                low, high = min(values)[0], max(values)[0]
                rows.append(
                    f"| {num_runs:,} | {name} | {'warm' if is_warm else 'cold'} | {seconds:.1f} ({low:.1f} to {high:.1f}) "
                    f"| {cpu:.1f} | {cpu / num_runs * 1e6:.0f} | {memory:.0f} |"
                )
    print(
        "\n| runs | command | index | s | CPU s | CPU microseconds per run | MB |\n|---|---|---|---|---|---|---|",
        *rows,
        sep="\n",
    )


if __name__ == "__main__":
    main()
