"""The files by which others build and cite the template: they are read here, and built where a builder is at hand."""

import shutil
import subprocess

import pytest
import yaml

import leyden
from leyden.config.paths import ROOT


def test_what_is_cited_is_this_version_and_data_and_results_are_not_copied_into_an_image():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version"} <= {*cited}
    assert (cited["version"], cited["license"]) == (leyden.__version__, "MIT")
    assert {".venv", "data", "outputs"} <= {*(ROOT / ".dockerignore").read_text().split()}


@pytest.mark.system
def test_the_image_is_built_and_starts():
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("needs a Docker daemon")
    subprocess.run(["docker", "build", "--tag", "leyden-test", "."], cwd=ROOT, check=True)
    command = ["docker", "run", "--rm", "leyden-test", "leyden", "--version"]
    assert leyden.__version__ in subprocess.check_output(command, text=True)
