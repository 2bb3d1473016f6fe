"""The script that starts Python on a node."""

import hashlib
import tarfile

import pytest

from leyden.cluster import bootstrap


@pytest.fixture
def archive(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text("mine")
    with tarfile.open(tmp_path / "code.tar.gz", "w:gz") as opened:
        opened.add(tmp_path / "train.py", "src/train.py")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(bootstrap.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    return tmp_path / "code.tar.gz"


def test_an_archive_is_unpacked_once(archive):
    folder = bootstrap.unpack(archive)
    assert (folder / "src" / "train.py").read_text() == "mine"
    assert bootstrap.unpack(archive) == folder
    assert [*folder.parent.iterdir()] == [folder]


def test_a_folder_of_another_user_is_not_run_from(archive, monkeypatch):
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()[:16]
    (archive.parent / "tmp" / "leyden-54321" / f"code-{digest}").mkdir(parents=True)  # with other code in it
    monkeypatch.setattr(bootstrap.os, "getuid", lambda: 54321)
    with pytest.raises(SystemExit, match="belongs to another user; set TMPDIR"):
        bootstrap.unpack(archive)
