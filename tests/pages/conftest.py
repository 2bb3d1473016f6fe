import shutil

import pytest

from tests.pages.short import Project, Server, copy_to


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    served = Server(tmp_path_factory.mktemp("served"))
    yield served
    served.stop()


@pytest.fixture(scope="session")
def template(tmp_path_factory, server):
    """The copy, with a run of three epochs in outputs/seed."""
    folder = tmp_path_factory.mktemp("pages") / "template"
    copy_to(folder)
    words = ["run_dir=outputs/seed", "trainer.max_epochs=3", "callbacks.checkpoint.keep=every"]
    code, said = server.run(["-m", "leyden.train", *words], folder)
    assert code == 0, said
    return folder


@pytest.fixture
def project(template, tmp_path, server):
    """A project of a page's own; `project(really)` makes it."""

    def make(really):
        return Project(shutil.copytree(template, tmp_path / "project", symlinks=True), server, really)

    return make
