"""Make the template around engine/ a project of your own: `make mine NAME=kanlab`.

It renames the package, and gives the project its own README, CHANGELOG and CITATION.cff. With
ENGINE=git+URL (or the path of a wheel, or a release) the folder engine/ is removed, and the project
depends on that instead; else its pages get the new name, too, and after engine/ has been replaced
by `python engine/scripts/mine.py kanlab`. It is done as a whole or not at all. Imports, strings that
are a dotted name, and paths are renamed; lines that may still mean the package, such as comments,
are printed.
"""

import ast
import importlib.metadata
import importlib.util
import itertools
import json
import keyword
import os
import re
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import yaml

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
OLD = "project"
LIBRARY = "leyden[train]"  # what the project depends on
# Files that name the package; those of the library know it only by what conf/ names.
PLACES = ("src", "tests", "conf", "scripts", "pyproject.toml", "Makefile", "AGENTS.md", ".github")
PAGES = "engine/docs/*.md"  # of which the examples are the reader's
OF_ENGINE = ("engine", ".ci", ".github/workflows/library.yml", ".github/workflows/nightly.yml")
# Names of other folders of a project, also of those that come later or that linters and test
# runners skip.
FOLDERS = "build conf data dist docs engine leyden hydra_plugins node_modules outputs scripts site src tests venv"
REST = r"(?:\.[\w*]+)+(?::[\w.]+)?"  # of a dotted name
PATH = re.compile(rf"(?<![\w-])src/{OLD}(?![\w-])")
ON_PAGE = re.compile(rf"(?<![\w.]){OLD}(?=\.[a-z_])")
LEFT = re.compile(rf"(?<![\w.\[]){OLD}\.\w|[\"']{OLD}[\"']|\b(?:from|import) {OLD}\b|^{OLD} *=")
README = """# {name}

A research project on [Leyden]({leyden}): runs that resume bit for bit, sweeps, and Slurm, for PyTorch Lightning.

```sh
make train    # sets up .venv, gets the data, trains
make test     # the same set-up, then the tests
```

{pages}
"""
# Of the library, where its folder stays.
PAGES_HERE = """[The library's pages](engine/docs/index.md): [your own idea](engine/docs/idea.md), \
[loss, metric, picture](engine/docs/own.md), [data](engine/docs/data.md), \
[runs](engine/docs/runs.md), [sweeps](engine/docs/sweeps.md), \
[which is better?](engine/docs/verdict.md), [questions](engine/docs/questions.md). \
Coding agents read [AGENTS.md](AGENTS.md)."""
PAGES_ELSEWHERE = """`leyden VERB --help` explains each verb, `leyden train --help` lists the \
choices. Coding agents read [AGENTS.md](AGENTS.md)."""
CHANGELOG = "# Changelog\n\n## Unreleased\n\n- Begun from the Leyden template.\n"
CITATION = """cff-version: 1.2.0
message: If you use this software, please cite it as below.
title: {name}
authors:
  - name: The authors of {name}
date-released: {today}
"""


def git(*arguments: str) -> str:
    """Return the output of git; exit with its error."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def check(name: str, engine: str) -> str:
    """Return the requirement for the library, empty to keep engine/.

    Exit if an argument is wrong or the tree dirty.
    """
    if not re.fullmatch(r"[a-z]([a-z0-9_]{0,18}[a-z0-9])?", name) or keyword.iskeyword(name):
        sys.exit(
            f"NAME={name}: must be the name of a Python package (a-z, 0-9, _, at most 20), such as "
            "kanlab"
        )
    if is_taken(name):
        sys.exit(f"NAME={name}: is taken, by a package or folder of that name; choose another name")
    if not (ROOT / "src" / OLD).is_dir():
        sys.exit(f"src/{OLD}/ is missing: this is a project of its own already")
    changes = git("status", "--porcelain", "--untracked-files=normal").rstrip()
    if changes:
        sys.exit(
            "the working tree has changes; commit them first, so that git can undo this\n" + changes
        )
    return requirement_of(engine)


def is_taken(name: str) -> bool:
    """Return whether a package or a folder has this name."""
    if name in FOLDERS.split() or (ROOT / name).exists() or (ROOT / "src" / name).exists():
        return True
    if name in sys.stdlib_module_names or importlib.util.find_spec(name):
        return True
    pins = ROOT / "constraints.txt"  # which has loggers that are not installed
    pinned = pins.read_text().lower().replace("-", "_") if pins.is_file() else ""
    is_pinned = any(line.startswith(f"{name}==") for line in pinned.splitlines())
    return is_pinned or any(importlib.metadata.distributions(name=name))


def requirement_of(engine: str) -> str:
    """Return the requirement for the library, empty to keep engine/; exit if it is wrong."""
    if not engine:
        return ""
    if engine.startswith("git+"):
        return f"{LIBRARY} @ {engine}"
    if engine.endswith(".whl"):
        path = Path(engine).resolve()
        if not path.is_file():
            sys.exit(f"ENGINE={engine}: there is no such file")
        if ROOT / "engine" in path.parents:
            sys.exit(f"ENGINE={engine}: lies in engine/, which will be removed; move it elsewhere")
        return f"{LIBRARY} @ {path.as_uri()}"
    version = re.fullmatch(r"leyden(?:\[train\])?\s*([=<>~!].+)", engine)
    if version is None:
        sys.exit(f"ENGINE={engine}: must be a version, such as leyden==0.3, a wheel, or git+URL")
    return LIBRARY + version[1]


def in_python(text: str, name: str) -> str:
    """Return Python code with the package renamed in imports, their names, and dotted strings."""
    nodes = list(ast.walk(ast.parse(text)))
    places: list[tuple[Any, str]] = []  # a node, and what precedes the name there
    names = []
    bound = False
    for node in nodes:
        if isinstance(node, ast.Import):
            aliases = [alias for alias in node.names if alias.name.split(".")[0] == OLD]
            places += [(alias, "") for alias in aliases]
            bound = bound or any(alias.asname is None for alias in aliases)
        elif isinstance(node, ast.ImportFrom):
            root = (node.module or "").split(".")[0]
            if root == OLD and not node.level:
                places.append((node, r"from[\s\\]+"))
        elif isinstance(node, ast.Constant) and re.fullmatch(OLD + REST, str(node.value)):
            places.append((node, r"[rRuU]?(?:\"{3}|'{3}|\"|')"))
        else:
            is_name = isinstance(node, ast.Name) and node.id == OLD
            is_argument = isinstance(node, ast.arg) and node.arg == OLD
            if is_name or is_argument:
                names.append(node)
    if bound:
        for node in names:
            if not isinstance(getattr(node, "ctx", None), ast.Load):
                raise ValueError(f"{OLD} is the package and a variable, too; rename the variable")
        places += [(node, "") for node in names]
    code = text.encode()
    lengths = map(len, code.splitlines(keepends=True))
    begins = list(itertools.accumulate(lengths, initial=0))
    found = []
    for node, start in places:
        at = begins[node.lineno - 1] + node.col_offset
        found.append((at, f"{start}(?={OLD}\\b)".encode()))
    for at, pattern in sorted(found, reverse=True):
        match = re.compile(pattern).match(code, at)
        if match:  # else a string in parts
            code = code[: match.end()] + name.encode() + code[match.end() + len(OLD) :]
    return code.decode()


def in_yaml(text: str, name: str) -> str:
    """Return YAML in which each value that is a dotted name in the package is renamed."""
    before, places = None, []
    for token in yaml.scan(text):
        is_value = isinstance(token, yaml.ScalarToken) and not isinstance(before, yaml.KeyToken)
        if is_value and re.fullmatch(OLD + REST, token.value):
            places.append(token.start_mark.index + (token.style is not None))
        before = token
    for at in reversed(places):
        if text[at:].startswith(OLD):  # not a block's
            text = text[:at] + name + text[at + len(OLD) :]
    return text


def in_toml(text: str, name: str) -> str:
    """Return TOML with the project's name and each value that is a dotted name in it renamed."""

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: renamed(each) for key, each in value.items()}
        if isinstance(value, list):
            return [renamed(each) for each in value]
        return re.sub(rf"^{OLD}(?={REST}$)", name, value) if isinstance(value, str) else value

    wanted = renamed(tomllib.loads(text))
    if wanted.get("project", {}).get("name") == OLD:
        wanted["project"]["name"] = name
        table = r"^\[project\][^\n]*\n(?:[^\[\n][^\n]*\n|\n)*?"
        text = re.sub(
            rf"({table}name\s*=\s*[\"']){OLD}(?=[\"'])", rf"\g<1>{name}", text, flags=re.MULTILINE
        )
    return verified(re.sub(rf"(?<=[\"']){OLD}(?={REST}[\"'])", name, text), wanted)


def depends_on(text: str, requirement: str) -> str:
    """Return pyproject.toml with a release of the library in the place of the folder."""
    wanted = tomllib.loads(text)
    project, tool = wanted["project"], wanted.get("tool", {})
    if LIBRARY not in project.get("dependencies", []):
        raise ValueError(
            f'pyproject.toml: dependencies must have "{LIBRARY}", which ENGINE replaces'
        )
    project["dependencies"] = [
        requirement if each == LIBRARY else each for each in project["dependencies"]
    ]
    if tool.get("uv", {}).get("sources", {}).pop("leyden", None):
        text = re.sub(r"^leyden\s*=\s*\{.*\n?", "", text, flags=re.MULTILINE)
        if not tool["uv"]["sources"]:
            text = re.sub(r"(?:(?<=\n)\n)?^\[tool\.uv\.sources\]\n", "", text, flags=re.MULTILINE)
            del tool["uv"]["sources"]
        if not tool["uv"]:
            del tool["uv"]
    return verified(text.replace(f'"{LIBRARY}"', f'"{requirement}"', 1), wanted)


def verified(text: str, wanted: dict[str, Any]) -> str:
    """Return TOML that is read as wanted."""
    if tomllib.loads(text) != wanted:
        raise ValueError(
            "has the package or the library where this script can't change it; edit it first"
        )
    return text


def rename(name: str) -> list[str]:
    """Rename the package in all files that name it, and then its folder.

    Return lines that may still name it.
    """
    left = []
    kinds = {".py": in_python, ".yaml": in_yaml, ".yml": in_yaml, ".toml": in_toml}
    for file in git("ls-files", "-z", "--", *PLACES).split("\0")[:-1]:
        path = ROOT / file
        if path.is_symlink() or not path.is_file():
            continue
        try:
            text = path.read_bytes().decode()  # line ends stay as they are
        except UnicodeDecodeError:  # a picture
            continue
        if OLD not in text:
            continue
        try:
            change = kinds.get(path.suffix)
            new = change(text, name) if change else text
            new = PATH.sub(f"src/{name}", new)
        except (SyntaxError, ValueError, yaml.YAMLError) as error:
            raise ValueError(f"{file}: {' '.join(str(error).split())}") from error
        if new != text:
            path.write_bytes(new.encode())
        for number, line in enumerate(new.splitlines(), start=1):
            if LEFT.search(line):
                left.append(f"{file}:{number}: still has {OLD}: {line.strip()[:80]}")
    (ROOT / "src" / OLD).rename(ROOT / "src" / name)
    return left


def rename_pages(name: str) -> None:
    """Rename the package in the examples of the library's pages."""
    for file in git("ls-files", "-z", "--", PAGES).split("\0")[:-1]:
        path = ROOT / file
        text = path.read_bytes().decode()
        new = PATH.sub(f"src/{name}", ON_PAGE.sub(name, text))
        path.write_bytes(new.encode())


def without_engine(text: str) -> str:
    """Return AGENTS.md for a project without engine/."""
    kept = [line for line in text.splitlines() if not line.startswith("| `engine/`")]
    return "\n".join(kept).replace("`engine/docs/", "the library's `docs/") + "\n"


def uninstall_old() -> None:
    """Uninstall this folder's distribution of before, which nothing else would."""
    try:
        found = importlib.metadata.distribution(OLD)
    except importlib.metadata.PackageNotFoundError:
        return
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    if origin.get("url") == ROOT.as_uri():
        pip = [sys.executable, "-m", "pip", "uninstall", "--yes", "--quiet", OLD]
        subprocess.run(pip, cwd=ROOT)


def main(name: str, engine: str) -> None:
    """Do it all; if anything fails, the tree is as before."""
    is_done = bool(name) and not (ROOT / "src" / OLD).exists() and (ROOT / "src" / name).is_dir()
    if is_done and not engine:  # engine/ may be a newer one, whose pages have the name of before
        rename_pages(name)
        print(f"The examples of engine/docs name {name}.")
        return
    requirement = check(name, engine)
    tracked = git("ls-files", "-z").split("\0")
    texts = {"README.md": README, "CHANGELOG.md": CHANGELOG, "CITATION.cff": CITATION}
    own = []
    for file in texts:
        is_templates = file in tracked and file != "CHANGELOG.md"
        if is_templates or not os.path.lexists(ROOT / file):
            own.append(file)
    done = False
    try:
        left = rename(name)
        fields = {
            "name": name,
            "today": date.today().isoformat(),
            "leyden": "https://pypi.org/project/leyden",
            "pages": PAGES_ELSEWHERE if requirement else PAGES_HERE,
        }
        for file in own:
            (ROOT / file).write_text(texts[file].format(**fields), encoding="utf-8")
        if requirement:
            for file in OF_ENGINE:
                path = ROOT / file
                if path.is_dir():
                    shutil.rmtree(path)
                path.unlink(missing_ok=True)
            path = ROOT / "pyproject.toml"
            path.write_bytes(depends_on(path.read_bytes().decode(), requirement).encode())
            path = ROOT / "AGENTS.md"
            if path.is_file():
                path.write_text(without_engine(path.read_text()))
        else:
            rename_pages(name)
        path = ROOT / "Makefile"
        text = re.sub(r"^mine:.*\n(\t.*\n)+\n", "", path.read_text(), flags=re.MULTILINE)
        path.write_text(text.replace(" mine ", " "))
        git("add", "--all")
        # Another name sorts elsewhere among imports, and makes lines longer or shorter.
        for command in ("check --select I --fix-only", "format"):
            ruff = [sys.executable, "-m", "ruff", *command.split(), "--quiet"]
            subprocess.run([*ruff, "src", "tests", "scripts"], cwd=ROOT, check=True)
        done = True
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"NAME={name}: nothing was changed: {error}")
    finally:
        if not done:
            if (ROOT / "src" / name).exists():
                (ROOT / "src" / name).rename(ROOT / "src" / OLD)
            git("reset", "--hard", "--quiet")
            for file in set(own) - set(tracked):
                (ROOT / file).unlink(missing_ok=True)
    shutil.rmtree(ROOT / "src" / f"{OLD}.egg-info", ignore_errors=True)
    uninstall_old()
    for line in left:
        print(line)
    print(
        f"src/{OLD} is now src/{name}, and README.md, CHANGELOG.md and CITATION.cff are yours to "
        "write."
    )
    print('Next: make check test && git add -A && git commit -m "Begin"')


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else "")
