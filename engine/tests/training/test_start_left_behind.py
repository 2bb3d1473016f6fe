import subprocess

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString

from leyden.base.terminal import quoted_override
from leyden.run import provenance
from tests.conftest import QUICK, here
from tests.example import commit, git


def test_an_empty_folder_of_the_users_stays_and_an_unset_variable_is_no_place(
    cli, tmp_path, monkeypatch, capfd
):
    folders = [tmp_path / "mine", tmp_path / "outputs"]
    for folder in folders:
        folder.mkdir()
    monkeypatch.chdir(folders[0])
    for override in (
        "optimizer.lr=-1",
        "trainer.accelerator=abacus",
        "+trainer.max_steps=1",
        "dry_run=true",
    ):
        cli("train", *QUICK, override, f"run_dir={folders[0]}")
        cli("train", *QUICK, override)
        assert sorted(tmp_path.rglob("*")) == folders, override
    for key in ("run_dir", "outputs"):
        assert here("train", f"{key}=", *QUICK) == 2
        assert f"{key}: is empty" in capfd.readouterr().err
        assert sorted(tmp_path.rglob("*")) == folders


def test_what_is_printed_to_be_typed_works_as_it_stands():
    names = ["it's", "(1) #1", "ü", 'a"b', "back\\slash", "a,b", "[x]", "{y}", "a=b", "$HOME"]
    printed = " ".join(quoted_override("run_dir", name) for name in names)
    shell = subprocess.run(
        ["bash", "-c", f"printf '%s\n' {printed}"], capture_output=True, text=True, check=True
    )
    values = [
        each.value() for each in OverridesParser.create().parse_overrides(shell.stdout.splitlines())
    ]
    assert [value.text if isinstance(value, QuotedString) else value for value in values] == names


def repository(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    git(folder, "init", "-q")
    commit(folder)
    return folder


CHANGED = {
    "old.py": b"a = 2\n",
    "windows.py": b"a = 1\r\nb = 3\r\n",
    "new/a b ü.py": b"b = 3\n",
    "new/picture.png": bytes(range(256)),
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project under git with files that have changed, new ones, one that git ignores, and a large one."""
    files = {".gitignore": b"ignored\n", "old.py": b"a = 1\n", "windows.py": b"a = 1\r\nb = 2\r\n"}
    repository(tmp_path, files)
    git(tmp_path, "config", "diff.noprefix", "true")  # as a user may like it
    git(tmp_path, "config", "status.showUntrackedFiles", "no")
    (tmp_path / "new").mkdir()
    for name, content in {
        **CHANGED,
        "ignored": b"x",
        "large.bin": bytes(provenance.MAX_FILE_BYTES + 1),
    }.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(provenance, "root", lambda: tmp_path)
    return tmp_path


def test_new_files_are_changes_of_the_code(project):
    index = (project / ".git" / "index").read_bytes()
    found = provenance.state_of_code()
    assert found["dirty"] is True
    assert found["left_out"] == ["large.bin"]
    assert (project / ".git" / "index").read_bytes() == index
    # It is what makes the code anew.
    clone = project / "clone"
    git(project, "clone", str(project), str(clone))
    git(clone, "checkout", found["sha"])
    subprocess.run(["git", "-C", str(clone), "apply"], input=found["diff"].encode(), check=True)
    assert {name: (clone / name).read_bytes() for name in CHANGED} == CHANGED
    assert not (clone / "ignored").exists()


@pytest.mark.parametrize("before", ["add", "diff"])
@pytest.mark.parametrize("name", ["large.bin", "new/picture.png"])
def test_a_new_file_that_vanishes_meanwhile_is_left_out(project, monkeypatch, before, name):
    def git_slowly(at, *arguments, **options):
        if arguments[0] == before:
            (project / name).unlink(missing_ok=True)
        return git_of_before(at, *arguments, **options)

    git_of_before = provenance.git
    monkeypatch.setattr(provenance, "git", git_slowly)
    found = provenance.state_of_code()
    assert "new/a b" in found["diff"]
    assert ("picture.png" in found["diff"]) == (name == "large.bin")
    assert found["sha"]


def test_another_repository_within_is_left_out_and_executes_nothing(project, tmp_path):
    """It may be a stranger's, and git executes what its configuration names."""
    git(project, "stash", "-u")
    theirs = repository(project / "theirs", {"a.py": b"a = 1\n"})
    (theirs / "a.py").write_text("a = 2\n")
    (theirs / "git.json").write_text("[1]")
    git(theirs, "config", "core.fsmonitor", f"touch {tmp_path / 'executed'}; false")
    found = provenance.state_of_code()
    assert found["dirty"] is True
    assert found["diff"] == ""
    assert found["left_out"] == ["theirs/"]
    git(project, "add", "-f", "theirs")
    (theirs / "b.py").write_text("a = 3\n")
    assert provenance.state_of_code()["left_out"] == [
        "theirs/"
    ]  # of a submodule nothing is executed either
    assert not (tmp_path / "executed").exists()
