"""Train the Keras note's program in Keras and in Leyden by n seeds, and print the accuracies.

    python engine/bench/compare_keras.py --seeds 10

A seed's result is kept in outputs/compare_keras/, so that a second call goes on where the first one
stopped; remove the folder to measure anew.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from leyden.run import machine

ROOT = Path(__file__).resolve().parents[2]
OUTPUTS = ROOT / "outputs" / "compare_keras"


def keras_accuracy(seed: int) -> float:
    """Test accuracy of the program in Keras, on the same files."""
    path = OUTPUTS / f"keras_{seed}.json"
    if not path.exists():
        accuracy = run_keras(seed)
        path.write_text(json.dumps({"test/acc": accuracy}))
    return float(json.loads(path.read_text())["test/acc"])


def run_keras(seed: int) -> float:
    """The program of the note."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras
    from project.data.mnist import MNIST

    from leyden.data import load

    keras.utils.set_random_seed(seed)
    train, test = (
        load(MNIST, ROOT / "data", train=train, download=True) for train in (True, False)
    )
    (x_train, y_train), (x_test, y_test) = (
        (
            split.data.reshape(-1, 784).numpy().astype("float32") / 255,
            keras.utils.to_categorical(split.targets, 10),
        )
        for split in (train, test)
    )
    model = keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(512, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer="rmsprop", loss="categorical_crossentropy", metrics=["accuracy"])
    model.fit(x_train, y_train, epochs=5, batch_size=128, verbose=0)
    return float(model.evaluate(x_test, y_test, verbose=0)[1])


def leyden_accuracy(seed: int) -> float:
    """Test accuracy of the same program in Leyden; a finished run returns at once."""
    run_dir = OUTPUTS / f"leyden_{seed}"
    command = [
        sys.executable,
        "-m",
        "leyden.train",
        "experiment=keras_note",
        f"seed={seed}",
        f"run_dir={run_dir}",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return float(json.loads((run_dir / "run.json").read_text())["metrics"]["test/acc"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds, from 0")
    seeds = range(parser.parse_args().seeds)
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    print(f"{machine()['cpu']}, {os.cpu_count()} cores, n = {len(seeds)}\n")
    print("| program | test accuracy | min | max |\n|---|---|---|---|")
    for name, accuracy in (("Keras", keras_accuracy), ("Leyden", leyden_accuracy)):
        found = [accuracy(seed) for seed in seeds]
        spread = statistics.stdev(found) if len(found) > 1 else 0.0
        print(
            f"| {name} | {statistics.mean(found):.4f} ± {spread:.4f} | {min(found):.4f} | {max(found):.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
