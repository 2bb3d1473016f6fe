"""docs/sweeps.md: each file has as many jobs as it says. tests/pages has its commands."""

import re

import pytest
import yaml

from tests import ENGINE
from tests.sweep.spaces import grid

TEXT = (ENGINE / "docs" / "sweeps.md").read_text()
FILES = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_the_page_has_them():
    assert len(FILES) == 4


@pytest.mark.parametrize("text", FILES)
def test_each_file_has_its_jobs(text):
    sweeper = yaml.safe_load(text)["hydra"]["sweeper"]
    assert len(grid(**sweeper)) == int(re.search(r"^# (\d+) jobs$", text, re.MULTILINE)[1])
