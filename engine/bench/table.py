"""Train each network on each data set that can be had without the internet, and print the table of docs/speed.md.

    python engine/bench/table.py --seeds 3

A run is kept in outputs/table/, so that a second call goes on where the first one stopped; remove the folder to
measure anew.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from leyden.base.paths import root
from leyden.run.provenance import machine

OUTPUTS = root() / "outputs" / "table"
RECIPES = {
    "mlp": [],
    "cnn": ["experiment=cnn"],
    "resnet": ["experiment=resnet"],
}
DATA = ("mnist", "fashion_mnist")


def result(recipe: str, data: str, seed: int) -> dict[str, float]:
    """Return the result of a run; a finished one returns at once."""
    run_dir = OUTPUTS / f"{recipe}-{data}-{seed}"
    command = [
        sys.executable,
        "-m",
        "leyden.train",
        *RECIPES[recipe],
        f"data={data}",
        f"seed={seed}",
    ]
    subprocess.run([*command, f"run_dir={run_dir}"], check=True, stdout=subprocess.DEVNULL)
    found = json.loads(Path(run_dir, "run.json").read_text())
    return {**found["metrics"], "epochs": found["epochs"], "seconds": found["seconds"]}


def main() -> None:
    """Print one row per network and data set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    seeds = range(parser.parse_args().seeds)
    print(f"{machine()['cpu']}, {os.cpu_count()} cores, n = {len(seeds)}\n")
    print("| network | data | overrides | parameters | epochs | test accuracy | training s |")
    print("|---|---|---|---|---|---|---|")
    for recipe, overrides in RECIPES.items():
        for data in DATA:
            runs = [result(recipe, data, seed) for seed in seeds]
            accuracies = [run["test/acc"] for run in runs]
            spread = statistics.stdev(accuracies) if len(runs) > 1 else 0.0
            cells = [
                recipe,
                data,
                f"`{' '.join(overrides)}`" if overrides else "",
                f"{runs[0]['num_parameters']:,}",
                f"{runs[0]['epochs']}",
                f"{statistics.mean(accuracies):.4f} ± {spread:.4f}",
                f"{statistics.median(run['seconds'] for run in runs):.0f}",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
