"""How the threads of OpenMP wait for each other is set before PyTorch is there, and never against what was set."""

import os
import subprocess
import sys

import pytest


def seen(**environment):
    clean = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    program = "import sys, leyden, os; assert 'torch' not in sys.modules; print(os.environ.get('GOMP_SPINCOUNT'))"
    return subprocess.check_output([sys.executable, "-c", program], env={**clean, **environment}, text=True).strip()


def test_it_is_set():
    assert seen() == "30000"


@pytest.mark.parametrize(
    ("name", "value"), [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "PASSIVE"), ("OMP_WAIT_POLICY", "ACTIVE")]
)
def test_what_the_user_has_set_stays(name, value):
    assert seen(**{name: value}) == (value if name == "GOMP_SPINCOUNT" else "None")
