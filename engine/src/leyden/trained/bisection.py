"""The commit by which a run's numbers have changed.

Bits are compared by fingerprints, the metric by a verdict.
"""

import hashlib
import math
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from leyden.base.errors import UserError
from leyden.base.paths import root
from leyden.base.terminal import show, warn
from leyden.report.difference import equality
from leyden.run.directory import Run
from leyden.run.provenance import git
from leyden.trained.reproduction import recorded_code, recorded_settings, train_again
from leyden.verdict.difference import LEVEL, Asked, decide_two
from leyden.verdict.groups import MIN_PLANNED_PAIRS, Group

LOOKS_AT = (3, 5, 8, 12)  # seeds of two commits, when they are compared
# Files that pin packages; the first one that a commit has counts.
LOCKS = ("hashes/train.txt", "requirements.txt", "constraints.txt")


def find_first(commits: Sequence[str], is_changed: Callable[[str], bool | None]) -> Sequence[str]:
    """Return the first changed commit; if some before it can't be told, these and it.

    Args:
        commits: The commits after an unchanged one, the oldest first; the last one is changed.
        is_changed: Whether a commit is changed; None if that can't be told.

    Example:
        >>> find_first("abcdef", lambda commit: commit > "c")
        'd'
        >>> find_first("abcdef", lambda commit: None if commit == "c" else commit > "b")
        'cd'
    """
    unknown = set()
    begin = 0
    end = len(commits)
    while True:
        left = [number for number in range(begin, end - 1) if number not in unknown]
        if not left:
            return commits[begin:end]
        middle = left[len(left) // 2]
        found = is_changed(commits[middle])
        if found is None:
            unknown.add(middle)
        elif found:
            end = middle + 1
        else:
            begin = middle + 1


class Bisection:
    """A search among commits, which train the run's settings; what has been trained is used again.

    Args:
        run: The run.
        good: A commit with the right numbers; empty for the run's own.
        bad: A later commit.
        seeds: Largest number of seeds of a commit.

    Raises:
        UserError: The run is not the user's own or has no objective, or a commit is not later.
    """

    def __init__(self, run: Run, good: str, bad: str, seeds: int) -> None:
        run.check_owner()
        if not run.result or not run.result.objective:
            raise UserError(f"{run.directory}: has no value of an objective to compare")
        self.run = run
        self.objective = run.result.objective
        self.good = _commit("good", good or str(recorded_code(run).get("sha")))
        self.bad = _commit("bad", bad)
        listed = git(root(), "rev-list", "--first-parent", "--reverse", f"{self.good}..{self.bad}")
        self.commits = (listed or "").split()
        if not listed or git(root(), "merge-base", "--is-ancestor", self.good, self.bad) is None:
            raise UserError(f"bad={bad}: must be a later commit than good={self.good[:12]}")
        self.looks = [num for num in LOOKS_AT if num <= seeds]
        if not self.looks:
            raise UserError(f"seeds={seeds}: must be {LOOKS_AT[0]} or more")
        digest = hashlib.sha256(repr(run.config).encode())
        name = f"{run.directory.name}-{digest.hexdigest()[:8]}"
        self.folder = root() / "outputs" / "bisect" / name
        self._runs: dict[Path, Run | None] = {}

    def find(self) -> None:
        """Print the commit by which bits have changed, and the one by which the metric has.

        Raises:
            UserError: One of the ends can't be trained.
        """
        for name, commit in (("good", self.good), ("bad", self.bad)):
            if not self.trained(commit):
                raise UserError(f"{name}={commit[:12]}: can't be trained")
        since = self.commits
        again = self.trained(self.good, place="again")
        if again and not self.is_equal(self.good, again):
            show("good= trains to other bits each time, so only the metric is compared")
        elif not self.has_parted(self.bad):
            show("The same bits at good= and bad=: no commit between them has to be found.")
            return
        else:
            found = find_first(self.commits, self.has_parted)
            self.say("Bits changed", found)
            since = self.commits[self.commits.index(found[0]) :]
        if self.leaves(self.good, self.bad, self.looks):
            self.say(f"{self.objective.metric} changed", find_first(since, self.has_other_metric))

    def say(self, what: str, commits: Sequence[str]) -> None:
        """Print the first changed commit, and those before it that can't be told."""
        one_of = "" if len(commits) == 1 else ", or one of the others that are listed"
        for commit in commits:
            line = git(root(), "log", "-1", "--format=%h %s", commit) or commit
            show(f"{what} by {line.strip()}{one_of}")

    def trained(self, commit: str, number: int = 0, place: str = "") -> Run | None:
        """Return the run of a commit with the number-th seed; None if it can't be trained."""
        seed = self.run.config["seed"] + number
        directory = self.folder / f"{commit[:12]}{place}" / f"seed_{seed}"
        if directory not in self._runs:
            try:
                self._runs[directory] = self._train(commit, seed, directory)
            except UserError as error:
                warn(f"{commit[:12]} can't be trained: {error}")
                self._runs[directory] = None
        return self._runs[directory]

    def _train(self, commit: str, seed: int, directory: Path) -> Run:
        known = Run(directory)
        if known.result and known.result.is_complete:
            return known
        settings = recorded_settings(self.run, directory)
        settings |= {"seed": seed, "resume": "auto", "test": False}
        code = {"sha": commit, "dirty": False, "diff": "", "left_out": []}
        python = python_of(commit, self.folder.parent / "environments")
        return train_again(self.run, settings, code, python=python)

    def is_equal(self, commit: str, run: Run) -> bool:
        """Return whether a run has the bits of a commit's first one."""
        there = self.trained(commit)
        return there is not None and equality(there, run)[0]

    def has_parted(self, commit: str) -> bool | None:
        """Return whether a commit trains to other bits than the good one.

        It is None if the commit can't be trained.
        """
        there = self.trained(self.good)
        here = self.trained(commit)
        if not there or not here:
            return None
        is_equal, lines, _ = equality(there, here)
        show(f"{commit[:12]} {lines[-1]}")
        return not is_equal

    def has_other_metric(self, commit: str) -> bool | None:
        """Return whether a commit's metric is no more that of the good one; None if undecided."""
        here = self.trained(commit)
        if not here:
            return None
        for end in (self.good, self.bad):
            if self.is_equal(end, here):
                return end == self.bad
        for num in self.looks:
            if self.leaves(self.good, commit, [num]):
                return True
            if self.leaves(self.bad, commit, [num]):
                return False
        return None

    def leaves(self, end: str, commit: str, looks: Iterable[int]) -> bool:
        """Return whether a commit's metric is not that of another one.

        It is a verdict's answer, at the first look that decides.

        The tests of the search share the level, so that 95 % of searches have no wrong one.
        """
        num_decisions = 1 + math.ceil(math.log2(len(self.commits) + 1))
        level = LEVEL / (num_decisions * len(self.looks))
        asked = Asked(self.objective.mode, level, level)
        for num in looks:
            a = self.group(commit, num)
            b = self.group(end, num)
            found = decide_two(a, b, asked, MIN_PLANNED_PAIRS)
            means = f"{b.mean:.4f} at {end[:12]}, {a.mean:.4f} at {commit[:12]}"
            words = found.in_words(commit[:12], end[:12])
            show(f"{self.objective.metric} {means}, n = {num}: {words}")
            if found.better:
                return True
        return False

    def group(self, commit: str, num: int) -> Group:
        """Return the metric of the first seeds of a commit, without those that have failed."""
        values = {}
        for number in range(num):
            run = self.trained(commit, number)
            objective = run.result.objective if run and run.result else None
            if objective and objective.value is not None:
                values[number] = objective.value
        return Group(values)


def _commit(key: str, text: str) -> str:
    found = None
    if not text.startswith("-"):  # an option of git
        found = git(root(), "rev-parse", "--verify", "--quiet", f"{text}^{{commit}}")
    if not found:
        raise UserError(f"{key}={text}: is no commit of this repository")
    return found.strip()


def python_of(commit: str, folder: Path) -> str:
    """Return a Python that has the packages that a commit pins, and otherwise those that are here.

    Args:
        commit: The commit; one without a file that pins packages is trained with those that are
            here.
        folder: Folder for environments.

    Raises:
        UserError: The packages can't be installed.
    """
    for name in LOCKS:
        lock = git(root(), "show", f"{commit}:./{name}")
        if lock:
            break
    else:
        return sys.executable
    environment = folder / hashlib.sha256(lock.encode()).hexdigest()[:12]
    python = str(environment / "bin" / "python")
    done = environment / "done"
    if not done.exists():
        venv.create(environment, clear=True)
        # What is here, too, and is as the file wants it, or is not in it, is not installed again.
        packages = next(environment.glob("lib/*/site-packages"))
        here = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})"
        (packages / "here.pth").write_text(here, encoding="utf-8")
        path = environment / "lock.txt"
        path.write_text(lock, encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps"]
        if subprocess.run([*pip, "--requirement", str(path)], stdin=subprocess.DEVNULL).returncode:
            raise UserError(f"pip can't install its {name}")
        done.touch()
    return python
