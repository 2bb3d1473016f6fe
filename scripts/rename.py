"""Give your package, the worked example at first, a name of its own; the engine keeps its name and is not touched.

make rename NAME=myproject    # then: make check test
"""

import importlib.util
import keyword
import re
import subprocess
import sys
from pathlib import Path

from leyden.config.paths import ENGINE, ROOT, own_packages

OWN = own_packages("models")[0]
FOLDERS = ("src", "tests")  # each has a folder of the package's name
# Where the package is named: by its own modules, their tests, the configs that make something of it, what measures it, and
# the pages.
PLACES = (f"src/{OWN}", f"tests/{OWN}", "conf", "scripts", "docs", "Makefile", "*.md")
# As a module of Python, as a folder, and in the pages by itself.
NAMED = re.compile(
    rf"(?<![\w.]){OWN}(?=\.\w)|(?<=\bfrom ){OWN}(?= import\b)|(?<=\bimport ){OWN}\b"
    rf"|(?<=src/){OWN}(?=/)|(?<=tests/){OWN}(?=/)|(?<=`){OWN}(?=`)"
)


def git(*arguments: str) -> str:
    """What git prints; exits with its error."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def check(name: str) -> None:
    """Exit with an error if the name can't be that of a package, or the tree is not clean."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,19}", name) or keyword.iskeyword(name):
        sys.exit(
            f"NAME={name}: must be a name for a Python package: a-z, 0-9 and _, a letter first, 20 at most, as "
            "make rename NAME=myproject"
        )
    found = name in (OWN, *ENGINE, *sys.stdlib_module_names) or importlib.util.find_spec(name) is not None
    if found:
        sys.exit(f"NAME={name}: is taken, by a package that Python finds; choose another name")
    for place in (name, *(f"{folder}/{name}" for folder in FOLDERS)):
        ignored = subprocess.run(["git", "check-ignore", "--quiet", f"{place}/"], cwd=ROOT).returncode == 0
        if ignored or (ROOT / place).exists():
            sys.exit(f"NAME={name}: is taken, by the folder {place}/; choose another name")
    if changes := git("status", "--porcelain"):
        sys.exit(f"the working tree has changes: commit them first, so that git can undo this\n{changes.rstrip()}")


def renamed(name: str) -> dict[Path, bytes]:
    """The files that name the package, with its new name."""
    found = {}
    for file in git("ls-files", "-z", "--", *PLACES).split("\0")[:-1]:
        path = ROOT / file
        if path.is_symlink() or not path.is_file():
            continue
        content = path.read_bytes()
        try:
            new = NAMED.sub(name, content.decode()).encode()  # line ends stay as they are
        except UnicodeDecodeError:  # a picture
            continue
        if new != content:
            found[path] = new
    return found


def main(name: str) -> None:
    """Rename in the files that name the package, then move it; if anything fails, the tree is as before."""
    check(name)
    files = renamed(name)
    moved = [(ROOT / folder / OWN, ROOT / folder / name) for folder in FOLDERS if (ROOT / folder / OWN).is_dir()]
    done = False
    try:
        for path, content in files.items():
            path.write_bytes(content)
        for old, new in moved:
            old.rename(new)
        git("add", "--all", "--", *(str(folder) for folders in moved for folder in folders))
        # Another name stands at another place among imports, and makes lines longer: that is put in order, and no more.
        if code := [
            file
            for file in git("diff", "-z", "--name-only", "HEAD", "--diff-filter=d").split("\0")
            if file.endswith(".py")
        ]:
            for command in (["check", "--select", "I", "--fix-only"], ["format"]):
                subprocess.run([sys.executable, "-m", "ruff", *command, "--quiet", *code], cwd=ROOT, check=True)
        done = True
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"NAME={name}: nothing was renamed: {error}")
    finally:
        if not done:
            for old, new in moved:
                if new.exists():
                    new.rename(old)
            git("reset", "--hard", "--quiet")
    print(f"src/{OWN} is now src/{name}; make check test, then commit")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) == 2 else "")
