"""What is imported is left out of the search for garbage, but not for those who call that a leak."""

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, gc, sys
atexit.register(lambda: print(gc.get_freeze_count() > 0))
from leyden.run.process import importing
with importing():
    import wave; {first}
"""


@pytest.mark.parametrize(("first", "frozen"), [("pass", "True"), ("sys.modules['triton'] = None", "False")])
def test_at_the_exit(first, frozen):
    program = PROGRAM.format(first=first)
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == frozen


AGAIN = """
import gc
from leyden.run.process import importing
with importing():
    import wave
class Job: pass
job = Job()
job.itself = job
del job
with importing():
    import wave
print(gc.collect())
"""


def test_what_an_earlier_job_has_left_is_found():
    assert int(subprocess.check_output([sys.executable, "-c", AGAIN], text=True)) > 0
