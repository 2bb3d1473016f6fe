"""AGENTS.md: it is short, and its paths and exit codes are there. test_pages.py runs its commands."""

import re

from leyden.config.errors import Exit
from leyden.config.paths import ROOT
from tests.example import OWN
from tests.pages.commands import PAGES

TEXT = PAGES["AGENTS"].read_text()
MADE = ("run.json", "outputs/", "data/", "outputs/test_evaluations.csv")  # by the commands


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 60


def test_each_path_is_there():
    paths = {*re.findall(r"`([\w./]+/|[\w/]+\.(?:py|txt|yaml|json|csv|md))`", TEXT)} - {*MADE}
    assert len(paths) > 10
    places = (ROOT, ROOT / "src" / OWN, ROOT / "conf", ROOT / "tests")
    assert [path for path in paths if not any((place / path).exists() for place in places)] == []


def test_its_exit_codes_are_those_of_the_commands():
    codes = {int(code) for cell in re.findall(r"^\| ([\d, ]+) \|", TEXT, re.MULTILINE) for code in cell.split(",")}
    assert {0, 1, 2} < codes <= {int(code) for code in Exit}
