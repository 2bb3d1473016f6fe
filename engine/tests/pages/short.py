"""A copy of the project that is short: small data sets, two batches per epoch. Pages are run in it."""

import hashlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from leyden.config.paths import LIBRARY, ROOT, environment_of
from tests import ENGINE
from tests.conftest import start
from tests.data import folders, small
from tests.example import MNIST, OWN, Diamonds, FashionMNIST
from tests.pages.commands import VARIABLE, Step
from tests.pages.stands_for import NOT_HERE, NOT_RUN, SHORT

PAGES_OWN = OWN  # what the pages call the package, until one of them has renamed it
OF_A_PAGE = ("run_dir=", "init_from=", "fork=", "sweep_name=")  # what these name, a page may have made
VERBS = {path.stem for path in LIBRARY.glob("[!_]*.py")}


class Copy:
    """Runs commands of Python in a copy.

    Args:
        folder: The place of the copy, with one in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: dict[tuple[str, ...] | None, str] = {}

    def run(self, words: list[str]) -> tuple[int, str]:
        """The exit code of a command, and all that it says."""
        environment = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", **environment_of(self.folder)}
        process = start(script=words, cwd=self.folder, **environment)
        said, _ = process.communicate()
        return process.returncode, said


def git(folder: Path, *arguments: str) -> str:
    """What git says."""
    return subprocess.check_output(["git", *arguments], cwd=folder, text=True)


def copy_to(folder: Path) -> None:
    """Write the copy, with what the pages take as given: files of the reader's own."""
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")[:-1]
    for file in filter(lambda file: (ROOT / file).exists(), listed):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, folder / file)
    for file, changes in SHORT.items():
        _replace(folder / file, changes)
    small.write(folder / "data")
    for made, part in ((MNIST, "MNIST/raw/"), (FashionMNIST, "FashionMNIST/raw/"), (Diamonds, "")):
        sums = {
            old: hashlib.sha256((folder / f"data/{part}{name}").read_bytes()).hexdigest()
            for name, old in made.sha256.items()
        }
        _replace(folder / "src" / f"{made.__module__.replace('.', '/')}.py", sums)
    folders.write(folder / "flowers")
    folders.pack(folders.write(folder / "flowers-shards"))
    (folder / "digits").mkdir()
    for path in ("digits/1.png", "a.png"):
        image = Image.new("L", (28, 28))
        image.paste(255, (12, 4, 16, 24))  # a one
        image.save(folder / path)
    for path in ("tables/houses.csv", "books/book.txt"):
        (folder / path).parent.mkdir()
        shutil.copy(folder / "data" / Path(path).name, folder / path)
    mine = (ENGINE / "tests" / "data" / "own.py").read_text() + "\n\nclass Shapes(WithFacts):\n    pass\n"
    (folder / "src" / OWN / "data" / "shapes.py").write_text(mine)
    git(folder, "init", "-q")
    (folder / ".git" / "info" / "exclude").write_text("flowers*\ndigits\n*.png\ntables\nbooks\n*.zip\n*.csv\n")
    for key, value in (("user.name", "me"), ("user.email", "me@here")):
        git(folder, "config", key, value)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "the template")


def _replace(path: Path, changes: dict[str, str]) -> None:
    text = path.read_text()
    for old, new in changes.items():
        assert old in text, f"{path}: {old}"
        text = text.replace(old, new)
    path.write_text(text)


class Project:
    """A copy, and what its pages have made so far.

    Args:
        copy: Runs its commands.
        really: Train, else check what would be trained; what other commands need is trained all the same.
        pictures: With pictures, which take a third of such a short run.
    """

    def __init__(self, copy: Copy, really: bool, pictures: bool = False) -> None:
        self.folder, self.copy, self.really, self.pictures = copy.folder, copy, really, pictures
        self.has_reproduced = False
        self.trained: set[tuple[str, ...]] = set()

    @property
    def own(self) -> str:
        """The package beside the engine, which a page may have renamed."""
        (models,) = self.folder.glob("src/*/models")
        return models.parent.name

    def do(self, step: Step) -> str:
        """Do it; fails with what was said.

        Returns:
            What it printed.
        """
        if step.path:
            path = self.folder / step.path.replace(f"src/{PAGES_OWN}/", f"src/{self.own}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.text.replace(f"{PAGES_OWN}.", f"{self.own}."))
            return ""
        if step.text:
            return self.python(["-c", step.text.replace(f"{PAGES_OWN}.", f"{self.own}.")])
        return self.command([word.replace(f"={PAGES_OWN}.", f"={self.own}.") for word in step.words])

    def command(self, words: list[str]) -> str:
        """Run a command, or check it if it is one of those that are not run."""
        while VARIABLE.fullmatch(words[0]):
            words = words[1:]
        if words[:2] == ["uv", "run"]:
            words = words[2:]
        program, *rest = words
        typed = " ".join(words)
        if (
            typed.startswith(tuple(NOT_RUN))
            and program not in ("git", "make", "sbatch")
            and "scripts/" not in typed
            and "engine/bench/" not in typed
        ):
            return ""
        if program in ("python", ".venv/bin/python"):
            if rest[0].startswith(("scripts/", "engine/bench/")) and not rest[0].endswith("mine.py"):
                return self.script(*rest)
            return self.verb(rest[1].removeprefix("leyden."), rest[2:]) if rest[0] == "-m" else self.python(rest)
        if program in ("leyden", ".venv/bin/leyden"):
            return self.verb(rest[0], rest[1:])
        if program == "make":
            return self.make(rest)
        if program == "sbatch":
            if rest[0].startswith("--"):
                return ""
            assert (self.folder / rest[0]).is_file()
            return self.verb("train", [*rest[1:], "dry_run=true"])
        if program == "git" and not typed.startswith(tuple(NOT_RUN)):
            return git(self.folder, *rest)
        assert f"{typed} ".startswith(tuple(NOT_RUN)), f"{typed}: how is it checked? See stands_for.py"
        return ""

    def make(self, words: list[str]) -> str:
        """What a target would do, of which the commands of Python are run."""
        text = (self.folder / "Makefile").read_text()
        for word in words:
            name, sign, _ = word.partition("=")
            assert not sign or re.search(rf"^{name} \?=|{name}=", text, re.MULTILINE), (
                f"{word}: is no variable of make"
            )
        if f"make {' '.join(words)} ".startswith(tuple(NOT_RUN)):
            return ""
        said = subprocess.run(["make", "-n", *words], cwd=self.folder, capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        output = ""
        names_only = len(words) == 1 and words[0].startswith(("new-", "mine"))
        if names_only:
            return output
        for line in said.stdout.splitlines():
            if re.match(r"\.venv/bin/(leyden|python scripts/mine\.py) ", line):
                output += self.command(shlex.split(line.removesuffix(" > /dev/null")))
        assert output, f"make {' '.join(words)}: how is it checked? See stands_for.py"
        return output

    def script(self, path: str, *options: str) -> str:
        """A script that takes long: it is there, and has these options."""
        text = (self.folder / path).read_text()
        for option in options:
            assert not option.startswith("--") or f'"{option}"' in text, f"{path}: has no {option}"
        return ""

    def verb(self, verb: str, words: list[str]) -> str:
        """A command of Leyden."""
        assert verb in VERBS, f"{verb}: is no verb"
        if not words and verb not in ("train", "runs"):
            words = ["--help"]  # a page that only names the verb
        for word in words:
            if not word.startswith(("run_dir=", "output=")):
                self.provide(word)
        elsewhere = [word for word in words if word.startswith(tuple(NOT_HERE))]
        if verb == "train" and not {"--help", "dry_run=true"} & {*words}:
            is_parent = any(word.startswith("run_dir=") for word in words) and "-m" not in words
            is_another = tuple(words) in self.trained and not any(word.startswith(OF_A_PAGE) for word in words)
            if elsewhere or not (self.really or is_parent) or is_another:
                return self.dry(words)
            self.trained.add(tuple(words))
            if not self.pictures:
                words = ["callbacks=bare", *words]
        if verb == "export" and not self.really and not any(word.startswith("output=") for word in words):
            words = [*words, "--cfg", "job"]  # takes long: is only composed, unless a later command needs the file
        if verb == "compare" and not self.really:  # there are no runs yet that fulfil a condition
            return self.python(["-m", "leyden.compare", *words], (0, 2) if "a=" in " ".join(words) else (0,))
        if verb == "reproduce" and not any(word.startswith("against=") for word in words):
            if self.has_reproduced or not self.really:  # one per page trains anew
                words = [*words, "threads=0"]  # is refused when all else is read: nothing is trained
                return self.python(["-m", "leyden.reproduce", *words], (2,), "threads=0")
            self.has_reproduced = True
        if verb == "resumetest":
            words = [sys.executable if word == "python" else word for word in words]
        return self.python(
            ["-m", f"leyden.{verb}", *words], (0, 1) if verb in ("reproduce", "resumetest") else (0,)
        )

    def dry(self, words: list[str]) -> str:
        """What would be trained; pages have commands in common, of which one is checked."""
        words = ["-m", "leyden.train", *words, "dry_run=true"]
        key = None if any(word.startswith(OF_A_PAGE) for word in words) else tuple(words)
        if key not in self.copy.said or key is None:
            self.copy.said[key] = self.python(words)
        return self.copy.said[key]

    def provide(self, word: str) -> None:
        """A run in each place that a command names, if no command before has made it."""
        for place in re.findall(r"outputs/[\w./-]+", word):
            path = self.folder / place
            if path.exists():
                continue
            if path.name == "cnn":
                self.python(["-m", "leyden.train", "experiment=cnn", "callbacks=bare", f"run_dir={place}"])
            else:
                of_many = place.startswith("outputs/sweeps/") or place == "outputs/mnist_mlp"
                shutil.copytree(self.folder / "outputs/seed", path / "a" if of_many else path)

    def python(self, words: list[str], codes: tuple[int, ...] = (0,), says: str = "") -> str:
        """Run Python in the copy."""
        code, said = self.copy.run(words)
        assert code in codes, said
        assert says in said, said
        return said
