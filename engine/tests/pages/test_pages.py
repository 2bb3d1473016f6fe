"""Every command and file of README.md and docs/*.md: each page is done from its beginning to its end, and trains, shortly.

`tests/pages/stands_for.py` has what stands for something else, and what is not run.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from leyden.base.paths import environment_of
from tests.conftest import finish, start
from tests.pages.commands import PAGES, steps
from tests.pages.short import Project, copy_to
from tests.pages.stands_for import NOT_HERE, NOT_RUN, SHORTER, STANDS_FOR

# tests/test_distribution.py takes a project through that page, with an installed library.
WITH_STEPS = [page for page in PAGES if steps(page) and page != "adopt"]
# Those of other pages are done at night.
BY_DAY = ("README",)
DONE = [
    pytest.param(page, marks=() if page in BY_DAY else pytest.mark.nightly) for page in WITH_STEPS
]
TYPED = "\n".join(path.read_text() for path in PAGES.values())


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """A copy of the project, with a run of three epochs in outputs/seed, and a template of it."""
    folder = tmp_path_factory.mktemp("pages")
    copy_to(folder / "project")
    copy, few = (
        Project(folder / "project", {}),
        ("trainer.max_epochs=3", "callbacks.checkpoint.keep_all=true"),
    )
    copy.python(["-m", "leyden.train", "run_dir=outputs/seed", *few])
    return copy, shutil.copytree(copy.folder, folder / "template", symlinks=True)


@pytest.fixture
def project(served):
    """A project as if it were just cloned."""
    copy, template = served
    shutil.rmtree(copy.folder)
    shutil.copytree(template, copy.folder, symlinks=True)
    return Project(copy.folder, copy.said)


@pytest.mark.slow
@pytest.mark.parametrize("page", DONE)
def test_each_command_of_a_page_does_what_it_should(project, page):
    project.pictures = page == "tensorboard"
    for step in steps(page):
        try:
            project.do(step)
        except AssertionError as error:
            raise AssertionError(
                f"{PAGES[page].name}:{step.line}: {step.typed or step.path}\n{error}"
            ) from None
        if jobs := re.search(r"  # (\d+) jobs", step.typed):
            output = project.dry([*step.words[2:]])
            assert len(re.findall(r"^\d+: ", output, re.MULTILINE)) == int(jobs[1]), step.typed


@pytest.mark.system
@pytest.mark.nightly(alone=True)  # the newest packages can fail without a change here
def test_a_network_of_timm_learns_from_a_data_set_of_hugging_face(project, tmp_path):
    """The pages about both: a network of the one learns from data of the other."""
    site = str(tmp_path / "site")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--target", site)
    subprocess.run([*pip, "--no-deps", "timm"], check=True)  # PyTorch is here
    subprocess.run([*pip, "datasets", "safetensors"], check=True)
    for step in [*steps("timm"), *steps("huggingface")]:
        project.do(step)
    (of_network,) = (
        line for line in PAGES["timm"].read_text().splitlines() if line.startswith("leyden train")
    )
    (of_data,) = (
        line
        for line in PAGES["huggingface"].read_text().splitlines()
        if "imagefolder +data" in line
    )
    environment = {
        **environment_of(project.folder),
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
    }
    environment["PYTHONPATH"] += os.pathsep + site
    words = (f"run_dir={tmp_path / 'run'}", *shlex.split(of_network)[2:], *shlex.split(of_data)[2:])
    said = finish(start(*words, cwd=project.folder, anew=True, **environment))
    assert "test/acc" in said
    assert "11,177,538" in said  # parameters of resnet18 for two classes


def test_nothing_stands_for_what_no_page_has():
    words = [word for page in PAGES for step in steps(page) for word in step.typed.split()]
    assert [typed for typed in SHORTER if typed not in words] == []
    assert [typed for typed in NOT_HERE if typed not in TYPED] == []
    assert [typed for typed in NOT_RUN if typed not in TYPED] == []
    for pattern in STANDS_FOR:
        assert any(re.search(pattern, word) for word in words), pattern
