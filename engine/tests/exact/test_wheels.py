"""Works of others from their released wheels: by hand and at night."""

import re
import subprocess
import sys

import pytest

from tests import ENGINE

pytestmark = [pytest.mark.system, pytest.mark.nightly(alone=True)]  # the newest can fail
LIBRARIES = ENGINE / "docs" / "libraries.md"
ROWS = re.findall(r"^\| ([\w-]+) \S+ \|.*\| (.*?) \| [\d-]+ \|$", LIBRARIES.read_text(), re.M)


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A function that installs packages beside what is installed here, and returns Python there."""
    folder = tmp_path_factory.mktemp("wheels")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    here = [path for path in sys.path if path.endswith("site-packages")]
    lines = [f"import site; site.addsitedir({path!r})" for path in here]
    (site / "here.pth").write_text("\n".join(lines))
    program = str(folder / "bin" / "python")

    def install(*packages):
        subprocess.run([program, "-m", "pip", "install", "--quiet", *packages], check=True)
        return program

    return install


@pytest.mark.parametrize(("package", "kind"), ROWS)
def test_a_work_of_others_comes_to_what_the_page_says(python, package, kind):
    words = [python(package), str(ENGINE / "bench" / "works.py"), package]
    printed = subprocess.check_output(words, text=True)
    assert f"| {kind} | " in printed, printed
