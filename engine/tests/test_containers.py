"""The files by which others build and cite the template: they are read here, and built where a builder is at hand."""

import json
import re
import shutil
import subprocess

import pytest
import yaml

import leyden
from leyden.config.paths import ROOT

DOCKERFILE = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
APPTAINER = (ROOT / "apptainer.def").read_text()
DEVCONTAINER = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
INSTRUCTIONS = ("FROM", "WORKDIR", "COPY", "RUN", "ENV", "CMD")


def make_targets(text):
    """The targets of make that a text calls."""
    return re.findall(r"\bmake (\S+)", text)


def test_what_is_cited_is_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version"} <= {*cited}
    assert cited["version"] == leyden.__version__
    assert cited["license"] == "MIT"


def test_the_containers_have_one_python_and_call_targets_that_there_are():
    instructions = [line.split()[0] for line in DOCKERFILE]
    assert instructions[0] == "FROM"
    assert {*instructions} <= {*INSTRUCTIONS}
    sections = re.findall(r"^%(\w+)", APPTAINER, re.MULTILINE)
    assert sections == ["files", "post", "environment", "runscript"]
    images = [
        DOCKERFILE[0].split()[1],
        re.search(r"^From: (\S+)", APPTAINER, re.MULTILINE)[1],
        DEVCONTAINER["image"],
    ]
    assert {*images} == {"python:3.12"}
    makefile = (ROOT / "Makefile").read_text()
    for text in ("\n".join(DOCKERFILE), APPTAINER, DEVCONTAINER["postCreateCommand"]):
        (target,) = make_targets(text)
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target


def test_data_and_results_are_not_copied_into_an_image():
    left_out = {*(ROOT / ".dockerignore").read_text().split()}
    assert {".venv", "data", "outputs"} <= left_out


def has_docker():
    return shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True).returncode == 0


@pytest.mark.system
def test_the_image_is_built_and_starts():
    if not has_docker():
        pytest.skip("needs a Docker daemon")
    subprocess.run(["docker", "build", "--tag", "leyden-test", "."], cwd=ROOT, check=True)
    command = ["docker", "run", "--rm", "leyden-test", "leyden", "--version"]
    assert leyden.__version__ in subprocess.check_output(command, text=True)
