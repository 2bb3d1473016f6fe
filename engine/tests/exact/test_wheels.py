"""Works of others from their released wheels: by hand and at night."""

import importlib.metadata
import re
import subprocess
import sys

import pytest

from tests import ENGINE
from tests.example import script

pytestmark = [pytest.mark.system, pytest.mark.nightly(alone=True)]  # the newest can fail
PROGRAM = ENGINE / "bench" / "works.py"
WORKS = script(PROGRAM).WORKS
LIBRARIES, TRANSFORMERS = (ENGINE / "docs" / name for name in ("libraries.md", "transformers.md"))
ROWS = re.findall(r"^\| ([\w-]+) \S+ \|.*\| (.*?) \| [\d-]+ \|$", LIBRARIES.read_text(), re.M)
HELD = ("torch", "torchvision", "lightning", "numpy")


@pytest.fixture
def install(tmp_path):
    """A function that installs packages beside what is installed here, and returns Python there."""
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    here = [path for path in sys.path if path.endswith("site-packages")]
    lines = [f"import site; site.addsitedir({path!r})" for path in here]
    (site / "here.pth").write_text("\n".join(lines))
    held = [f"{name}=={importlib.metadata.version(name)}" for name in HELD]
    (folder / "held.txt").write_text("\n".join(held))
    program = str(folder / "bin" / "python")
    pip = [program, "-m", "pip", "install", "--quiet", "--constraint", str(folder / "held.txt")]

    def run(*words):
        subprocess.run([*pip, *words], check=True)
        return program

    return run


@pytest.mark.parametrize(("package", "kind"), ROWS)
def test_a_work_of_others_comes_to_what_the_page_says(install, package, kind):
    work = WORKS[package]
    if work.pins:
        install("--no-deps", package)
    else:
        install(package)
    python = install(*work.needs.split(), "pip")
    printed = subprocess.check_output([python, str(PROGRAM), package], text=True)
    assert f"| {kind} | " in printed, printed


def test_the_callback_of_the_page_resumes_the_trainer_of_transformers(install, tmp_path):
    files = dict(re.findall(r"^```py\n# (\S+)\n(.*?)^```$", TRANSFORMERS.read_text(), re.M | re.S))
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    lines = files["exact_callback.py"].splitlines()
    assert len([line for line in lines if line]) <= 80
    python = install("transformers", "accelerate")
    words = [python, "-m", "leyden.resumetest", "--", python, "train.py", "{dir}"]
    printed = subprocess.check_output(words, text=True, cwd=tmp_path)
    assert "the same bits in all 24 steps" in printed, printed
