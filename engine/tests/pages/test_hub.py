"""The pages about timm and Hugging Face, with both: a network of the one learns from data of the other."""

import os
import shlex
import subprocess
import sys

import pytest

from leyden.config.paths import environment_of
from tests.pages.commands import PAGES, steps


@pytest.mark.system
@pytest.mark.nightly  # they are the newest packages, which can fail without a change here; .ci/run has Ray
def test_a_network_of_timm_learns_from_a_data_set_of_hugging_face(project, tmp_path):
    site = str(tmp_path / "site")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--target", site)
    subprocess.run([*pip, "--no-deps", "timm"], check=True)  # PyTorch is here
    subprocess.run([*pip, "datasets", "safetensors"], check=True)
    copy = project()
    for step in [*steps("timm"), *steps("huggingface")]:
        copy.do(step)
    (of_network,) = (line for line in PAGES["timm"].read_text().splitlines() if line.startswith("leyden train"))
    (of_data,) = (line for line in PAGES["huggingface"].read_text().splitlines() if "imagefolder +data" in line)
    environment = {**os.environ, **environment_of(copy.folder), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), site]))
    words = ["-m", "leyden.train", f"run_dir={tmp_path / 'run'}"]
    words += shlex.split(of_network)[2:] + shlex.split(of_data)[2:]
    how = {"cwd": copy.folder, "env": environment, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, *words], **how)
    assert done.returncode == 0, done.stderr
    assert "test/acc" in done.stdout
    assert "11,177,538" in done.stdout  # parameters of resnet18 for two classes
