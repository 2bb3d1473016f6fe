"""A run records what identifies its data, and is not resumed on others."""

import hashlib
import shutil

from leyden.run.directory import Run
from tests.data import folders

TINY = ("callbacks=bare", "trainer=cpu", "trainer.log_every_n_steps=3")
TABLE = ("data=table", "data.dataset.file=houses.csv", "data.dataset.targets=price", "model.hidden_sizes=[4]")
FOLDER = ("data=folder", "data.image_size=[8,8]", "data.num_workers=0", "model.hidden_sizes=[4]")


def contents(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def with_another_digit(content):
    """The same but for a digit near the end."""
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


def recorded(cli, run, path, changed, *given):
    """The data that a run recorded that was refused on changed data, and resumed on the former."""
    given = (f"run_dir={run}", *TINY, *given)
    code, _, err = cli("train", *given, "trainer.max_epochs=1")
    assert code == 0, err
    content, before = path.read_bytes(), contents(run)
    path.write_bytes(changed)
    code, _, err = cli("train", *given, "trainer.max_epochs=2")
    assert (code, err.count("\n")) == (2, 1), err
    assert contents(run) == before
    path.write_bytes(content)
    code, _, last = cli("train", *given, "trainer.max_epochs=2")
    assert code == 0, last
    first, second = Run(run).starts
    assert first["data"] == second["data"]
    return first["data"], err


def test_a_run_is_not_resumed_on_a_file_in_which_a_digit_has_changed(cli, tmp_path, small_root):
    file, given = "houses.csv", (*TABLE, "task=regression")
    path = tmp_path / shutil.copy(small_root / file, tmp_path)
    content = path.read_bytes()
    data, told = recorded(cli, tmp_path / "run", path, with_another_digit(content), *given, f"data.root={tmp_path}")
    assert data == {file: hashlib.sha256(content).hexdigest()}
    assert f"the data differ from those that it was trained on: {file}; restore those data" in told


def test_a_run_is_not_resumed_on_a_folder_in_which_an_image_has_changed(cli, tmp_path):
    root = folders.write(tmp_path / "pets")
    path, other = (root / "train" / "cat" / name for name in ("001.png", "005.png"))
    data, told = recorded(cli, tmp_path / "run", path, other.read_bytes(), *FOLDER, f"data.root={root}")
    assert [*data] == ["train/", "val/"]
    assert "trained on: train/; restore those data" in told


def test_a_fork_on_other_data_is_announced(cli, tmp_path, small_root):
    shutil.copy(small_root / "houses.csv", tmp_path)
    given = (*TABLE, "task=regression", *TINY, f"data.root={tmp_path}", "data.normalize=none")
    code, _, err = cli("train", f"run_dir={tmp_path / 'a'}", *given, "trainer.max_epochs=1")
    assert code == 0, err
    (tmp_path / "houses.csv").write_bytes(with_another_digit((tmp_path / "houses.csv").read_bytes()))
    fork = (f"fork={tmp_path / 'a'}", f"data.root={tmp_path}", "trainer.max_epochs=2")
    code, _, err = cli("train", f"run_dir={tmp_path / 'b'}", *fork)
    assert code == 0, err
    assert f"fork: the data differ from those of {tmp_path / 'a'}: houses.csv" in err


def test_evaluating_on_data_that_have_changed_is_announced(cli, tmp_path, small_root):
    path = tmp_path / "data" / "houses.csv"
    path.parent.mkdir()
    shutil.copy(small_root / "houses.csv", path)
    given = (*TABLE, "task=regression", *TINY, f"data.root={path.parent}", "data.normalize=none")
    code, _, err = cli("train", f"run_dir={tmp_path / 'a'}", *given, "trainer.max_epochs=1")
    assert code == 0, err
    line = f"{tmp_path / 'a'}: the data differ from those that it was trained on: houses.csv\n"
    for content, is_said in ((path.read_bytes(), False), (with_another_digit(path.read_bytes()), True)):
        path.write_bytes(content)
        code, _, err = cli("evaluate", f"run={tmp_path / 'a'}")
        assert (code, line in err) == (0, is_said), err
