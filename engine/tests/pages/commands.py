"""The commands and files of README.md, AGENTS.md, CONTRIBUTING.md and docs/*.md, in the order of a page."""

import itertools
import re
import shlex
from typing import NamedTuple

from tests import ENGINE, ROOT
from tests.pages.stands_for import SHORTER, STANDS_FOR

FILES = [
    ROOT / "README.md",
    ROOT / "AGENTS.md",
    ENGINE / "CONTRIBUTING.md",
    *sorted(ENGINE.glob("docs/*.md")),
]
PAGES = {path.stem: path for path in FILES}
# A block of code with its language, or code within a line.
CODE = re.compile(
    r"^```(?P<kind>\w*)\n(?P<block>.*?)^```$|`(?P<inline>[^`\n]+)`", re.MULTILINE | re.DOTALL
)
PROGRAMS = (
    "python",
    ".venv/bin/python",
    "leyden",
    ".venv/bin/leyden",
    "uv",
    "make",
    "pip",
    "sbatch",
    "git",
    "sh",
)
VARIABLE = re.compile(r"[A-Z][A-Z_0-9]*=\S*")


class Step(NamedTuple):
    """A command, as its words; or a file, as its path and text; or Python to run, without a path."""

    line: int
    words: tuple[str, ...] = ()
    typed: str = ""
    path: str = ""
    text: str = ""


def steps(page):
    text = PAGES[page].read_text()
    found = []
    for match in CODE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match["kind"] == "sh":
            for number, typed in enumerate(match["block"].splitlines(), line + 1):
                found += _commands(typed, number)
        elif match["kind"] in ("python", "yaml"):
            head, _, rest = match["block"].partition("\n")
            path = head.removeprefix("# ") if re.fullmatch(r"# (src|conf)/\S+", head) else ""
            named = re.search(r"in `((?:src|conf)/\S+)`:\n\n$", text[: match.start()])
            if named:  # the file's first line is another one
                path, rest = named[1], match["block"]
            if (
                path or match["kind"] == "python"
            ):  # other YAML shows a part of a file: tests/sweep/test_search.py
                found.append(Step(line, path=path, text=rest if path else match["block"]))
        elif match["inline"]:
            words = [*itertools.dropwhile(VARIABLE.fullmatch, match["inline"].split())]
            if len(words) > 1 and words[0] in PROGRAMS:
                found += _commands(
                    match["inline"].replace("\\|", "|"), line
                )  # as it is written in a table
    return found


def _commands(typed, line):
    """The commands of a line of shell, without comments, by what is run for them."""
    found = [[]]
    for word in shlex.split(typed, comments=True):
        if word in ("&&", "|"):
            found.append([])
        else:
            found[-1].append(_run_for(word))
    return [Step(line, tuple(filter(None, words)), typed) for words in found if words]


def _run_for(word):
    for pattern, meant in STANDS_FOR.items():
        word = re.sub(pattern, meant, word)
    return SHORTER.get(word, word)
