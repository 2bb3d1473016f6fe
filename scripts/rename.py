"""Give your package, the worked example at first, a name of its own; the engine keeps its name and is not touched.

make rename NAME=myproject    # then: make check test
"""

import importlib.util
import keyword
import re
import subprocess
import sys

from leyden.config.paths import ENGINE, ROOT, own_packages

OWN = own_packages("models")[0]
# Where the package is named: by its own modules, their tests, the configs that make something of it, what measures it, and
# the README.
PLACES = (f"src/{OWN}", "tests/project", "conf", "scripts", "README.md")


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
    if name in (OWN, *ENGINE) or importlib.util.find_spec(name) is not None:
        sys.exit(f"NAME={name}: is taken, by a package that Python finds; choose another name")
    if changes := git("status", "--porcelain"):
        sys.exit(f"the working tree has changes: commit them first, so that git can undo this\n{changes.rstrip()}")


def main(name: str) -> None:
    """Rename in the files that name the package, then move it."""
    check(name)
    for file in git("ls-files", "-z", *PLACES).split("\0")[:-1]:
        path = ROOT / file
        text = path.read_text()
        new = re.sub(rf"(?<![\w.]){OWN}(?=\.\w)|(?<=src/){OWN}(?=/)", name, text)
        if new != text:
            path.write_text(new)
    git("mv", f"src/{OWN}", f"src/{name}")
    print(f"src/{OWN} is now src/{name}; make check test, then commit")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) == 2 else "")
