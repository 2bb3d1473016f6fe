import shutil

import pytest

from tests.pages.short import Project, Server, copy_to


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """What runs commands in the copy, and a template of it, with a run of three epochs in outputs/seed."""
    folder = tmp_path_factory.mktemp("pages")
    copy_to(folder / "project")
    server = Server(folder / "project")
    code, said = server.run(
        [
            "-m",
            "leyden.train",
            "run_dir=outputs/seed",
            "trainer.max_epochs=3",
            "callbacks.checkpoint.keep=every",
        ]
    )
    assert code == 0, said
    yield server, shutil.copytree(folder / "project", folder / "template", symlinks=True)
    server.stop()


@pytest.fixture
def project(served):
    """A project as if it were just cloned; `project(really)` makes it."""
    server, template = served
    shutil.rmtree(server.copy)
    shutil.copytree(template, server.copy, symlinks=True)
    return lambda really: Project(server, really)
