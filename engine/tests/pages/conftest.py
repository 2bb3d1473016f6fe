import shutil

import pytest

from tests.pages.short import Copy, Project, copy_to


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """What runs commands in the copy, and a template of it, with a run of three epochs in outputs/seed."""
    folder = tmp_path_factory.mktemp("pages")
    copy_to(folder / "project")
    copy = Copy(folder / "project")
    few = ("trainer.max_epochs=3", "callbacks.checkpoint.keep_all=true")
    code, said = copy.run(["-m", "leyden.train", "run_dir=outputs/seed", *few])
    assert code == 0, said
    return copy, shutil.copytree(folder / "project", folder / "template", symlinks=True)


@pytest.fixture
def project(served):
    """A project as if it were just cloned; `project(**how)` makes it."""
    copy, template = served
    shutil.rmtree(copy.folder)
    shutil.copytree(template, copy.folder, symlinks=True)
    return lambda **how: Project(copy, **how)
