"""Run the programs of this folder in turn, and compare them: a table and a picture in outputs/bench/.

    make bench

Each program does the same work, five epochs of the 784-512-10 perceptron on 55,000 images of MNIST in batches of
128, as far as its first line says nothing else. A round runs all of them once, in an order of its own, so that neither
a busy minute of the machine nor what ran before hits one of them alone; figures are medians over the rounds.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from busy import OURS, busy
from matplotlib.figure import Figure
from project.data.mnist import MNIST
from rounds import AS_TYPED, in_turn

from leyden.base.paths import root
from leyden.files import load

HERE = Path(__file__).parent
OUTPUTS = root() / "outputs" / "bench"
BARE = "bare PyTorch loop"
BAREBONES = "Lightning, barebones"
# Name: program and arguments, Keras's backend, most rounds (the slow ones show no less after three).
PROGRAMS: dict[str, tuple[list[str], str | None, int]] = {
    "Leyden": (["train_command.py"], None, 99),
    "Leyden, nothing logged": (["train_command.py", "callbacks=bare", "logger=none"], None, 99),
    "Leyden, no fingerprints": (["train_command.py", "~callbacks.fingerprint"], None, 99),
    "Leyden, bf16": (["train_command.py", "trainer.precision=bf16-mixed"], None, 99),
    BARE: (["bare_torch.py"], None, 99),
    BAREBONES: (["lightning_barebones.py"], None, 99),
    "Keras on JAX": (["keras_program.py"], "jax", 99),
    "Keras on TensorFlow": (["keras_program.py"], "tensorflow", 3),
    "Keras on torch": (["keras_program.py"], "torch", 3),
    "Lightning, transforms per sample": (["lightning_transforms.py"], None, 3),
}


def measure(
    program: list[str], environment: dict[str, str], python: str = sys.executable
) -> dict[str, float]:
    """Seconds of a program's fit and of its whole process."""
    start = time.perf_counter()
    done = subprocess.run(
        [python, str(HERE / program[0]), *program[1:]],
        env={**AS_TYPED, **environment},
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(program)} failed:\n{done.stderr[-2000:]}")
    return {"process_s": seconds, **json.loads(done.stdout.splitlines()[-1])}


def hardware() -> str:
    """Processor (or GPU), cores, threads, and the load of the last minute."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else (names or [platform.processor()])[0]
    )
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"


def table(
    found: dict[str, list[dict[str, float]]], first: str, columns: tuple[tuple[str, str, str], ...]
) -> str:
    """Medians and ranges in Markdown; ratios are medians over the rounds, each within its round.

    Args:
        found: Seconds of each round, by the name of a row.
        first: Head of those names.
        columns: Each as what is shown, its head, and the row beside which it is set.
    """
    heads = [text for _, head, other in columns for text in (head, f"÷ {other}")]
    heads = [first, *heads, "n"]
    lines = [f"| {' | '.join(heads)} |", f"{'|---' * len(heads)}|"]
    for name, runs in found.items():
        cells = [name]
        for key, _, other in columns:
            values = [run[key] for run in runs]
            cells.append(
                f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"
            )
            ratios = [
                run[key] / beside[key]
                for run, beside in zip(runs, found.get(other, []), strict=False)
            ]
            cells.append(f"{statistics.median(ratios):.2f}" if ratios else "")
        lines.append(f"| {' | '.join([*cells, str(len(runs))])} |")
    return "\n".join(lines)


def picture(found: dict[str, list[dict[str, float]]]) -> Figure:
    """A bar a program: its fit, and the rest of its process."""
    figure = Figure(figsize=(7, 0.4 * len(found) + 0.8), layout="constrained")
    axes = figure.subplots()
    names = list(found)[::-1]
    fit = [statistics.median(run["fit_s"] for run in found[name]) for name in names]
    whole = [statistics.median(run["process_s"] for run in found[name]) for name in names]
    axes.barh(names, whole, color="#cccccc", label="whole process")
    axes.barh(names, fit, color="#e8710a", label="training")
    axes.set_xlabel(f"seconds, medians; {hardware()}")
    axes.legend(loc="upper right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="runs of each program; 3 at most of the slow ones"
    )
    parser.add_argument("--only", default="", help="only programs that have this in their name")
    parser.add_argument(
        "--keras-python", help="the Python that has Keras; without it Keras is left out"
    )
    parser.add_argument(
        "--busy", action="store_true", help="what a process beside it costs a run, and nothing else"
    )
    arguments = parser.parse_args()
    load(MNIST, root() / "data", train=True, download=True)
    print(hardware(), flush=True)
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    if arguments.busy:
        columns = (("quiet_s", "quiet: fit s", OURS), ("busy_s", "busy: fit s", OURS))
        text = f"{hardware()}\n\n{table(busy(measure, arguments.rounds), 'threads wait by', columns)}\n"
        print(f"\n{text}")
        (OUTPUTS / "busy.md").write_text(text)
        return
    chosen = {
        name: (program, backend, most)
        for name, (program, backend, most) in PROGRAMS.items()
        if arguments.only in name and (arguments.keras_python or not backend)
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    for number, name in in_turn(chosen, arguments.rounds):
        program, backend, most = chosen[name]
        if number < most:
            of_keras = ({"KERAS_BACKEND": backend}, arguments.keras_python) if backend else ({},)
            found[name].append(measure(program, *of_keras))
            print(f"round {number}: {name}: {found[name][-1]}", flush=True)
    columns = (
        ("fit_s", "fit s", BARE),
        ("cpu_s", "fit CPU s", BAREBONES),
        ("process_s", "whole process s", next(iter(found))),
    )
    text = f"{hardware()}\n\n{table(found, 'program', columns)}\n"
    print(f"\n{text}")
    (OUTPUTS / "bench.md").write_text(text)
    (OUTPUTS / "bench.json").write_text(
        json.dumps({"hardware": hardware(), "runs": found}, indent=2) + "\n"
    )
    picture(found).savefig(OUTPUTS / "bench.png", dpi=120)
    print(f"written: {OUTPUTS}/bench.md, bench.json, bench.png")


if __name__ == "__main__":
    main()
