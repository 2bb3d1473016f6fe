"""A start that is refused leaves everything as it was; a run keeps what makes it anew."""

import subprocess
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString

from leyden.config.terminal import quoted_override
from leyden.run import provenance
from leyden.run.directory import Run
from leyden.train import main
from tests.conftest import QUICK

REFUSED = ["optimizer.lr=-1", "trainer.accelerator=abacus", "+trainer.max_steps=1", "dry_run=true"]


def everything(place):
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


@pytest.mark.parametrize("override", REFUSED)
def test_an_empty_folder_of_the_users_stays(cli, tmp_path, monkeypatch, override):
    for name in ("mine", "outputs"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    cli("train", *QUICK, override, f"run_dir={tmp_path / 'mine'}")
    cli("train", *QUICK, override)
    assert everything(tmp_path) == ["mine", "outputs"]


@pytest.mark.parametrize("key", ["run_dir", "outputs"])
def test_an_unset_variable_of_the_shell_is_no_place(monkeypatch, capfd, tmp_path, key):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["leyden.train", f"{key}=", *QUICK])
    with pytest.raises(SystemExit):
        main()
    assert f"{key}: is empty" in capfd.readouterr().err
    assert everything(tmp_path) == []


@pytest.mark.parametrize("name", ["it's", "(1) #1", "ü", 'a"b', "back\\slash", "a,b", "[x]", "{y}", "a=b", "$HOME"])
def test_what_is_printed_to_be_typed_works_as_it_stands(name):
    printed = quoted_override("run_dir", name)
    shell = subprocess.run(["bash", "-c", f"printf %s {printed}"], capture_output=True, text=True, check=True)
    (override,) = OverridesParser.create().parse_overrides([shell.stdout])
    value = override.value()
    assert (value.text if isinstance(value, QuotedString) else value) == name


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project under git with a file that has changed, a new one, one that git ignores, and a large one."""

    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    git("init")
    git("config", "user.email", "a@example.org")
    git("config", "user.name", "a")
    (tmp_path / ".gitignore").write_text("ignored\n")
    git("config", "diff.noprefix", "true")  # as a user may like it
    git("config", "status.showUntrackedFiles", "no")
    (tmp_path / "old.py").write_text("a = 1\n")
    (tmp_path / "windows.py").write_bytes(b"a = 1\r\nb = 2\r\n")
    git("add", "-A")
    git("commit", "-m", "first")
    (tmp_path / "old.py").write_text("a = 2\n")
    (tmp_path / "windows.py").write_bytes(b"a = 1\r\nb = 3\r\n")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a b ü.py").write_text("b = 3\n")
    (tmp_path / "new" / "picture.png").write_bytes(bytes(range(256)))
    (tmp_path / "ignored").write_text("x")
    (tmp_path / "large.bin").write_bytes(bytes(provenance.MAX_FILE_BYTES + 1))
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    return tmp_path


def test_new_files_are_changes_of_the_code(project):
    index = (project / ".git" / "index").read_bytes()
    found = provenance.state_of_code()
    assert found["dirty"] is True
    assert found["left_out"] == ["large.bin"]
    assert (project / ".git" / "index").read_bytes() == index
    # It is what makes the code anew.
    clone = project / "clone"
    subprocess.run(["git", "clone", "-q", str(project), str(clone)], check=True)
    subprocess.run(["git", "-C", str(clone), "checkout", "-q", found["sha"]], check=True)
    subprocess.run(["git", "-C", str(clone), "apply"], input=found["diff"].encode(), check=True)
    for name in ("old.py", "windows.py", "new/a b ü.py", "new/picture.png"):
        assert (clone / name).read_bytes() == (project / name).read_bytes()
    assert not (clone / "ignored").exists()


def repository(folder, *files):
    """A git repository with a commit."""
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_text("a = 1\n")
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (("init", "-q"), ("add", "-A"), (*author, "commit", "-qm", "first")):
        subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)
    return folder


def test_another_repository_within_is_left_out_and_executes_nothing(project, tmp_path):
    """It may be a stranger's, and git executes what its configuration names."""
    subprocess.run(["git", "-C", str(project), "stash", "-u", "-q"], check=True)
    theirs = repository(project / "theirs", "a.py")
    (theirs / "a.py").write_text("a = 2\n")
    (theirs / "git.json").write_text("[1]")
    config = ["config", "core.fsmonitor", f"touch {tmp_path / 'executed'}; false"]
    subprocess.run(["git", "-C", str(theirs), *config], check=True)
    found = provenance.state_of_code()
    assert (found["dirty"], found["diff"], found["left_out"]) == (True, "", ["theirs/"])
    subprocess.run(["git", "-C", str(project), "add", "-f", "theirs"], check=True, capture_output=True)
    (theirs / "b.py").write_text("a = 3\n")
    assert provenance.state_of_code()["left_out"] == ["theirs"]  # of a submodule nothing is executed either
    assert not (tmp_path / "executed").exists()


def test_an_override_that_names_another_key_is_kept_as_given(cli, tmp_path):
    given = 'data.eval_batch_size="${data.batch_size}"'
    code, _, err = cli("train", f"run_dir={tmp_path / 'run'}", *QUICK, "trainer.max_epochs=1", given)
    assert code == 0, err
    run = Run(tmp_path / "run")
    assert given in run.overrides
    assert run.config["data"]["eval_batch_size"] == 100
