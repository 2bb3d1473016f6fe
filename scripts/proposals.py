"""Try ten proposals against the example, and end with a ledger of verdicts.

    .venv/bin/python scripts/proposals.py outputs/proposals trainer.max_epochs=2

Each proposal is a sweep over the same seeds; one that is refused or crashes has its line in the
ledger, too. All are in one folder, so that `leyden compare` knows how many there are. Started
again, it resumes. No run sees the test set.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SEEDS = "seed=0,1,2"  # decided before the first result
BASE = "base"
PROPOSALS = {  # overrides by name; yours may come from a person or a program
    "wider": ["model.hidden_sizes=[1024]"],
    "deeper": ["model.hidden_sizes=[512,512]"],
    "dropout": ["model.dropout=0.2"],
    "adam": ["optimizer=adam"],
    "larger_steps": ["optimizer.lr=0.003"],
    "smaller_steps": ["optimizer.lr=0.0001"],
    "small_batches": ["data.batch_size=32"],
    "smooth_labels": ["task.label_smoothing=0.1"],
    "diverges": ["optimizer.lr=1e30"],  # crashes while it trains
    "no_units": ["model.hidden_sizes=[0]"],  # is refused before it trains
}


def leyden(verb: str, *words: str) -> tuple[int, str, str]:
    """Return the exit code of a command of Leyden, what it printed, and its error in a line."""
    done = subprocess.run(
        [sys.executable, "-m", f"leyden.{verb}", *words], capture_output=True, text=True
    )
    errors = [
        line.removeprefix("leyden: ")
        for line in done.stderr.splitlines()
        if line.startswith("leyden: ")
    ]
    return done.returncode, done.stdout, errors[-1] if errors else ""


def main(folder: Path, *overrides: str) -> None:
    """Train each proposal, compare it with the base, print the ledger and write it."""
    ends = {}
    for name, words in {BASE: [], **PROPOSALS}.items():
        place = (f"outputs={folder}", f"name={name}", f"sweep_name={name}", "sweep.pictures=none")
        code, _, error = leyden("train", "-m", *place, SEEDS, *words, *overrides)
        ends[name] = f"exit code {code}: {error}" if code else ""
        print(f"{name:14} {'failed' if code else 'trained'}", flush=True)
    ledger = []
    # Once, when all have been tried: each comparison of new runs is a look.
    code, output, error = leyden("compare", str(folder), f"control=name={BASE}", "format=json")
    compared = [] if code else json.loads(output)["settings"]
    for found in compared:  # the best first
        name = found["choices"]["name"]
        kept = {key: found[key] for key in ("verdict", "difference", "interval", "confidence")}
        ledger.append({"proposal": name, "overrides": PROPOSALS[name], **kept})
    known = {line["proposal"] for line in ledger}
    for name, words in PROPOSALS.items():
        if name not in known:
            verdict = ends[name] or error
            ledger.append(
                {"proposal": name, "overrides": words, "verdict": verdict, "interval": None}
            )
    for line in ledger:
        print(f"{line['proposal']:14} {in_words(line)}")
    (folder / "ledger.json").write_text(json.dumps(ledger, indent=2))


def in_words(line: dict[str, Any]) -> str:
    """Return the verdict on a proposal, with the interval of its difference from the base."""
    verdict = (
        line["verdict"]
        .replace("setting is", f"{line['proposal']} is")
        .replace("control is", f"{BASE} is")
    )
    if not line["interval"]:
        return verdict
    low, high = line["interval"]
    return f"{verdict}: {line['difference']:+.4f}, from {low:+.4f} to {high:+.4f}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
