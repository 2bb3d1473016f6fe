"""The commit that changed a run's numbers, by bits and by a verdict; and what git bisect is told."""

import random
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import pytest

from leyden.base.errors import UserError
from leyden.config.checks import Objective
from leyden.trained import bisection, reproduction
from leyden.trained.bisection import Bisection, python_of
from tests import ENGINE, ROOT, example
from tests.conftest import here
from tests.example import git

MEANS = [0.9, 0.9, 0.9, 0.9, 0.8, 0.8, 0.8]  # of seven commits; the fifth is a mistake
BITS = "aabbccc"  # the third changes the rounding


@pytest.fixture
def search(tmp_path, monkeypatch):
    """Searches seven commits, whose runs are drawn; gives what was said, and the number of runs."""
    git(tmp_path, "init", "-q")
    commits = []
    for number in range(len(MEANS)):
        git(tmp_path, "commit", "-q", "--allow-empty", "-m", f"commit {number}")
        commits.append(git(tmp_path, "rev-parse", "HEAD").strip())
    monkeypatch.setattr(bisection, "root", lambda: tmp_path)

    def equality(a, b):
        is_equal = a.bits == b.bits
        return is_equal, ["equal" if is_equal else "diverged"], []

    monkeypatch.setattr(bisection, "equality", equality)

    def search(capsys, means=MEANS, bits=BITS, broken=()):
        trained = []

        def train(self, commit, seed, directory):
            number = commits.index(commit)
            trained.append(number)
            if number in broken:
                raise UserError("it is broken")
            value = means[number] + 0.005 * random.Random(f"{bits[number]} {seed}").gauss(0, 1)
            result = SimpleNamespace(objective=Objective("val/acc", "max", value))
            own = random.random() if bits == "noise" * 2 else bits[number]
            return SimpleNamespace(result=result, bits=own)

        monkeypatch.setattr(Bisection, "_train", train)
        result = SimpleNamespace(objective=Objective("val/acc", "max", 0.9))
        run = SimpleNamespace(
            directory=tmp_path, result=result, config={"seed": 0}, check_owner=lambda: None
        )
        Bisection(run, commits[0], commits[-1], 8).find()
        return capsys.readouterr().out, len(trained)

    return search


def line_with(text, said):
    return next(line for line in said.splitlines() if text in line)


def test_bits_are_found_first_and_then_the_commit_that_changed_the_metric(search, capsys):
    said, num = search(capsys)
    assert "Bits changed by" in said
    assert said.splitlines()[-1].endswith("commit 4")
    assert line_with("Bits changed", said).endswith("commit 2")
    assert num <= 40


def test_where_only_rounding_changed_no_commit_is_accused_of_the_metric(search, capsys):
    said, _ = search(capsys, means=[0.9] * 7)
    assert "Bits changed by" in said
    assert "val/acc changed by" not in said
    said, num = search(capsys, means=[0.9] * 7, bits="a" * 7)
    assert said.startswith("good= ") is False
    assert "The same bits at good= and bad=" in said
    assert num == 3


def test_commits_that_can_not_be_trained_are_named_beside_the_one_that_is_found(search, capsys):
    said, _ = search(capsys, broken=(1, 3))
    found = [line for line in said.splitlines() if line.startswith(("Bits", "val/acc changed"))]
    assert [line.split("commit ")[1][0] for line in found] == ["1", "2", "3", "4"]
    with pytest.raises(UserError, match=r"good=.*: can't be trained"):
        search(capsys, broken=(0,))


def test_where_bits_are_noise_the_metric_alone_is_compared(search, capsys):
    said, _ = search(capsys, bits="noise" * 2)
    assert "good= trains to other bits each time" in said
    assert said.splitlines()[-1].endswith("commit 4")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run="], "run=DIR: is missing"),
        (["good=x"], "good=x: is no commit"),
        (["good=--all"], "good=--all: is no commit"),
        (["seeds=2"], "seeds=2: must be 3 or more"),
        (["good=HEAD"], "must be a later commit"),
    ],
)
def test_mistakes_are_a_line(make, repository, monkeypatch, capsys, words, said):
    monkeypatch.setattr(bisection, "root", lambda: repository)
    git(repository, "commit", "-q", "--allow-empty", "-m", "later")
    run = make()
    result = SimpleNamespace(objective=Objective("val/acc", "max", 0.9))
    monkeypatch.setattr("leyden.run.directory.Run.result", result)
    typed = {"run": str(run), "good": "HEAD~1"} | dict(word.split("=", 1) for word in words)
    assert here("bisect", *(f"{key}={value}" for key, value in typed.items())) == 2
    assert said in capsys.readouterr().err


def test_git_bisect_skips_what_can_not_be_trained(make, call, repository, monkeypatch):
    def fail(*_):
        raise KeyError("a bug")

    monkeypatch.setattr(reproduction, "_train", fail)
    assert call(f"run={make()}", "exit=bisect")[0] == 125
    assert call(f"run={make('other')}", "exit=all")[0] == 2


@pytest.mark.slow(minutes=0.3)
def test_packages_are_those_of_the_lock_file_and_else_those_here(tmp_path, monkeypatch):
    wheel = tmp_path / "small-2.0-py3-none-any.whl"
    files = {
        "small.py": "VERSION = 2\n",
        "small-2.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: small\nVersion: 2.0\n",
        "small-2.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "small-2.0.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    lock = tmp_path / "requirements.txt"
    git(tmp_path, "init", "-q")
    monkeypatch.setattr(bisection, "root", lambda: tmp_path)
    lock.write_text("")
    example.commit(tmp_path)
    assert python_of("HEAD", tmp_path / "environments") == sys.executable
    lock.write_text(f"{wheel}\n")
    example.commit(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    python = python_of("HEAD", tmp_path / "environments")
    code = "import small, torch; print(small.VERSION)"
    assert subprocess.check_output([python, "-c", code], text=True) == "2\n"
    lock.write_text("no-such-package==1.0\n")
    example.commit(tmp_path)
    with pytest.raises(UserError, match=r"pip can't install its requirements\.txt"):
        python_of("HEAD", tmp_path / "environments")


@pytest.mark.slow
@pytest.mark.nightly
def test_a_planted_mistake_is_found_behind_a_planted_rounding(tmp_path, monkeypatch, capfd):
    planted = example.script(ENGINE / "bench" / "planted.py")
    by_name = {plant.name: plant for plant in planted.PLANTS}
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("LEYDEN_PROJECT", raising=False)  # the tests' own
    planted.copy_to(folder)
    few = ["trainer.limit_train_batches=20", f"data.root={ROOT / 'data'}", "run_dir=outputs/run"]
    commits = [planted.commit(None)]
    words = ["-m", "leyden.train", *planted.TRAINED, *few]
    subprocess.run([sys.executable, *words], check=True)
    for name in ("text", "two halves of a sum", "in place", "labels of the sample before", "zip"):
        commits.append(planted.commit(by_name.get(name)))
    words = ["-m", "leyden.bisect", "run=outputs/run", f"good={commits[0]}", "seeds=3"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert line_with("Bits changed", done.stdout).endswith("two halves of a sum")
    assert line_with("acc changed", done.stdout).endswith("labels of the sample before")
