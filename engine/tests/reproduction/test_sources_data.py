"""Files that have changed since a run are named before it is trained anew."""

import hashlib

import pytest

from leyden.reproduction import rerun
from leyden.run.directory import Run
from tests.data import folders
from tests.reproduction.conftest import start


@pytest.fixture
def trained_on(make, commit, tmp_path):
    """Writes a run by hand that was trained on such data, in the folder `data`."""

    def write(data, name="run", **more):
        config = {"data": {"root": str(tmp_path / "data")}}
        return make(name, config=config, starts=[start(commit[1], data=data)], **more)

    (tmp_path / "data").mkdir()
    return write


@pytest.fixture
def is_trained(monkeypatch):
    """Whether a training was started, which takes none."""
    found = []
    monkeypatch.setattr(rerun, "_train", lambda *arguments: found.append(True))
    return found


def test_a_file_that_has_changed_is_named_before_training(call, trained_on, repository, is_trained, tmp_path):
    path = tmp_path / "data" / "sub" / "diamonds.csv"
    path.parent.mkdir()
    path.write_text("a,b\n1,2\n")
    run = trained_on({"sub/diamonds.csv": hashlib.sha256(path.read_bytes()).hexdigest(), "Own.data": "0" * 64})
    rerun.reproduce(Run(run), rerun.ReproduceOptions())
    assert is_trained
    is_trained.clear()
    path.write_text("a,b\n1,3\n")
    code, told = call(f"run={run}")
    assert (code, is_trained) == (2, [])
    assert (
        f"leyden: the data differ: sub/diamonds.csv in {tmp_path / 'data'} is not what the run was trained" in told
    )
    assert len(told.splitlines()) == 1
    path.unlink()  # it can be fetched
    rerun.reproduce(Run(run), rerun.ReproduceOptions())
    assert is_trained


def test_images_that_have_changed_are_named_before_training(call, trained_on, repository, is_trained, tmp_path):
    from leyden.data.folder import Folder

    root = folders.write(tmp_path / "data")
    digests = Folder(root / "train", ["cat", "dog"], (3, 8, 8)).digests | {"val/": "0"}
    run = trained_on({"train/": digests["train/"]})
    rerun.reproduce(Run(run), rerun.ReproduceOptions())
    assert is_trained
    (root / "train" / "cat" / "000.jpg").unlink()
    code, told = call(f"run={run}")
    assert code == 2
    assert "the data differ: train/ in" in told


@pytest.mark.parametrize(
    "data", [None, 3, {"a": 1}, {"../outside": "0"}, {"/etc/passwd": "0"}, {"a\0b": "0"}, {"/": "0"}, {"": "0"}]
)
def test_of_what_a_stranger_has_written_nothing_outside_is_read(trained_on, repository, is_trained, tmp_path, data):
    (tmp_path / "outside").write_text("x")
    run = trained_on(data)
    try:
        rerun.reproduce(Run(run), rerun.ReproduceOptions())
    except rerun.UserError as error:
        assert "data: embedded null" in str(error)  # noqa: PT017 - one of them is no name of a file
    else:
        assert is_trained
