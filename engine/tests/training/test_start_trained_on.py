"""A run records what identifies its data, and is not resumed on others."""

import hashlib
import shutil

import pytest

from leyden.run.directory import Run
from tests.data import folders

TINY = ("callbacks=bare", "trainer=cpu", "trainer.log_every_n_steps=3", "model.hidden_sizes=[4]", "test=false")
TABLE = ("data=table", "data.dataset.file=houses.csv", "data.dataset.targets=price", "data.normalize=none")
TABLE = (*TABLE, "task=regression")
FOLDER = ("data=folder", "data.image_size=[8,8]", "data.num_workers=0", "data.normalize=unit")


def contents(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["table", "folder"])
def test_a_run_is_not_resumed_on_data_that_have_changed_and_all_else_is_announced(cli, tmp_path, small_root, kind):
    run = tmp_path / "run"

    def call(verb, *arguments, code=0):
        found, _, err = cli(verb, *arguments)
        assert found == code, err
        return err

    if kind == "table":
        root, given, name = tmp_path / "data", TABLE, "houses.csv"
        root.mkdir()
        path = root / name
        shutil.copy(small_root / name, path)
        whole = path.read_bytes()
        changed = whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]  # a digit near the end
        digests = {name: hashlib.sha256(whole).hexdigest()}
    else:
        root, given, name = folders.write(tmp_path / "pets"), FOLDER, "train/"
        path, other = (root / "train" / "cat" / each for each in ("001.png", "005.png"))
        whole, changed = path.read_bytes(), other.read_bytes()
    given = (*given, *TINY, f"data.root={root}")
    call("train", f"run_dir={run}", *given, "trainer.max_epochs=1")
    differ = f"the data differ from those that it was trained on: {name}"
    assert differ not in call("evaluate", f"run={run}")
    before = contents(run)
    path.write_bytes(changed)
    err = call("train", f"run_dir={run}", *given, "trainer.max_epochs=2", code=2)
    assert err.count("\n") == 1
    assert f"{differ}; restore those data" in err
    assert contents(run) == before
    fork = (f"run_dir={tmp_path / 'fork'}", f"fork={run}", f"data.root={root}", "trainer.max_epochs=2")
    assert f"fork: the data differ from those of {run}: {name}" in call("train", *fork)
    assert f"{run}: {differ}\n" in call("evaluate", f"run={run}")
    path.write_bytes(whole)
    call("train", f"run_dir={run}", *given, "trainer.max_epochs=2")
    first, second = (start["data"] for start in Run(run).starts)
    assert first == second
    assert first == digests if kind == "table" else [*first] == ["train/", "val/"]
