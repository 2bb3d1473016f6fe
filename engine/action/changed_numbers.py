"""Whether a change of the code has changed the numbers of small runs, for a comment on a pull request.

    python engine/action/changed_numbers.py base=main head=HEAD runs/mnist runs/table [seeds=5]
        [data_root=data] [comment=FILE]

A run stands for its settings: they are trained with the code of the base, twice, and of the head. Equal bits end it
there. Otherwise the size of the first difference tells rounding from more, and further seeds of both tell whether the
objective has left the base's own noise. No expected numbers are stored, so no other machine's count.
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from leyden import verdict
from leyden.base.arguments import parse_number
from leyden.base.errors import UserError, ending
from leyden.base.paths import root
from leyden.report.difference import equality
from leyden.run.curves import read_points
from leyden.run.directory import Run
from leyden.run.provenance import git
from leyden.trained.reproduction import recorded_settings, train_again

# Share of a loss, up to which its first difference is rounding. Of the planted commits (`engine/bench/planted.py`),
# roundings had at most 6e-6, and mistakes at least 2e-3.
ROUNDING = 1e-4
MARK = "<!-- leyden: changed numbers -->"  # by which the comment is found again
OPTIONS = {"base": "", "head": "HEAD", "seeds": "5", "comment": "", "data_root": ""}


class Finding(NamedTuple):
    """What a change has done to a run.

    Args:
        kind: `same` bits; `rounding`; `numbers`, which part by more than that; or `beyond` the noise, too.
        text: The same in a sentence.
    """

    kind: str
    text: str


class Judge:
    """Trains a run's settings with two commits, and compares them.

    Args:
        run: The run.
        base: A commit.
        head: The commit that may have changed the numbers.
        folder: Folder for run directories; those of the base in it are used again.
        num_seeds: Number of seeds where bits part.
        data_root: Folder of the data; empty for the recorded one.
    """

    def __init__(
        self,
        run: Run,
        base: str,
        head: str,
        folder: Path,
        num_seeds: int = 5,
        data_root: str = "",
    ) -> None:
        self.run = run
        self.data_root = data_root
        self.commits = {"base": base, "head": head}
        self.folder = folder
        self.num_seeds = num_seeds

    def judge(self) -> Finding:
        """Return what the change has done to the run."""
        base = self.trained("base")
        again = self.trained("base", place="again")
        head = self.trained("head")
        is_noisy = not equality(base, again)[0]
        is_equal, lines, _ = equality(base, head)
        if is_equal and not is_noisy:
            return Finding("same", "same bits")
        if is_noisy:
            where = "the base parts from itself, so bits say nothing"
            kind = "numbers"
        else:
            size, name = first_difference(base, head)
            where = lines[0] if lines[0].startswith("diverged") else lines[-1]
            where = where.removeprefix("diverged: ").replace(" is the first fingerprint that", "")
            kind = "rounding" if size <= ROUNDING else "numbers"
            as_what = "as rounding does" if kind == "rounding" else "more than rounding"
            by = f"first by {size:.0e} of {name}" if size else "no metric shows it"
            where = f"parts: {where}; {by}, {as_what}"
        found, numbers = self.compared()
        if found.better or not found.interval:
            kind = "beyond" if found.better else kind
        side = "beyond" if found.better else "within"
        return Finding(kind, f"{where}; {side} the base's own noise: {numbers}")

    def compared(self) -> tuple[verdict.Verdict, str]:
        """Return the verdict on the objective of the head and of the base, and their means."""
        rows = []
        objective = None
        for code in self.commits:
            for number in range(self.num_seeds):
                result = self.trained(code, number).result
                if result and result.objective:
                    objective = result.objective
                    rows.append({"code": code, "seed": number, "value": objective.value})
        if not objective:
            raise UserError(f"{self.run.directory}: has no objective to compare")
        sides = ({"code": "head"}, {"code": "base"})
        asked = {"mode": objective.mode, "planned": True, "pairs": True}
        found = verdict.compare(rows, "value", *sides, **asked)
        head, base = found.sides
        num = min(found.found.nums)
        return found.found, f"{objective.metric} {base.mean:.4f} → {head.mean:.4f}, n = {num}"

    def trained(self, code: str, number: int = 0, place: str = "") -> Run:
        """Return the run of the base or the head with the number-th seed."""
        commit = self.commits[code]
        seed = self.run.config["seed"] + number
        directory = self.folder / f"{commit[:12]}{place}" / f"seed_{seed}"
        known = Run(directory)
        if known.result and known.result.is_complete:
            return known
        settings = recorded_settings(self.run, directory, self.data_root)
        settings |= {"seed": seed, "test": False}
        state = {"sha": commit, "dirty": False, "diff": "", "left_out": []}
        return train_again(self.run, settings, state)


def first_difference(a: Run, b: Run) -> tuple[float, str]:
    """Return the relative size of the first difference of two runs' curves, and its metric."""
    there = dict(_points(a))
    for (step, metric), value in _losses_first(b):
        other = there.get((step, metric), value)
        if other != value:
            return abs(other - value) / max(abs(other), abs(value)), f"{metric} at step {step}"
    return 0.0, ""


def _points(run: Run) -> Iterator[tuple[tuple[int, str], float]]:
    for step, metric, value in read_points(run.directory / "metrics.csv"):
        if not metric.startswith("time/"):
            yield (step, metric), value


def _losses_first(run: Run) -> list[tuple[tuple[int, str], float]]:
    """Return the points by step; of a step the losses first, since rounding can turn an accuracy."""
    return sorted(_points(run), key=lambda point: (point[0][0], not point[0][1].endswith("loss")))


def comment(findings: dict[str, Finding]) -> str:
    """Return the comment, as Markdown."""
    lines = [MARK, "**Did this change the numbers?**", ""]
    for name, found in findings.items():
        lines.append(f"- `{name}`: {found.text}")
    return "\n".join(lines) + "\n"


def commit_of(key: str, text: str) -> str:
    """Return the commit that a text names."""
    found = git(root(), "rev-parse", "--verify", "--quiet", f"{text}^{{commit}}")
    if not found or text.startswith("-"):
        raise UserError(f"{key}={text}: is no commit of this repository")
    return found.strip()


def main(words: Sequence[str]) -> None:
    """Judge each run, print the comment and write it."""
    options = dict(OPTIONS)
    folders = []
    for word in words:
        key, sign, value = word.partition("=")
        if sign and key in options:
            options[key] = value
        else:
            folders.append(Path(word))
    if not folders or not options["base"]:
        raise UserError("usage: changed_numbers.py base=COMMIT [head=HEAD] [seeds=5] RUN ...")
    base = commit_of("base", options["base"])
    head = commit_of("head", options["head"])
    num_seeds = parse_number(options, "seeds") or 0
    findings = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, path in enumerate(folders):
            run = Run(path, trust=True)  # it is a file of the repository, as the code that it names
            try:
                place = Path(folder) / str(number)
                judge = Judge(run, base, head, place, num_seeds, options["data_root"])
                findings[str(path)] = judge.judge()
            except UserError as error:
                findings[str(path)] = Finding("failed", f"can't be trained: {error}")
    text = comment(findings)
    print(text)
    if options["comment"]:
        Path(options["comment"]).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    with ending():
        main(sys.argv[1:])
