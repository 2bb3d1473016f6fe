"""The code that jobs run: the archive that is written on submission, and the script that starts Python on a node."""

import hashlib
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from leyden import cluster
from leyden.cluster import bootstrap
from leyden.scheduler import slurm


@pytest.fixture
def archive(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text("mine")
    with tarfile.open(tmp_path / "code.tar.gz", "w:gz") as opened:
        opened.add(tmp_path / "train.py", "src/train.py")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(bootstrap.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    return tmp_path / "code.tar.gz"


def test_each_job_unpacks_once_to_a_folder_that_its_script_removes(archive, monkeypatch):
    """Another job that runs from the same archive keeps its own."""
    folders = []
    for job in ("7_0", "7_1"):
        monkeypatch.setenv("LEYDEN_JOB", job)
        folders.append(bootstrap.unpack(archive))
        assert folders[-1].parent.name == job
        assert bootstrap.unpack(archive) == folders[-1]
        assert (folders[-1] / "src" / "train.py").read_text() == "mine"
    environment = {"TMPDIR": str(archive.parent / "tmp"), "LEYDEN_JOB": "7_0", "PATH": os.environ["PATH"]}
    subprocess.run(["bash", "-c", f"rm -rf {slurm.NODE_FOLDER}"], env=environment, check=True)
    assert [folder.exists() for folder in folders] == [False, True]


def test_a_folder_of_another_user_is_not_run_from(archive, monkeypatch):
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()[:16]
    (archive.parent / "tmp" / "leyden-54321" / f"code-{digest}").mkdir(parents=True)  # with other code in it
    monkeypatch.setattr(bootstrap.os, "getuid", lambda: 54321)
    with pytest.raises(SystemExit, match="belongs to another user; set TMPDIR"):
        bootstrap.unpack(archive)


@pytest.mark.parametrize("layout", ["src", "."])
def test_what_links_lead_to_is_archived(tmp_path, monkeypatch, layout):
    """An edit of the files elsewhere would change waiting jobs, and a node may not have them."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    mine, nested, conf = project / layout / "mine", elsewhere / "shared" / "nested", elsewhere / "conf"
    for path in (mine / "__init__.py", nested / "__init__.py", nested / "net.py", conf / "model" / "net.yaml"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    (project / "conf").symlink_to(conf)
    (mine / "shared").symlink_to(elsewhere / "shared")
    (mine / "net.py").symlink_to(nested / "net.py")
    (project / layout / ".#net.py").symlink_to("me@here.4711")  # of an editor; it leads nowhere
    monkeypatch.setattr(cluster, "ROOT", project)
    monkeypatch.setattr(cluster, "SRC", project / layout)
    monkeypatch.setattr(cluster, "CONF", project / "conf")
    monkeypatch.setattr(bootstrap.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = bootstrap.unpack(cluster.snapshot(tmp_path / "code"))
    found = [path for path in folder.rglob("*") if "engine" not in path.parts and not path.is_dir()]
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    names = ("__init__.py", "net.py", "shared/nested/__init__.py", "shared/nested/net.py")
    expected = ["conf/model/net.yaml", "git.json", *(str(Path(layout, "mine", name)) for name in names)]
    assert sorted(str(path.relative_to(folder)) for path in found) == sorted(expected)
