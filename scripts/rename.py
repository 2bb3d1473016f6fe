"""Make the template yours: package, imports, configuration, README.

make rename NAME=myproject    # then: make check test
"""

import importlib.util
import keyword
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLD = "leyden"
# They tell where the project comes from: the licence asks for it, and the changes up to here were the template's.
KEPT = {"LICENSE", "CHANGELOG.md"}


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
    if name == OLD or importlib.util.find_spec(name) is not None:
        sys.exit(f"NAME={name}: is taken, by a package that Python finds; choose another name")
    if changes := git("status", "--porcelain"):
        sys.exit(f"the working tree has changes: commit them first, so that git can undo this\n{changes.rstrip()}")


def main(name: str) -> None:
    """Rename in all files that git knows, then move the packages."""
    check(name)
    title = name.replace("_", " ").title().replace(" ", "")
    for file in git("ls-files", "-z").split("\0")[:-1]:
        path = ROOT / file
        if file in KEPT or path.is_symlink():
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:  # a picture
            continue
        new = re.sub(rf"(?<![a-z]){OLD}(?![a-z])", name, text)
        new = re.sub(rf"(?<![A-Za-z]){OLD.capitalize()}(?![a-z])", title, new)
        if new != text:
            path.write_text(new)
    git("mv", f"src/{OLD}", f"src/{name}")
    git("mv", f"src/hydra_plugins/{OLD}_sweep", f"src/hydra_plugins/{name}_sweep")
    print(f"{OLD} is now {name}; make check test, then commit")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) == 2 else "")
