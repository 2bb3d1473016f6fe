"""What `start` gives is used as `subprocess.Popen` is."""

import subprocess

import pytest

from tests.conftest import start

CHILD = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1); print(1)'])"


@pytest.mark.parametrize("anew", [False, True])
def test_a_command_is_waited_for_with_all_that_it_has_started(anew):
    process = start(script=("-c", CHILD), anew=anew)
    assert process.communicate(timeout=60)[0] == "1\n"
    assert process.returncode == 0


@pytest.mark.parametrize("anew", [False, True])
def test_a_command_that_says_much_is_not_stopped(anew):
    process = start(script=("-c", "print('x' * 10**6)"), anew=anew)
    assert len(process.communicate(timeout=60)[0]) == 10**6 + 1


def test_a_command_that_takes_too_long_is_killed():
    process = start(script=("-c", "import time; print(1, flush=True); time.sleep(600)"))
    with pytest.raises(subprocess.TimeoutExpired, match="timed out") as error:
        process.communicate(timeout=1)
    assert error.value.output == b"1\n"
    while process.poll() is None:
        pass
    assert process.returncode == -9
