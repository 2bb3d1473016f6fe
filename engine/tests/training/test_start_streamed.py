"""Runs on data that stream from the disk keep all promises: exact, resumed, in several processes, predicted alike."""

import csv
import json
import multiprocessing

import pytest

from leyden.config.errors import UserError
from leyden.run.directory import Run
from leyden.training import predict
from leyden.training.trained import Trained
from tests.conftest import assert_same_bits
from tests.data import folders
from tests.training.test_start import curves
from tests.training.test_start_exact import stopping

# 12 updates an epoch; affine transforms draw random numbers, dropout does so beside them.
SMALL = (
    *(
        "data=folder",
        "data.image_size=[12,10]",
        "data.batch_size=5",
        "data.eval_batch_size=4",
        "data.num_workers=2",
    ),
    *("model.hidden_sizes=[16]", "trainer.log_every_n_steps=3", "trainer.max_epochs=2"),
)
STOCHASTIC = ("data/augment=affine_erasing", "model.dropout=0.2", "callbacks.checkpoint.every_n_steps=5")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return folders.write(tmp_path_factory.mktemp("data") / "pets", train=29, val=6, test=9)


@pytest.fixture
def train(cli, tmp_path, root):
    """Trains a small run in the directory named, and returns it."""

    def run(name, *arguments, code=0):
        found, out, err = cli("train", f"run_dir={tmp_path / name}", *SMALL, f"data.root={root}", *arguments)
        assert found == code, err
        assert multiprocessing.active_children() == []
        return Run(tmp_path / name), out, err

    return run


@pytest.mark.slow
def test_the_number_of_workers_changes_no_bit_and_may_change_on_the_way(train):
    first, *_ = train("a", *STOCHASTIC, "data.num_workers=0")
    other, *_ = train("b", *STOCHASTIC, "data.num_workers=4")
    assert_same_bits(first.directory, other.directory)
    assert curves(first) == curves(other)
    train("d", *STOCHASTIC, "trainer.max_epochs=1", "data.num_workers=3")
    other, *_ = train("d", *STOCHASTIC, "data.num_workers=0")
    assert_same_bits(first.directory, other.directory)


def rows(path):
    """Image, class and probability of each row of a table."""
    with path.open() as file:
        found = json.load(file) if path.suffix == ".json" else list(csv.DictReader(file))
    return [(row["image"], row["class"], float(row["probability"])) for row in found]


def test_predict_takes_any_number_of_files(train, cli, tmp_path, root, monkeypatch):
    run, *_ = train("run", "trainer.max_epochs=1", "data.num_workers=0")
    images = tmp_path / "images"
    images.mkdir()
    for n, path in enumerate([*root.glob("test/*/*")]):
        (images / f"{n:02d}{path.suffix}").symlink_to(path)
    arguments = (f"run={run.directory}", f"images={images}")
    monkeypatch.setattr(predict, "BATCH_SIZE", 4)
    monkeypatch.setattr(predict, "MAX_SHOWN", 6)
    output = tmp_path / "a.csv"
    code, out, err = cli("predict", *arguments, f"output={output}")
    assert code == 0, err
    assert out.count(str(images)) == 6
    assert "12 further rows are not shown; output=FILE.csv writes all" in out
    assert [name for name, *_ in rows(output)] == sorted(map(str, images.iterdir()))
    broken = images / "07.png"
    broken.unlink(missing_ok=True)
    broken.write_bytes(b"no image")
    output.unlink()
    code, _, err = cli("predict", *arguments, f"output={output}")
    assert code == 2
    assert f"{broken}: not a PNG, JPEG or WebP image" in err
    assert not [*tmp_path.glob("a.csv*")]
    code, _, err = cli("predict", *arguments, "invert=true")
    assert code == 2
    assert "invert=true: the data set of" in err
    trained = Trained(run)
    with pytest.raises(UserError) as raised:
        list(predict.read_image_batches(trained, sorted(images.iterdir()), invert=False))
    assert multiprocessing.active_children() == []
    assert raised  # which holds all that was under way


@pytest.mark.slow(minutes=0.1)
def test_a_folder_that_was_moved_is_found_by_data_root(train, cli, tmp_path):
    there = folders.write(tmp_path / "there")
    run, *_ = train("run", f"data.root={there}", "trainer.max_epochs=1")
    there.rename(tmp_path / "moved")
    code, _, err = cli("evaluate", f"run={run.directory}", "accelerator=cpu")
    assert code == 2
    assert "there/train'" in err
    assert "data_root=FOLDER sets the folder of the dataset" in err
    code, _, err = cli("evaluate", f"run={run.directory}", "accelerator=cpu", f"data_root={tmp_path / 'moved'}")
    assert code == 0, err
    (tmp_path / "moved" / "train" / "dog").rename(tmp_path / "moved" / "train" / "fox")
    (tmp_path / "moved" / "val" / "dog").rename(tmp_path / "moved" / "val" / "fox")
    code, _, err = cli("evaluate", f"run={run.directory}", "accelerator=cpu", f"data_root={tmp_path / 'moved'}")
    assert code == 2
    assert "moved: not the dataset that" in err


def test_what_is_missing_is_told_before_training(train, cli, tmp_path):
    bare = folders.write(tmp_path / "bare", train=5)
    (tmp_path / "bare" / "val").mkdir()
    for name, message in (
        ("val", "Couldn't find any class folder in"),
        ("none", "data.val_size=0 leaves no validation split"),
    ):
        *_, err = train(f"no {name}", f"data.root={bare}", code=2)
        assert message in err
        if name == "val":
            (tmp_path / "bare" / "val").rmdir()
    *_, err = train("no test", f"data.root={bare}", "data.val_size=2", code=2)
    assert "No such file or directory: '" in err
    assert "bare/test'" in err
    run, *_ = train("no test", f"data.root={bare}", "data.val_size=2", "test=false")
    assert run.result.metrics["val/acc"] >= 0
    code, _, err = cli("train", "data=folder", "data.root=x")
    assert code == 2
    assert err == "leyden: data.image_size: is missing and must be set\n"


def test_a_broken_file_is_named_in_a_line(train, tmp_path):
    bare = folders.write(tmp_path / "bare")
    (bare / "train" / "dog" / "001.png").write_bytes(b"no image")
    *_, err = train("run", f"data.root={bare}", code=2)
    assert len(err.strip().splitlines()) == 1
    assert "bare/train/dog/001.png: not a PNG, JPEG or WebP image that can be read" in err


OWN = (
    *("data=dataset", "data.train._target_=tests.data.folders.Noisy", "+data.train.num_samples=40"),
    *("data.val_size=10", "data.batch_size=5", "test=false", "model.hidden_sizes=[16]", "trainer.max_epochs=2"),
)


@pytest.mark.slow(minutes=0.1)
def test_a_data_set_of_ones_own_trains_and_resumes_exactly(cli, tmp_path, drawn):
    """It draws random numbers of Python, NumPy and PyTorch for each sample."""

    def trained(name, *more, code=0):
        found, _, err = cli("train", f"run_dir={tmp_path / name}", *OWN, *more)
        assert found == code, err

    for name, num_workers in (("a", 0), ("b", 3)):
        trained(name, f"data.num_workers={num_workers}")
    assert_same_bits(tmp_path / "a", tmp_path / "b")
    with stopping(drawn.randrange(12)):
        trained("c", "callbacks.checkpoint.every_n_steps=2", code=1)
    trained("c", "callbacks.checkpoint.every_n_steps=2")
    assert_same_bits(tmp_path / "a", tmp_path / "c")
