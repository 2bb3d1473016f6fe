"""docs/sweeps.md: each file has as many jobs as it says. tests/pages has its commands."""

import re

import yaml

from tests import ENGINE
from tests.sweep.spaces import grid

TEXT = (ENGINE / "docs" / "sweeps.md").read_text()
FILES = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_each_file_has_its_jobs():
    assert FILES
    for text in FILES:
        content = yaml.safe_load(text)
        found = grid(params=content["hydra"]["sweeper"]["params"], settings=content["sweep"]["settings"])
        assert len(found) == int(re.search(r"^# (\d+) jobs$", text, re.MULTILINE)[1])
