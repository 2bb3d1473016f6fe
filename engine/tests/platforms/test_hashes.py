"""The hashes of what `make train` and `make test` install, and the versions that are tested."""

import re

from leyden.config.paths import ROOT


def pinned(text):
    """The versions of each package, by Python."""
    found = {}
    for name, version, rest in re.findall(r"^([\w.-]+)==([\w.]+)([^\\\n]*)", text, re.MULTILINE):
        if "< '3.11'" not in rest:
            found[re.sub(r"[-_.]+", "-", name).lower()] = version
    return found


def test_files_have_the_hashes_of_the_tested_versions():
    tested = pinned((ROOT / "constraints.txt").read_text())
    for name in ("train", "test"):
        text = (ROOT / "hashes" / f"{name}.txt").read_text()
        hashed = pinned(text)
        assert hashed
        assert {key: value for key, value in hashed.items() if tested.get(key, value) != value} == {}
        assert all("--hash=sha256:" in entry for entry in re.split(r"(?<!\\)\n", text) if "==" in entry)
