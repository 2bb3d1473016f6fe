"""Runs on data that stream from the disk: predicted with, and moved; tests/tasks/test_data.py resumes them."""

import csv
import multiprocessing

import pytest

from leyden.config.errors import UserError
from leyden.run.directory import Run
from leyden.training import predict
from leyden.training.trained import Trained
from tests.data import folders

# 12 updates an epoch.
SMALL = ("data=folder", "data.image_size=[12,10]", "data.batch_size=5", "data.eval_batch_size=4", "callbacks=bare")
SMALL = (*SMALL, "model.hidden_sizes=[16]", "trainer.max_epochs=1", "data.num_workers=0")


@pytest.fixture
def train(cli, tmp_path):
    """Trains a small run on a folder, without workers, and returns it."""

    def run(root, *arguments):
        code, _, err = cli("train", f"run_dir={tmp_path / 'run'}", *SMALL, f"data.root={root}", *arguments)
        assert code == 0, err
        return Run(tmp_path / "run")

    return run


def test_predict_takes_any_number_of_files(train, cli, tmp_path, monkeypatch):
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
    code, out, err = cli("predict", *arguments)
    assert code == 0, err
    assert out.count(str(images)) == 6
    assert "12 further rows are not shown; output=FILE.csv writes all" in out
    with output.open() as file:
        assert [row["image"] for row in csv.DictReader(file)] == sorted(map(str, images.iterdir()))
    broken = images / "07.png"
    broken.unlink(missing_ok=True)
    broken.write_bytes(b"no image")
    output.unlink()
    for more, message in (
        ((), f"{broken}: not a PNG, JPEG or WebP image"),
        (("invert=true",), "invert=true: the data"),
    ):
        code, _, err = cli("predict", *arguments, *more)
        assert (code, message in err) == (2, True), err
    assert not [*tmp_path.glob("a.csv*")]
    with pytest.raises(UserError) as raised:
        list(predict.read_image_batches(Trained(run), sorted(images.iterdir()), invert=False))
    assert multiprocessing.active_children() == []
    assert raised  # which holds all that was under way


@pytest.mark.slow(minutes=0.1)
def test_a_folder_that_was_moved_is_found_by_data_root(train, cli, tmp_path):
    there = folders.write(tmp_path / "there")
    run = train(there)
    moved = there.rename(tmp_path / "moved")

    def evaluate(*more):
        code, _, err = cli("evaluate", f"run={run.directory}", "accelerator=cpu", *more)
        return code, err

    code, err = evaluate()
    assert code == 2
    assert "there/train'" in err
    assert "data_root=FOLDER sets the folder of the dataset" in err
    assert evaluate(f"data_root={moved}")[0] == 0
    for split in ("train", "val"):
        (moved / split / "dog").rename(moved / split / "fox")
    code, err = evaluate(f"data_root={moved}")
    assert (code, "moved: not the dataset that" in err) == (2, True), err
