"""Data that lie on the disk: a run records what identifies them, is not resumed on others, and predicts with many."""

import hashlib
import multiprocessing
import shutil

import pytest

from leyden.config.errors import UserError
from leyden.run.directory import Run
from leyden.training import predict
from leyden.training.trained import Trained
from tests.data import folders
from tests.records import files, table

TINY = ("callbacks=bare", "trainer=cpu", "trainer.log_every_n_steps=3", "model.hidden_sizes=[4]", "test=false")
TABLE = ("data=table", "data.dataset.file=houses.csv", "data.dataset.targets=price", "data.normalize=none")
TABLE = (*TABLE, "task=regression")
FOLDER = ("data=folder", "data.image_size=[8,8]", "data.num_workers=0", "data.normalize=unit")


@pytest.mark.parametrize("kind", ["table", "folder"])
def test_a_run_is_not_resumed_on_changed_data_and_all_else_is_announced(command, tmp_path, small_root, kind):
    run = tmp_path / "run"
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
    command("train", f"run_dir={run}", *given, "trainer.max_epochs=1")
    differ = f"the data differ from those that it was trained on: {name}"
    assert differ not in command("evaluate", f"run={run}")[1]
    before = files(run)
    path.write_bytes(changed)
    err = command("train", f"run_dir={run}", *given, "trainer.max_epochs=2", code=2)[1]
    assert err.count("\n") == 1
    assert f"{differ}; restore those data" in err
    assert files(run) == before
    fork = (f"run_dir={tmp_path / 'fork'}", f"fork={run}", f"data.root={root}", "trainer.max_epochs=2")
    assert f"fork: the data differ from those of {run}: {name}" in command("train", *fork)[1]
    assert f"{run}: {differ}\n" in command("evaluate", f"run={run}")[1]
    path.write_bytes(whole)
    command("train", f"run_dir={run}", *given, "trainer.max_epochs=2")
    first, second = (start["data"] for start in Run(run).starts)
    assert first == second
    assert first == digests if kind == "table" else [*first] == ["train/", "val/"]


# 12 updates an epoch.
SMALL = ("data=folder", "data.image_size=[12,10]", "data.batch_size=5", "data.eval_batch_size=4", "callbacks=bare")
SMALL = (*SMALL, "model.hidden_sizes=[16]", "trainer.max_epochs=1", "data.num_workers=0")


@pytest.fixture
def train(train):
    """Trains a small run on a folder, without workers, and returns it."""
    return lambda root, *arguments: train("run", *SMALL, f"data.root={root}", *arguments)[0]


def test_predict_takes_any_number_of_files(train, command, tmp_path, monkeypatch):
    root = folders.write(tmp_path / "pets", train=29, val=6, test=9)
    run = train(root, "test=false")
    images = tmp_path / "images"
    images.mkdir()
    for n, path in enumerate([*root.glob("test/*/*")]):
        (images / f"{n:02d}{path.suffix}").symlink_to(path)
    output = tmp_path / "a.csv"
    arguments = (f"run={run.directory}", f"images={images}", f"output={output}")
    monkeypatch.setattr(predict, "BATCH_SIZE", 4)
    monkeypatch.setattr(predict, "MAX_SHOWN", 6)
    out, _ = command("predict", *arguments)
    assert out.count(str(images)) == 6
    assert "12 further rows are not shown; output=FILE.csv writes all" in out
    assert [row["image"] for row in table(output)] == sorted(map(str, images.iterdir()))
    broken = images / "07.png"
    broken.unlink(missing_ok=True)
    broken.write_bytes(b"no image")
    output.unlink()
    for more, message in (
        ([], f"{broken}: not an image that can be read"),
        (["invert=true"], "invert=true: the data"),
    ):
        assert message in command("predict", *arguments, *more, code=2)[1]
    assert not [*tmp_path.glob("a.csv*")]
    with pytest.raises(UserError) as raised:
        list(predict.read_image_batches(Trained(run), sorted(images.iterdir()), invert=False))
    assert multiprocessing.active_children() == []
    assert raised  # which holds all that was under way


@pytest.mark.slow(minutes=0.1)
def test_a_folder_that_was_moved_is_found_by_data_root(train, command, tmp_path):
    there = folders.write(tmp_path / "there")
    evaluate = ("evaluate", f"run={train(there).directory}", "accelerator=cpu")
    moved = there.rename(tmp_path / "moved")
    _, err = command(*evaluate, code=2)
    assert "there/train'" in err
    assert "data_root=FOLDER sets the folder of the dataset" in err
    command(*evaluate, f"data_root={moved}")
    for split in ("train", "val"):
        (moved / split / "dog").rename(moved / split / "fox")
    _, err = command(*evaluate, f"data_root={moved}", code=2)
    assert "moved: not the dataset that" in err
