"""Data copied to a node's own disk."""

import errno
import shutil

import pytest

from leyden.assembly.build import stage
from leyden.config.errors import UserError


@pytest.fixture
def source(tmp_path):
    (tmp_path / "shared" / "MNIST").mkdir(parents=True)
    (tmp_path / "shared" / "MNIST" / "images").write_bytes(b"0123")
    (tmp_path / "shared" / "labels").symlink_to(tmp_path / "shared" / "MNIST" / "images")
    return tmp_path / "shared"


def test_it_is_copied_once_and_again_when_it_has_changed(source, tmp_path, monkeypatch):
    monkeypatch.setenv("NODE", str(tmp_path / "disk"))
    copied = []
    copyfile = shutil.copyfile
    monkeypatch.setattr(shutil, "copyfile", lambda a, b: copied.append(a.name) or copyfile(a, b))
    copy = stage(source, "$NODE/data")
    assert (tmp_path / "disk" / "data") in copy.parents
    assert (copy / "MNIST" / "images").read_bytes() == b"0123"
    assert not (copy / "labels").is_symlink()
    assert stage(source, "$NODE/data") == copy
    assert len(copied) == 2
    (source / "more").touch()
    (source / "labels").unlink()
    assert stage(source, "$NODE/data") == copy
    assert sorted(path.name for path in copy.iterdir()) == ["MNIST", "more"]
    other = tmp_path / "other" / "shared"
    other.mkdir(parents=True)
    assert stage(other, "$NODE/data") != copy


def test_half_a_copy_is_made_anew(source, tmp_path, monkeypatch):
    def fill(a, b):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(shutil, "copyfile", fill)
        with pytest.raises(UserError, match=r"can't be copied there \(No space left on device\)"):
            stage(source, str(tmp_path / "disk"))
    assert (stage(source, str(tmp_path / "disk")) / "MNIST" / "images").exists()


def test_other_bytes_are_noticed(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "copyfile", lambda a, b: b.write_bytes(b"0124"))
    with pytest.raises(UserError, match="has other bytes than"):
        stage(source, str(tmp_path / "disk"))


def test_a_variable_that_the_node_lacks(source):
    with pytest.raises(UserError, match=r"cluster.stage=\$NO_SUCH_DISK: a variable in it is not set on this node"):
        stage(source, "$NO_SUCH_DISK")


def test_folders_that_links_lead_to_are_copied_as_folders(source, tmp_path):
    (tmp_path / "elsewhere" / "raw").mkdir(parents=True)
    (tmp_path / "elsewhere" / "raw" / "images").write_bytes(b"4567")
    for name in ("a", "b"):
        (source / name).symlink_to(tmp_path / "elsewhere")
    copy = stage(source, str(tmp_path / "disk"))
    for name in ("a", "b"):
        assert not (copy / name).is_symlink()
        assert (copy / name / "raw" / "images").read_bytes() == b"4567"


def test_links_that_lead_around_are_refused(source, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "back").symlink_to(source)
    (source / "there").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="there/back: is a link to a folder that it is in"):
        stage(source, str(tmp_path / "disk"))
