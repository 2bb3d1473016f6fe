"""docs/sweeps.md: each command is one, and each file has as many jobs as it says."""

import re
import shlex

import pytest
import yaml

from leyden.config.paths import ROOT
from tests.sweep.spaces import grid

TEXT = (ROOT / "docs" / "sweeps.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
LINES = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
FILES = [block for kind, block in BLOCKS if kind == "yaml"]


def test_the_page_has_both():
    assert len(LINES) > 5
    assert len(FILES) == 4


@pytest.mark.parametrize("line", LINES)
def test_each_command_is_one(cli, line):
    command, _, comment = line.partition("  #")
    python, m, module, *arguments = shlex.split(command)
    assert (python, m, module) == ("python", "-m", "leyden.train")
    code, out, err = cli("train", *arguments, "dry_run=true")
    assert code == 0, err
    if jobs := re.match(r" (\d+) jobs", comment):
        assert len(out.splitlines()) == int(jobs[1])


@pytest.mark.parametrize("text", FILES)
def test_each_file_has_its_jobs(text):
    sweeper = yaml.safe_load(text)["hydra"]["sweeper"]
    assert len(grid(**sweeper)) == int(re.search(r"^# (\d+) jobs$", text, re.MULTILINE)[1])
