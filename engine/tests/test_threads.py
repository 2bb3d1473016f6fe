"""How OpenMP's threads wait and what pages memory has are set before PyTorch is there, and never against what was set."""

import os
import subprocess
import sys

import pytest

from leyden.config.paths import ROOT, prepare_process

# The verb `train` is one of Hydra's, `runs` is not.
PROGRAM = """
import contextlib, importlib, io, os, sys
sys.argv = ["leyden", "--help"]
for verb in ("runs", "train"):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        importlib.import_module(f"leyden.{verb}").main()
    assert 'torch' not in sys.modules
    print(os.environ.pop('GOMP_SPINCOUNT'), os.environ.pop('THP_MEM_ALLOC_ENABLE'))
"""
OURS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE")


def test_each_command_sets_it_before_pytorch_is_imported():
    clean = {key: value for key, value in os.environ.items() if key not in OURS}
    said = subprocess.check_output([sys.executable, "-c", PROGRAM], env=clean, cwd=ROOT, text=True)
    assert said == "30000 1\n" * 2


SET = [*zip(OURS, ("7", "PASSIVE", "0"), ("7 1", "None 1", "30000 0"), strict=True)]


@pytest.mark.parametrize(("name", "value", "expected"), SET)
def test_what_the_user_has_set_stays(monkeypatch, name, value, expected):
    for key in OURS:
        monkeypatch.setenv(key, "")  # it is as it was after the test
        monkeypatch.delenv(key)
    monkeypatch.setenv(name, value)
    prepare_process()
    assert f"{os.environ.get('GOMP_SPINCOUNT')} {os.environ['THP_MEM_ALLOC_ENABLE']}" == expected
