"""What is imported is left out of the search for garbage, but not for those who call that a leak."""

import subprocess
import sys

import pytest

AT_EXIT = """
import atexit, gc, sys
atexit.register(lambda: print(gc.get_freeze_count() > 0))
from leyden.run.process import importing
with importing():
    import wave; {first}
"""


@pytest.mark.parametrize(("first", "printed"), [("pass", "True"), ("sys.modules['triton'] = None", "False")])
def test_imports_are_frozen(first, printed):
    program = AT_EXIT.format(first=first)
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == printed
