"""What a machine with an NVIDIA GPU answers, in tables: training beside loops by hand, bits, memory, several networks at once.

    make -C engine bench ARGS="--gpu"
    python engine/bench/gpu.py --only memory several

Each program is a process of its own. A round starts all programs of a table once, in an order of its own; figures are medians over the
rounds with their ranges, ratios are medians of those within a round. What fails has its error in its row. `epoch s` and samples/s are of
the epochs after the first; Leyden's include validation, logging and checkpoints, the loops' nothing but training, without augmentation or
a schedule. Tables are printed as soon as they are measured, and written to outputs/bench/gpu.md. `--device cpu --tiny` shows on any machine
that the programs run.
"""

import argparse
import contextlib
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from rounds import (
    Bench,
    Column,
    Run,
    failure,
    in_turn,
    machine,
    markdown,
    median,
    python,
    reason,
    table,
)

from leyden.base.paths import root
from leyden.run.files import first_difference, read_fingerprints

OUTPUTS = root() / "outputs" / "bench"
GOAL_S = 1.5  # of the example's fit on an H100
RECIPES = {"example": [], "cnn": ["experiment=cnn"], "resnet": ["experiment=resnet"]}
EPOCHS = "trainer.max_epochs=3"
# A run of which only the fit is timed: without what is drawn after it.
SHORT = [EPOCHS, *(f"~callbacks.{name}" for name in ("curves", "confusion", "errors"))]
BARE = "bare PyTorch loop"
GRAPH = f"{BARE}, as a CUDA graph"
ONE_BY_ONE = "one after another"
TERMINATED = 128 + signal.SIGTERM  # exit code


def example(bench: Bench) -> Iterable[str]:
    """Five epochs of the example, beside the same network in loops."""
    ours = "Leyden, all defaults"
    programs = {ours: bench.leyden("test=true"), BARE: bench.loop(), GRAPH: bench.loop("--graph")}
    found = bench.alternate(programs)
    columns = [
        Column("fit s", "fit_s"),
        Column(f"÷ {BARE}", "fit_s", BARE),
        Column("epoch s", "epoch_s"),
    ]
    columns += [Column(f"÷ {BARE}", "epoch_s", BARE), Column("whole process s", "process_s")]
    yield bench.head("Five epochs of the example.")
    yield table("program", found, *columns, Column("val/acc", "val_acc"))
    if not failure(found[ours]):
        seconds = statistics.median(run["fit_s"] for run in found[ours])
        is_reached = "reached" if seconds <= GOAL_S else "missed"
        where = "" if "H100" in machine(bench.device) else " on another device"
        yield f"\nGoal: fit <= {GOAL_S} s on an H100; {is_reached}{where}, {seconds:.2f} s."


def recipes(bench: Bench) -> Iterable[str]:
    """The recipes of the larger networks in samples/s, beside loops."""
    for name in ("cnn", "resnet"):
        plain = [*RECIPES[name], "data/augment=none"]
        bare = [
            *plain,
            EPOCHS,
            "callbacks=bare",
            "logger=none",
            "objective=null",
            "data.val_size=0",
        ]
        programs = {
            "Leyden": bench.leyden(*RECIPES[name], *SHORT),
            "Leyden, without augmentation": bench.leyden(*plain, *SHORT),
            "Leyden, without augmentation, logging and validation": bench.leyden(*bare),
            BARE: bench.loop(*RECIPES[name], "--epochs", "3"),
            GRAPH: bench.loop(*RECIPES[name], "--epochs", "3", "--graph"),
        }
        columns = [
            Column("samples/s", "samples_s"),
            *(Column(f"÷ {each}", "samples_s", each) for each in (BARE, GRAPH)),
        ]
        yield bench.head(f"The recipe {name}.")
        yield table("program", bench.alternate(programs), *columns, Column("fit s", "fit_s")) + "\n"


def options(bench: Bench) -> Iterable[str]:
    """Compilation, half precision and fused optimizers, each beside the default."""
    both = {
        "`compile=true`": ["compile=true"],
        "`trainer.precision=bf16-mixed`": ["trainer.precision=bf16-mixed"],
    }
    fused = {"`+optimizer.fused=true`": ["+optimizer.fused=true"]}
    for what, base, changes in (
        ("The example", [], both),
        ("The example with `optimizer=adam`", ["optimizer=adam"], fused),
        ("The recipe resnet", RECIPES["resnet"], {**both, **fused}),
    ):
        programs = {
            name: bench.leyden(*base, *SHORT, *more)
            for name, more in {"default": [], **changes}.items()
        }
        columns = [
            Column("epoch s", "epoch_s"),
            Column("÷ default", "epoch_s", "default"),
            Column("fit s", "fit_s"),
        ]
        columns += [Column("÷ default", "fit_s", "default"), Column("val/acc", "val_acc")]
        yield bench.head(f"{what}, with one setting changed. The fit includes compiling.")
        yield table("setting", bench.alternate(programs), *columns) + "\n"


def resume(bench: Bench) -> Iterable[str]:
    """Bits of runs that are stopped and resumed, with and without deterministic operators, and the cost of these."""
    heads = [
        "run",
        "repeated: the same bits",
        "stopped and resumed: the same bits",
        "epoch s",
        "cost",
    ]
    for name, recipe in list(RECIPES.items())[: 1 if bench.tiny else None]:
        given = {value: [*recipe, f"trainer.deterministic={value}"] for value in ("true", "false")}
        timed = bench.alternate(
            {value: bench.leyden(*words, *SHORT) for value, words in given.items()}
        )
        failed = failure([*timed["true"], *timed["false"]])
        seconds = {value: failure(runs) or median(runs, "epoch_s") for value, runs in timed.items()}
        costs = {"true": "none" if failed else cost(timed), "false": ""}
        rows = [
            [
                f"`trainer.deterministic={value}`",
                *same_bits(bench, words),
                seconds[value],
                costs[value],
            ]
            for value, words in given.items()
        ]
        what = "example" if name == "example" else f"recipe {name}"
        yield bench.head(
            f"The {what}: its bits (n = 1 each), and the cost of deterministic operators."
        )
        yield markdown(heads, rows) + "\n"


def same_bits(bench: Bench, overrides: list[str]) -> tuple[str, str]:
    """Return whether a run has the bits of the first one when it is repeated, and when it is stopped within an epoch and resumed."""
    num_batches = 2 if bench.tiny else 100
    stop = num_batches + num_batches // 3  # updates before the signal; one more is made
    few = [
        "trainer.max_epochs=2",
        f"trainer.limit_train_batches={num_batches}",
        "callbacks=bare",
        "logger=none",
    ]
    with tempfile.TemporaryDirectory() as folder:
        whole, again, stopped = (Path(folder, name) for name in ("whole", "again", "stopped"))

        def start(directory: Path, *more: str, **how: Any) -> Run:
            return bench.start(
                [*bench.leyden(*overrides), *few, f"run_dir={directory}", *more], **how
            )

        if failed := failure([start(whole)]):
            return failed, ""
        repeated = failure([start(again)]) or compare(whole, again, 2 * num_batches)
        failed = failure([start(stopped, environment={"SIGTERM_AT": str(stop)}, code=TERMINATED)])
        saved = max(read_fingerprints(stopped), default=0)
        failed = failed or failure([start(stopped, "resume=must")])
        resumed = failed or f"{compare(whole, stopped, 2 * num_batches)} (stopped at step {saved})"
    return repeated, resumed


def compare(run: Path, other: Path, num_steps: int) -> str:
    """Return whether two runs have the same weights, optimizer states and random states to their last step."""
    a, b = read_fingerprints(run), read_fingerprints(other)
    if num_steps not in {*a} & {*b}:
        return f"failed: no fingerprint at step {num_steps}"
    different = first_difference(a, b)
    return f"no, {' and '.join(different[1])} from step {different[0]}" if different else "yes"


def cost(timed: dict[str, list[Run]]) -> str:
    """Return by how many percent an epoch takes longer with deterministic operators."""
    ratios = [
        a["epoch_s"] / b["epoch_s"] for a, b in zip(timed["true"], timed["false"], strict=True)
    ]
    return f"{100 * (statistics.median(ratios) - 1):+.1f} %"


def memory(bench: Bench) -> Iterable[str]:
    """Memory on the GPU at its peak, in MiB."""
    found = {
        name: [bench.start(bench.leyden(*RECIPES[name], *SHORT))] for name in ("example", "resnet")
    }
    yield bench.head(
        "torch.cuda.max_memory_allocated after the fit; the data lie on the GPU, too.", 1
    )
    yield table("run", found, Column("MiB", "peak_mib"))


def several(bench: Bench) -> Iterable[str]:
    """Copies of the example's network trained at once: samples/s of all together, and the ratio to one after another."""
    nums = [1, 2] if bench.tiny else [1, 2, 4, 8, 16]
    copies = ["--copies", *map(str, nums)]
    ways = {ONE_BY_ONE: "in turn", "by `torch.func.vmap`": "vmap", "in CUDA streams": "streams"}
    programs = {name: bench.loop("--way", way, *copies) for name, way in ways.items()}
    programs |= {f"{name}, as CUDA graphs": [*words, "--graph"] for name, words in programs.items()}
    at_once = "as processes"
    found: dict[str, list[Run]] = {name: [] for name in (*programs, at_once)}
    for number, name in in_turn(found, bench.num_rounds):
        if bench.device == "cpu" and name == "in CUDA streams":
            run: Run = {"failed": "skipped: streams need a GPU"}
        elif name == at_once:
            run = {str(num): processes(bench, num) for num in nums}
        else:
            run = bench.start(programs[name])
        found[name].append(run)
        print(f"round {number}: {name}: {run}", file=sys.stderr, flush=True)
    rows = []
    for name, runs in found.items():
        cells = [failed] if (failed := failure(runs)) else []
        for num in map(str, [] if failed else nums):
            these, base = (
                [run.get(num, run) for run in each] for each in (runs, found[ONE_BY_ONE])
            )
            figures = f"{median(these, 'samples_s')}; {median(these, 'samples_s', base)}"
            cells.append(failure(these) or figures)
        rows.append([name, *cells])
    yield bench.head(f"Samples/s of all copies together, and ratio to one after another. {mps()}")
    yield markdown(["copies", *map(str, nums)], rows)


def processes(bench: Bench, num: int) -> Run:
    """Train a copy in each of several processes, which begin together once all are ready."""
    command = python(bench.loop("--way", "in turn", "--wait"))
    with contextlib.ExitStack() as stack:
        errors = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(num)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started = []
        for file in errors:
            process = subprocess.Popen(command, stderr=file, env=bench.environment(), **pipes)
            started.append(stack.enter_context(process))
            stack.callback(process.kill)
        said = [each.stdout.readline() for each in started]
        for each, line in zip(started, said, strict=True):
            if line == "ready\n":
                with contextlib.suppress(BrokenPipeError):  # what it says is read below
                    each.stdin.write("\n")
                    each.stdin.flush()
        said = [
            line if line != "ready\n" else each.stdout.read()
            for each, line in zip(started, said, strict=True)
        ]
        runs = []
        for each, line, file in zip(started, said, errors, strict=True):
            file.seek(0)
            failed = each.wait() or not line
            runs.append(
                {"failed": reason(file.read(), each.returncode)}
                if failed
                else json.loads(line)["1"]
            )
    if failed := failure(runs):
        return {"failed": failed}
    seconds = max(run["end"] for run in runs) - min(run["start"] for run in runs)
    return {"samples_s": sum(run["samples"] for run in runs) / seconds}


def mps() -> str:
    """Say whether NVIDIA's multi-process service runs, by which processes share a GPU without taking turns."""
    if not shutil.which("nvidia-cuda-mps-control"):
        return "Whether MPS is running is not known: there is no nvidia-cuda-mps-control."
    words = {"input": "get_server_list\n", "capture_output": True, "text": True, "timeout": 60}
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["nvidia-cuda-mps-control"], **words)
        if not done.returncode and "Cannot find" not in done.stdout + done.stderr:
            return "MPS is running."
    return "MPS is not running."


QUESTIONS: dict[str, Callable[[Bench], Iterable[str]]] = {
    each.__name__: each for each in (example, recipes, options, resume, memory, several)
}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each program")
    parser.add_argument(
        "--only", nargs="+", choices=QUESTIONS, default=list(QUESTIONS), help="only these tables"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--tiny", action="store_true", help="a few batches of all, which shows that it runs"
    )
    told = parser.parse_args()
    if told.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU that PyTorch can use; --device cpu --tiny shows that the programs run")
    bench, lines = Bench(told.device, told.rounds, told.tiny), []
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    for name in told.only:
        try:
            for text in QUESTIONS[name](bench):
                print(text, flush=True)
                lines.append(text)
        except Exception as error:  # the other tables are measured all the same
            lines.append(f"{name} failed: {type(error).__name__}: {error}".splitlines()[0])
            print(lines[-1], flush=True)
        (OUTPUTS / "gpu.md").write_text("\n".join([*lines, ""]))
        print(flush=True)


if __name__ == "__main__":
    main()
