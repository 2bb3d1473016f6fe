"""A copy of the project that is short: small data sets, two batches per epoch. Pages are run in it."""

import hashlib
import itertools
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from leyden.base.paths import LIBRARY, environment_of
from tests import ENGINE, example
from tests.conftest import start
from tests.data import folders, small
from tests.example import MNIST, OWN, Diamonds, FashionMNIST, commit, git
from tests.pages.commands import VARIABLE
from tests.pages.stands_for import NOT_HERE, NOT_RUN, SHORT

OF_A_PAGE = (
    "run_dir=",
    "init_from=",
    "fork=",
    "sweep_name=",
)  # what these name, a page may have made
# The true ones: a fixture gives these classes those of small files.
SUMS = {made: {**made.sha256} for made in (MNIST, FashionMNIST, Diamonds)}
VERBS = {path.stem for path in LIBRARY.glob("[!_]*.py")}


def copy_to(folder):
    """Write the copy, with what the pages take as given: files of the reader's own."""
    example.copy_to(folder)
    for file, changes in SHORT.items():
        _replace(folder / file, changes)
    small.write(folder / "data")
    for made, part in ((MNIST, "MNIST/raw/"), (FashionMNIST, "FashionMNIST/raw/"), (Diamonds, "")):
        contents = {
            old: (folder / f"data/{part}{name}").read_bytes() for name, old in SUMS[made].items()
        }
        sums = {old: hashlib.sha256(content).hexdigest() for old, content in contents.items()}
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
    mine = (
        ENGINE / "tests" / "data" / "own.py"
    ).read_text() + "\n\nclass Shapes(WithFacts):\n    pass\n"
    (folder / "src" / OWN / "data" / "shapes.py").write_text(mine)
    (folder / ".git" / "info" / "exclude").write_text(
        "flowers*\ndigits\n*.png\ntables\nbooks\n*.zip\n*.csv\n"
    )
    commit(folder, "the template")


def _replace(path, changes):
    text = path.read_text()
    for old, new in changes.items():
        assert old in text, f"{path}: {old}"
        text = text.replace(old, new)
    path.write_text(text)


class Project:
    """A copy, what dry runs in it have said, and what a page has made so far; pictures take a third of such a short run."""

    def __init__(self, folder, said):
        self.folder, self.said, self.pictures = folder, said, False
        self.trained, self.has_reproduced = set(), False

    def renamed(self, text, around="{}."):
        """A text in which the package has the name that it has here: a page may have renamed it."""
        (models,) = self.folder.glob("src/*/models")
        return text.replace(around.format(OWN), around.format(models.parent.name))

    def do(self, step):
        """What it printed; fails with what was said."""
        if step.path:
            path = self.folder / self.renamed(step.path, "src/{}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.renamed(step.text))
            return ""
        if step.text:
            return self.python(["-c", self.renamed(step.text)])
        return self.command([self.renamed(word, "={}.") for word in step.words])

    def command(self, words):
        """Run a command, or check it if it is one of those that are not run."""
        words = [*itertools.dropwhile(VARIABLE.fullmatch, words)]
        words = words[2:] if words[:2] == ["uv", "run"] else words
        program, *rest = words
        is_run = not f"{' '.join(words)} ".startswith(NOT_RUN)
        if program in ("leyden", ".venv/bin/leyden"):
            return self.verb(rest[0], rest[1:])
        if program in ("python", ".venv/bin/python"):
            if rest[0].startswith(("scripts/", "engine/bench/")) and not rest[0].endswith(
                "mine.py"
            ):
                return self.script(*rest)
            if rest[:1] == ["-m"] and rest[1].startswith("leyden."):
                return self.verb(rest[1].removeprefix("leyden."), rest[2:])
            return self.python(rest) if is_run or rest[0] == "engine/scripts/mine.py" else ""
        if program == "make":
            return self.make(rest, is_run)
        if program == "sbatch" and not rest[0].startswith("--"):
            assert (self.folder / rest[0]).is_file()
            return self.verb("train", [*rest[1:], "dry_run=true"])
        if program == "git" and is_run:
            return git(self.folder, *rest)
        assert not is_run, f"{' '.join(words)}: how is it checked? See stands_for.py"
        return ""

    def make(self, words, is_run):
        """What a target would do, of which the commands of Python are run."""
        text = (self.folder / "Makefile").read_text()
        for name, sign, _ in (word.partition("=") for word in words):
            known = re.search(rf"^{name} \?=|{name}=", text, re.MULTILINE)
            assert not sign or known, f"{name}: is no variable of make"
        if not is_run:
            return ""
        said = subprocess.run(
            ["make", "-n", *words], cwd=self.folder, capture_output=True, text=True
        )
        assert said.returncode == 0, said.stderr
        if len(words) == 1 and words[0].startswith(("new-", "mine")):  # it is only named
            return ""
        typed = [line.removesuffix(" > /dev/null") for line in said.stdout.splitlines()]
        typed = [
            line
            for line in typed
            if re.match(r"\.venv/bin/(leyden|python engine/scripts/mine\.py) ", line)
        ]
        output = "".join(self.command(shlex.split(line)) for line in typed)
        assert output, f"make {' '.join(words)}: how is it checked? See stands_for.py"
        return output

    def script(self, path, *options):
        """A script that takes long: it is there, and has these options."""
        text = (self.folder / path).read_text()
        for option in options:
            assert not option.startswith("--") or f'"{option}"' in text, f"{path}: has no {option}"
        return ""

    def verb(self, verb, words):
        assert verb in VERBS, f"{verb}: is no verb"
        is_named = not words and verb not in ("train", "runs")
        if is_named or any(
            word.endswith(".py") and not (self.folder / word).exists() for word in words
        ):
            return self.python(["-m", f"leyden.{verb}", "--help"])  # with a script of the reader's
        for word in words:
            if not word.startswith(("run_dir=", "output=")):
                self.provide(word)
        if verb == "train" and not {"--help", "dry_run=true"} & {*words}:
            is_another = tuple(words) in self.trained and not any(
                word.startswith(OF_A_PAGE) for word in words
            )
            if is_another or any(word.startswith(tuple(NOT_HERE)) for word in words):
                return self.dry(words)
            self.trained.add(tuple(words))
            if not self.pictures:
                words = ["callbacks=bare", *words]
        if verb == "reproduce" and not any(word.startswith("against=") for word in words):
            if self.has_reproduced:  # one per page trains anew
                words = [
                    *words,
                    "threads=0",
                ]  # is refused when all else is read: nothing is trained
                return self.python(["-m", "leyden.reproduce", *words], (2,), "threads=0")
            self.has_reproduced = True
        if verb == "plan":  # of one run there is no deviation
            words = [re.sub(r"^outputs/.*", "deviation=0.006", word) for word in words]
        if verb == "resumetest":
            words = [sys.executable if word == "python" else word for word in words]
        may_differ = verb in ("reproduce", "resumetest")
        return self.python(["-m", f"leyden.{verb}", *words], (0, 1) if may_differ else (0,))

    def dry(self, words):
        """What would be trained; pages have commands in common, of which one is checked."""
        key = tuple(words)
        if any(word.startswith(OF_A_PAGE) for word in words) or key not in self.said:
            self.said[key] = self.python(["-m", "leyden.train", *words, "dry_run=true"])
        return self.said[key]

    def provide(self, word):
        """A run in each place that a command names, if no command before has made it."""
        for place in re.findall(r"outputs/[\w./-]+", word):
            path = self.folder / place
            if path.exists():
                continue
            if path.name == "cnn":
                self.python(
                    ["-m", "leyden.train", "experiment=cnn", "callbacks=bare", f"run_dir={place}"]
                )
            else:
                of_many = place.startswith("outputs/sweeps/") or place == "outputs/mnist_mlp"
                shutil.copytree(self.folder / "outputs/seed", path / "a" if of_many else path)

    def python(self, words, codes=(0,), says=""):
        environment = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", **environment_of(self.folder)}
        process = start(script=words, cwd=self.folder, **environment)
        said, _ = process.communicate()
        assert process.returncode in codes, said
        assert says in said, said
        return said
