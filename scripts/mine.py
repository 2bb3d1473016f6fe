"""Make this template your own project: `make mine NAME=kanlab`.

It renames the package, and gives the project its own README, CHANGELOG and CITATION.cff. With ENGINE=leyden==0.2 (or the
path of a wheel, or git+URL) the folder engine/ is removed, and the project depends on that release instead. It is done
as a whole or not at all, and this script is removed.
"""

import importlib.util
import keyword
import re
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLD = "project"
# Files that name the package; those of the library know it only by what conf/ names.
PLACES = ("src", "tests", "conf", "scripts", "pyproject.toml", "Makefile", ".github")
OF_ENGINE = ("engine", ".ci", ".github/workflows/library.yml")
# As a module of Python, as a folder, and as a name in pyproject.toml.
NAMED = re.compile(
    rf"(?<![\w.]){OLD}(?=\.\w)|(?<=\bfrom ){OLD}(?= import\b)|(?<=\bimport ){OLD}\b"
    rf"|(?<=src/){OLD}\b|(?<=^name = \"){OLD}(?=\"$)",
    re.MULTILINE,
)
README = """# {name}

A research project on [Leyden]({leyden}): runs that resume bit for bit, sweeps, and Slurm, for PyTorch Lightning.

```sh
make train    # sets up .venv, gets the data, trains
make test     # the same set-up, then the tests
```
"""
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
    """Return the requirement for the library, empty to keep engine/; exit if an argument is wrong or the tree dirty."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,19}", name) or keyword.iskeyword(name):
        sys.exit(f"NAME={name}: must be the name of a Python package (a-z, 0-9, _, at most 20), such as kanlab")
    taken = name in ("leyden", "hydra_plugins", *sys.stdlib_module_names) or importlib.util.find_spec(name)
    if taken or (ROOT / name).exists() or (ROOT / "src" / name).exists():
        sys.exit(f"NAME={name}: is taken, by a package or folder of that name; choose another name")
    if not (ROOT / "src" / OLD).is_dir():
        sys.exit(f"src/{OLD}/ is missing: this is a project of its own already")
    if changes := git("status", "--porcelain"):
        sys.exit(f"the working tree has changes; commit them first, so that git can undo this\n{changes.rstrip()}")
    if engine.startswith("git+"):
        return f"leyden @ {engine}"
    if engine.endswith(".whl"):
        if not Path(engine).is_file():
            sys.exit(f"ENGINE={engine}: there is no such file")
        if (ROOT / "engine") in (path := Path(engine).resolve()).parents:
            sys.exit(f"ENGINE={engine}: lies in engine/, which will be removed; move it elsewhere")
        return f"leyden @ {path.as_uri()}"
    if engine and not re.fullmatch(r"leyden\s*[=<>~!].+", engine):
        sys.exit(f"ENGINE={engine}: must be a version, such as leyden==0.2, a wheel, or git+URL")
    return engine


def rename(name: str) -> None:
    """Rename the package in all files that name it, and then its folder."""
    for file in git("ls-files", "-z", "--", *PLACES).split("\0")[:-1]:
        path = ROOT / file
        if path.is_symlink() or not path.is_file():
            continue
        try:
            text = path.read_bytes().decode()  # line ends stay as they are
        except UnicodeDecodeError:  # a picture
            continue
        if (new := NAMED.sub(name, text)) != text:
            path.write_bytes(new.encode())
    (ROOT / "src" / OLD).rename(ROOT / "src" / name)


def main(name: str, engine: str) -> None:
    """Do it all; if anything fails, the tree is as before."""
    requirement = check(name, engine)
    done = False
    try:
        rename(name)
        fields = {"name": name, "today": date.today().isoformat(), "leyden": "https://pypi.org/project/leyden"}
        for file, text in {"README.md": README, "CHANGELOG.md": CHANGELOG, "CITATION.cff": CITATION}.items():
            (ROOT / file).write_text(text.format(**fields), encoding="utf-8")
        if requirement:
            for file in OF_ENGINE:
                shutil.rmtree(ROOT / file) if (ROOT / file).is_dir() else (ROOT / file).unlink(missing_ok=True)
            path = ROOT / "pyproject.toml"
            text = path.read_text().replace('["leyden"]', f'["{requirement}"]')
            path.write_text(text.partition("\n[tool.uv.sources]")[0], encoding="utf-8")
        Path(__file__).unlink()
        path = ROOT / "Makefile"
        path.write_text(
            re.sub(r"^mine:.*\n(\t.*\n)+\n", "", path.read_text(), flags=re.MULTILINE).replace(" mine ", " ")
        )
        git("add", "--all")
        # Another name sorts elsewhere among imports, and makes lines longer or shorter.
        for command in (["check", "--select", "I", "--fix-only"], ["format"]):
            subprocess.run(
                [sys.executable, "-m", "ruff", *command, "--quiet", "src", "tests"], cwd=ROOT, check=True
            )
        done = True
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"NAME={name}: nothing was changed: {error}")
    finally:
        if not done:
            if (ROOT / "src" / name).exists():
                (ROOT / "src" / name).rename(ROOT / "src" / OLD)
            git("reset", "--hard", "--quiet")
            git("clean", "--quiet", "--force", "--", "CHANGELOG.md", "CITATION.cff")
    print(f"src/{OLD} is now src/{name}, and README.md, CHANGELOG.md and CITATION.cff are yours to write.")
    print('Next: make check test && git add -A && git commit -m "Begin"')


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else "")
