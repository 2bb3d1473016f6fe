"""The page on the note: each file that it names is there, and has in it what the page says."""

import re

from leyden.config.paths import ROOT
from tests.pages.commands import PAGES

TEXT = PAGES["note"].read_text()


def test_each_file_is_there_and_has_the_name_in_it():
    for path in re.findall(r"`([\w/]+/\w+\.(?:py|yaml))`", TEXT):
        assert (ROOT / path).is_file(), path
    named = re.findall(r"`([\w.]+)` in\s+`([\w/]+\.(?:py|yaml))`", TEXT)
    for name, path in named:
        text, last = (ROOT / path).read_text(), name.rpartition(".")[2]
        assert re.search(rf"^ *(?:def|class) {last}\b|^ *{last}:", text, re.M), f"{name} in {path}"
    rows = [line for line in TEXT.partition("**Why")[0].splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 10 < len(named)
    assert all(any(f"`{name}` in `{path}`" in row for name, path in named) or "not needed" in row for row in rows)
