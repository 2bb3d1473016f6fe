"""How OpenMP's threads wait and what pages memory has are set before PyTorch is there, and never against what was set."""

import os
import subprocess
import sys

import pytest

from leyden.config.paths import ROOT

# The verb `train` is one of Hydra's, `runs` is not.
PROGRAM = """
import contextlib, importlib, io, os, sys
sys.argv = ["leyden", "--help"]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    importlib.import_module(f"leyden.{verb}").main()
assert 'torch' not in sys.modules
print(os.environ.get('GOMP_SPINCOUNT'), os.environ['THP_MEM_ALLOC_ENABLE'])
"""


def seen(verb="train", **environment):
    ours = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE")
    clean = {key: value for key, value in os.environ.items() if key not in ours}
    command = [sys.executable, "-c", PROGRAM.format(verb=verb)]
    return subprocess.check_output(command, env={**clean, **environment}, cwd=ROOT, text=True).strip()


@pytest.mark.parametrize("verb", ["train", "runs"])
def test_it_is_set(verb):
    assert seen(verb) == "30000 1"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("GOMP_SPINCOUNT", "7", "7 1"), ("OMP_WAIT_POLICY", "PASSIVE", "None 1"), ("THP_MEM_ALLOC_ENABLE", "0", "30000 0")],
)
def test_what_the_user_has_set_stays(name, value, expected):
    assert seen(**{name: value}) == expected
