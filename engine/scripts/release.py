"""Check that this commit can be released under a tag, and print the release's notes.

python engine/scripts/release.py v0.3.0 > notes.md
"""

import re
import sys
from pathlib import Path

import leyden

ENGINE = Path(__file__).resolve().parents[1]
CHANGELOG = ENGINE / "CHANGELOG.md"
CITATION = ENGINE.parent / "CITATION.cff"


def main() -> None:
    """Print the notes of the tag that the command names."""
    (tag,) = sys.argv[1:]
    print(notes_of(tag))


def notes_of(tag: str) -> str:
    """Return the section of the CHANGELOG for a tag; end where tag and files don't agree."""
    version = tag.removeprefix("v")
    if tag != f"v{leyden.__version__}":
        sys.exit(f"{tag}: leyden.__version__ is {leyden.__version__}")
    cited = re.search(r"^version: (.+)$", CITATION.read_text(encoding="utf-8"), re.MULTILINE)
    if cited is None or cited.group(1) != version:
        sys.exit(f"{tag}: {CITATION.name} has another version")
    text = CHANGELOG.read_text(encoding="utf-8")
    section = re.compile(
        rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |\Z)", re.M | re.S
    )
    found = section.search(text)
    if found is None:
        sys.exit(f"{tag}: {CHANGELOG.name} has no section ## [{version}] - DATE")
    return found.group(1).strip()


if __name__ == "__main__":
    main()
