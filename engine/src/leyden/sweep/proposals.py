"""A night of proposals: a command proposes changes of a run, a verdict keeps the better.

The error of the verdicts is shared by all proposals of the night. What has happened stands in a
ledger, of which each line is signed; a night that was killed is replayed from it, and goes on.
"""

import functools
import json
import math
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from leyden.base.errors import Exit, UserError
from leyden.base.paths import environment_of, root, source_folder
from leyden.base.terminal import one_line, show, some_of
from leyden.config.hydra import compose_command, composing
from leyden.config.values import differing, flatten
from leyden.exact.files import read_bounded
from leyden.exact.resumption import run_group
from leyden.run.directory import Run
from leyden.run.files import MAX_JSON_BYTES, parse_json, read_rows, write_whole
from leyden.run.identity import hydra_value, key_of, path_of
from leyden.run.keys import Role, has, roles_of
from leyden.run.lock import LOCK_TIMEOUT_S, hold_directory
from leyden.run.owner import is_own, signature
from leyden.run.process import end_with_parent
from leyden.run.provenance import DIFF_OPTIONS, GIT_OF_COPY, MAX_DIFF_BYTES, git, state_of_code
from leyden.trained.reproduction import checked_out
from leyden.verdict.difference import LEVEL, Asked, Verdict, decide_two
from leyden.verdict.groups import MIN_PLANNED_PAIRS, Group
from leyden.verdict.quantiles import t_quantile

if sys.platform != "win32":
    import resource

MIN_CHANCE = 0.05  # of being kept; a proposal with less is trained with no further seed
MAX_PRINTED_BYTES = 2**20
MAX_SHOWN_TEXT = 200  # characters of what was printed
MAX_WRITTEN_BYTES = 2**28  # that a proposal may write
KEPT = "kept"
GOES_ON = "trained on"
# Keys that measure, or how long is trained. Those of samples, tests and paths are known by their
# roles.
FIXED = re.compile(r"(seed|objective|hydra|experiment|debug)(\..*)?|trainer\.(max|limit|fast)_.*")
OF_MEASURE = Role.SAMPLES | Role.TEST_SET | Role.PATH
OVERRIDE = re.compile(r"\+{0,2}[A-Za-z_][^=]*=.*|~[A-Za-z_].*")
STOPPED = (Exit.INTERRUPTED, Exit.TERMINATED, Exit.REQUEUED, -signal.SIGINT, -signal.SIGTERM)
Line = dict[str, Any]  # of the ledger


@dataclass(frozen=True)
class Rule:
    """The rule by which a proposal is kept.

    Args:
        mode: `min` or `max`, the better direction of the objective.
        num_proposals: Largest number of proposals of the night, which share the error.
        num_seeds: Seeds after which a proposal is decided, the same for all.
    """

    mode: str
    num_proposals: int
    num_seeds: int

    def verdict(self, values: Sequence[float], of_best: Sequence[float]) -> Verdict:
        """Return the verdict on a proposal that has been trained with all seeds."""
        level = 2 * LEVEL / self.num_proposals  # two-sided, and only one side is kept
        asked = Asked(self.mode, level, level)
        a = Group(dict(enumerate(values)))
        b = Group(dict(enumerate(of_best)))
        return decide_two(a, b, asked, MIN_PLANNED_PAIRS)

    def is_hopeless(self, values: Sequence[float], of_best: Sequence[float]) -> bool:
        """Return whether the predicted chance that a proposal will be kept is too small.

        That is the chance that the mean difference over all seeds is large enough, given those that
        are known (Lan, Simon and Halperin, Sequential Analysis 1, 1982).
        """
        gains = []
        for value, best in zip(values, of_best, strict=False):
            gain = value - best
            if self.mode == "min":
                gain = -gain
            gains.append(gain)
        num = len(gains)
        spread = math.sqrt(2) * statistics.stdev(of_best)
        if num >= MIN_PLANNED_PAIRS:
            spread = statistics.stdev(gains)
        level = LEVEL / self.num_proposals
        quantile = t_quantile(level, self.num_seeds - 1)
        needed = quantile * math.sqrt(1 / self.num_seeds)
        still_open = math.sqrt(1 / num - 1 / self.num_seeds)
        hope = statistics.NormalDist().inv_cdf(1 - MIN_CHANCE) * still_open
        return statistics.fmean(gains) <= (needed - hope) * spread


class Ledger:
    """The lines of a night; each has a signature of all text up to it.

    Args:
        path: Path of the file.

    Raises:
        UserError: A line is not the user's own, or was changed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[Line] = []
        self.text = ""
        for number, text in enumerate(self._read().splitlines(), 1):
            line = parse_json(text)
            signed = str(line.pop("signature", ""))
            if not is_own(self.text + json.dumps(line), signed):
                raise UserError(f"{path}: line {number} is not yours, or something changed it")
            self._add(line, signed)

    def _read(self) -> str:
        try:
            return read_bounded(self.path, MAX_JSON_BYTES).decode()
        except FileNotFoundError:
            return ""
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path}: can't be read ({error})") from error

    def _add(self, line: Line, signed: str) -> None:
        self.lines.append(line)
        self.text += json.dumps({**line, "signature": signed}) + "\n"

    def append(self, line: Line) -> None:
        """Write a line.

        Raises:
            UserError: Something else has changed the file.
        """
        if self._read() != self.text:
            raise UserError(f"{self.path}: something else changed it; the night ends")
        signed = signature(self.text + json.dumps(line))
        self._add(line, signed)
        write_whole(self.path, self.text)


@dataclass
class Candidate:
    """The base, or a proposal, with its values so far.

    Args:
        number: Number of the proposal; 0 for the base.
        overrides: Overrides of its runs.
        code: Its code, as of `state_of_code`.
        values: Values of the objective, by seed.
    """

    number: int
    overrides: list[str]
    code: Mapping[str, Any]
    values: list[float] = field(default_factory=list)


@dataclass
class Night:
    """A night of proposals, from its beginning or from where it was killed.

    Args:
        folder: Its folder, absolute.
        asked: What can't change when it continues: `command`, `overrides`, `proposals`, `seeds`.
        max_runs: Largest number of runs.
        max_minutes: Time after which no run begins.
        timeout_min: Limit of a proposal, and of a run.
    """

    folder: Path
    asked: Line
    max_runs: float
    max_minutes: float
    timeout_min: float

    def run(self) -> None:
        """Ask for proposals, try them, and print what is kept.

        Raises:
            UserError: The folder holds another night, or the base can't be trained.
        """
        with hold_directory(self.folder, LOCK_TIMEOUT_S):
            self.ledger = Ledger(self.folder / "ledger.jsonl")
            self.num_replayed = 0
            self.rule = Rule("", self.asked["proposals"], self.asked["seeds"])
            self._run()

    def _run(self) -> None:
        head = self.step("night", lambda: {**self.asked, **begin(self.asked["overrides"])})
        for key, value in self.asked.items():
            if head[key] != value:
                raise UserError(f"{self.folder}: its night has {key} {head[key]}; choose night=DIR")
        self.data_root = head["data_root"]
        best = Candidate(0, self.asked["overrides"], head["code"])
        self.try_out(best, None)
        for number in range(1, self.rule.num_proposals + 1):
            if self.is_spent():
                break
            found = self.step("proposal", functools.partial(self.ask, number, best))
            if found["error"]:
                show(f"proposal {number}: {found['error']}")
                continue
            if not found["overrides"] and found["diff"] is None:
                show("nothing more is proposed")
                break
            code = best.code
            if found["diff"] is not None:
                code = {**code, "dirty": True, "diff": found["diff"]}
            proposal = Candidate(number, merged(best.overrides, found["overrides"]), code)
            if self.try_out(proposal, best):
                best = proposal
        write_whole(self.folder / "kept.diff", best.code["diff"])
        show(f"kept: {shlex.join(best.overrides)} with the code of {self.folder / 'kept.diff'}")
        tests = num_tests() - head["tests"]
        show(f"{self.num_runs()} runs; evaluations on the test set meanwhile: {tests}")

    def step(self, event: str, action: Callable[[], Line]) -> Line:
        """Return the next line of the ledger, which an action makes unless it was there."""
        if self.num_replayed == len(self.ledger.lines):
            began = time.monotonic()
            line = {"event": event, **action()}
            self.ledger.append({**line, "seconds": time.monotonic() - began})
        self.num_replayed += 1
        return self.ledger.lines[self.num_replayed - 1]

    def num_runs(self) -> int:
        """Return the number of runs up to the present line."""
        return sum(line["event"] == "run" for line in self.ledger.lines[: self.num_replayed])

    def is_spent(self) -> bool:
        """Return whether the budget is spent."""
        seconds = sum(line["seconds"] for line in self.ledger.lines[: self.num_replayed])
        return self.num_runs() >= self.max_runs or seconds >= 60 * self.max_minutes

    def try_out(self, proposal: Candidate, best: Candidate | None) -> bool:
        """Train a proposal with seed after seed, and return whether it is kept.

        Args:
            proposal: The proposal, which gets its values.
            best: What it is compared with; None for the base.
        """
        while len(proposal.values) < self.rule.num_seeds:
            if best and self.is_spent():
                return False
            found = self.step("run", functools.partial(self.train, proposal, best))
            if found["error"]:
                show(f"proposal {proposal.number}: {found['error']}")
                return False
            proposal.values.append(found["value"])
            self.rule = replace(self.rule, mode=found["mode"])
            if best:
                look = self.step("look", functools.partial(self.look, proposal, best))
                if look["decision"] != GOES_ON:
                    show(f"proposal {proposal.number}: {look['decision']}, {look['words']}")
                    return bool(look["decision"] == KEPT)
        return True

    def look(self, proposal: Candidate, best: Candidate) -> Line:
        """Return the decision on a proposal after its seeds so far."""
        num = len(proposal.values)
        difference = statistics.fmean(proposal.values) - statistics.fmean(best.values[:num])
        line: Line = {
            "number": proposal.number,
            "seeds": num,
            "difference": difference,
            "decision": GOES_ON,
            "words": f"n = {num}: {difference:+.4f}",
        }
        if num < self.rule.num_seeds:
            if self.rule.is_hopeless(proposal.values, best.values):
                line["decision"] = "hopeless"
            return line
        found = self.rule.verdict(proposal.values, best.values)
        line["decision"] = "not kept"
        if found.better == "a":
            line["decision"] = KEPT
        if found.interval:
            line["words"] += ", from {:+.4f} to {:+.4f}".format(*found.interval)
        line["interval"] = found.interval
        return line

    def ask(self, number: int, best: Candidate) -> Line:
        """Return what the command proposes: overrides, or other code, or an error."""
        line: Line = {
            "number": number,
            "overrides": [],
            "diff": None,
            "error": "",
        }
        with checked_out(best.code) as tree:
            git(tree, "add", "--all")
            before = git(tree, "write-tree") or ""
            variables = {"LEYDEN_PROPOSAL": str(number)}
            command = self.asked["command"]
            try:
                output = self.called(command, tree, variables, preexec_fn=limited)
                line["overrides"] = checked_overrides(output)
                line["diff"] = changed_code_of(tree, str(best.code["sha"]), before.strip())
            except ValueError as error:
                line["error"] = f"not tried: {one_line(error)}"
        return line

    def train(self, proposal: Candidate, best: Candidate | None) -> Line:
        """Return the value of the objective of a proposal's run with its next seed, or an error.

        Raises:
            UserError: It is the base that fails, or the run was stopped from outside.
        """
        seed = len(proposal.values)
        directory = self.directory(proposal, seed)
        line: Line = {
            "number": proposal.number,
            "seed": seed,
            "value": None,
            "error": "",
        }
        forced = {
            "run_dir": directory,
            "outputs": root() / "outputs",
            "seed": seed,
            "test": False,
        }
        if self.data_root:
            forced["data.root"] = self.data_root
        command = [sys.executable, "-m", "leyden.train", *proposal.overrides]
        for key, value in forced.items():
            command.append(f"{key}={hydra_value(value)}")
        try:
            with checked_out(proposal.code) as tree:
                options = {"stderr": subprocess.STDOUT, "preexec_fn": end_with_parent}
                self.called(command, tree, environment_of(tree), **options)
            line |= self.result(Run(directory), best)
        except ValueError as error:
            line["error"] = f"failed: {one_line(error)}"
        if line["error"] and not best:
            raise UserError(f"the base {line['error']}")
        return line

    def directory(self, candidate: Candidate, seed: int) -> Path:
        """Return the directory of a candidate's run."""
        return self.folder / "runs" / f"{candidate.number}-seed_{seed}"

    def result(self, run: Run, best: Candidate | None) -> Line:
        """Return what the ledger has of a finished run.

        Raises:
            ValueError: It has no value, or measures otherwise than the base.
        """
        try:
            run.check_owner()
            result = run.result
            config = run.config
            base = config
            if best:
                base = Run(self.directory(best, config["seed"])).config
        except UserError as error:
            raise ValueError(str(error)) from error
        fixed = []
        for key in differing(dict(flatten(base)), dict(flatten(config))):
            if has(key, Role.BITS) and not may_change(key):
                fixed.append(key)
        if fixed:
            raise ValueError(f"it changes {some_of(fixed)}, which measure")
        if not result or result.is_tested or not result.objective:
            raise ValueError("it has no objective, or was evaluated on the test set")
        objective = result.objective
        if objective.value is None or not math.isfinite(objective.value):
            raise ValueError(f"its {objective.metric} is {objective.value}")
        return {"value": objective.value, "mode": objective.mode}

    def called(
        self, command: list[str], folder: Path, variables: Mapping[str, str], **options: Any
    ) -> str:
        """Run a command in a folder with the ledger as its input, and return what it prints.

        Raises:
            ValueError: It fails, or does not end.
            UserError: There is no such command, or something else stopped it.
        """
        with tempfile.TemporaryFile() as ledger, tempfile.TemporaryFile() as printed:
            ledger.write(self.ledger.text.encode())
            ledger.seek(0)
            launch = functools.partial(
                subprocess.Popen,
                command,
                cwd=folder,
                env={**os.environ, **variables},
                stdin=ledger,
                stdout=printed,
                start_new_session=True,
                **options,
            )
            try:
                code = run_group(launch, 60 * self.timeout_min)
            except OSError as error:
                raise UserError(f"{command[0]}: {error.strerror}") from error
            except subprocess.TimeoutExpired as error:
                raise ValueError(f"no end within {self.timeout_min:g} min") from error
            printed.seek(0)
            output = printed.read(MAX_PRINTED_BYTES).decode(errors="replace")
        if code in STOPPED:
            raise UserError(f"{command[0]} was stopped; the same command continues the night")
        if code:
            last = output.strip().rpartition("\n")[2]
            raise ValueError(f"exit code {code}: {last[-MAX_SHOWN_TEXT:]}")
        return output


def limited() -> None:
    """End with the parent, and write no file without end, such as standard output."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_WRITTEN_BYTES, MAX_WRITTEN_BYTES))
    if end_with_parent:
        end_with_parent()


def begin(overrides: Sequence[str]) -> Line:
    """Return what a night begins with: code, folder of the data, test evaluations so far."""
    with composing():
        found = OmegaConf.select(compose_command("train", overrides), "data.root")
    data_root = ""
    if found:
        data_root = str(Path(found).absolute())
    return {
        "code": state_of_code(),
        "data_root": data_root,
        "tests": num_tests(),
    }


def num_tests() -> int:
    """Return the number of evaluations on the test set that are listed."""
    return len(read_rows(root() / "outputs" / "test_evaluations.csv"))


def may_change(key: str) -> bool:
    """Return whether a proposal may set a key.

    One that changes bits, but not what is measured or how long is trained.

    Example:
        >>> [may_change(key) for key in ("optimizer.lr", "data.batch_size", "data.val_size")]
        [True, True, False]
    """
    roles = roles_of(key)
    return Role.BITS in roles and not roles & OF_MEASURE and not FIXED.fullmatch(key)


def merged(overrides: Sequence[str], new: Sequence[str]) -> list[str]:
    """Return overrides with new ones, of which the last one of a key counts."""
    by_key = {key_of(each): each for each in (*overrides, *new)}
    return [*by_key.values()]


def checked_overrides(output: str) -> list[str]:
    """Return the overrides that a command has printed.

    Raises:
        ValueError: It has printed something else, or a key that no proposal may set.
    """
    words = shlex.split(output, comments=True)
    for word in words:
        is_override = OVERRIDE.fullmatch(word) and word.isprintable()
        if not is_override or not may_change(path_of(word)):
            raise ValueError(f"{word[:MAX_SHOWN_TEXT]!r} is no override of a key that may change")
    return words


def changed_code_of(tree: Path, sha: str, before: str) -> str | None:
    """Return the changes of a work tree since its commit; None if it is as before.

    Args:
        tree: The project in the work tree.
        sha: The commit.
        before: git's object of the tree as it was before the command.

    Raises:
        ValueError: Something else than code and settings has changed, or too much.
    """
    git(tree, "add", "--intent-to-add", "--all")
    source = source_folder(tree).relative_to(tree)
    elsewhere = [":/", f":(exclude){source}", ":(exclude)conf"]
    changed = git(tree, "diff", "--name-only", "-z", before)
    outside = git(tree, "diff", "--name-only", "-z", before, "--", *elsewhere)
    if changed is None or outside is None:
        raise ValueError("git can't read the work tree")
    if outside:
        names = outside.split("\0")[:-1]
        raise ValueError(f"it edits {some_of(names)}, not src/ or conf/")
    if not changed:
        return None
    diff = git(tree, "diff", *DIFF_OPTIONS, sha, "--", ":/", f":(exclude,top)**/{GIT_OF_COPY}")
    if diff is None or len(diff) > MAX_DIFF_BYTES:
        raise ValueError("its changes are too large")
    return diff
