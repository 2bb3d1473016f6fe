import json
import multiprocessing
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import leyden
from leyden.base.errors import UserError
from leyden.exact import random_state
from leyden.exact.digest import digest_of_content
from leyden.exact.random_state import random_states
from leyden.run.directory import Run
from leyden.trained import evaluation, export, loading, predict
from tests import records
from tests.conftest import QUICK, checkpoint, here
from tests.data import folders
from tests.example import MNIST


@pytest.fixture(scope="module")
def runs(tmp_path_factory, mnist_root):
    """Two runs, by their seeds; the first one has looked at the whole validation split."""
    place = tmp_path_factory.mktemp("runs")
    typed = (*QUICK, f"outputs={place}", "data.normalize=standardize")
    longer = ("trainer.max_epochs=2", "trainer.limit_val_batches=1.0")
    assert here("train", f"run_dir={place / '0'}", "seed=0", *typed, *longer) == 0
    assert here("train", f"run_dir={place / '1'}", "seed=1", *typed, "trainer.max_epochs=1") == 0
    return place


def test_a_run_is_loaded_with_all_that_a_notebook_needs(runs):
    found = leyden.load(runs / "0")
    assert found.metrics == found.result.metrics
    assert found.config["model"]["hidden_sizes"] == [16]
    steps, values = zip(*found.curves["val/acc"], strict=True)
    assert steps == (9, 19)
    assert max(values) == pytest.approx(found.metrics["val/acc"], abs=1e-6)
    assert not found.module.training
    num_right = num = 0
    for batch in found.data.val_dataloader():
        images_NCHW, labels_N = found.module.transfer_batch_to_device(batch, "cpu", 0)
        classes_N = found.network(images_NCHW).argmax(dim=1)
        num_right += (classes_N == labels_N).sum().item()
        num += len(labels_N)
    assert num_right / num == pytest.approx(found.metrics["val/acc"], abs=1e-6)
    assert leyden.load(runs / "0", "last").network is not found.network


def test_a_notebook_shows_metrics_and_pictures_and_escapes_what_a_stranger_has_named(
    runs, tmp_path, monkeypatch
):
    place = tmp_path / "<b>"
    shutil.copytree(runs / "0", place)
    record = place / "run.json"
    record.write_text(record.read_text().replace('"val/acc"', '"<script>&"'))
    (place / "<i>.png").write_bytes(b"picture")
    (place / "huge.png").write_bytes(b"too large")
    (place / "a link.png").symlink_to(place / "<i>.png")
    monkeypatch.setattr(loading, "MAX_PICTURE_BYTES", len(b"picture"))
    shown = leyden.load(place)._repr_html_()
    for each in ("<b>", "<script>", "<i>"):
        assert each not in shown
    assert "&lt;b&gt;: finished" in shown
    assert re.search("&lt;script&gt;&amp; +0[.]", shown)
    assert 'alt="&lt;i&gt;.png" src="data:image/png;base64,cGljdHVyZQ=="' in shown
    for name, reason in (("huge.png", "is larger than"), ("a link.png", "is a link")):
        assert f"<pre>{name}: {reason}" in shown
    num_more = len([*place.glob("*.png")]) - 1
    monkeypatch.setattr(loading, "MAX_PICTURES", 1)
    assert f"and {num_more} more pictures" in leyden.load(place)._repr_html_()
    found = leyden.load(place)
    record.write_text("<u>")
    assert "run.json can&#x27;t be read" in found._repr_html_()
    shutil.rmtree(place)
    assert "<pre>" in found._repr_html_()


def test_loading_leaves_random_numbers_as_they_are(train, tmp_path):
    random_state._entropy.set("")  # as a test before may have left it
    own = np.random.bit_generator.randbits
    train("a", *QUICK, "trainer.max_epochs=1")
    assert np.random.bit_generator.randbits is own  # nor does training keep it
    before = digest_of_content(random_states())
    drawn = []
    for _ in range(2):
        found = leyden.load(tmp_path / "a")
        assert None not in (found.network, found.data)
        assert np.random.bit_generator.randbits is own
        assert digest_of_content(random_states()) == before
        drawn.append(np.random.default_rng().random())
    assert drawn[0] != drawn[1]


def test_runs_are_loaded_as_they_are_listed(runs, tmp_path):
    (found,) = leyden.load_runs(runs, where="seed > 0")
    assert found.directory.name == "1"
    best, other = leyden.load_runs(runs, sort="-val/acc")
    assert best.metrics["val/acc"] >= other.metrics["val/acc"]
    with pytest.raises(UserError, match="there is no such folder"):
        leyden.load_runs(tmp_path / "nothing")


def test_the_package_itself_imports_nothing_heavy_and_names_what_it_has():
    code = "import sys, leyden; assert not {'torch', 'hydra'} & {*sys.modules}; leyden.lod"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "AttributeError: module 'leyden' has no attribute 'lod'" in done.stderr


@pytest.mark.slow(minutes=0.1)
def test_the_file_takes_pixels_and_gives_the_logits_of_the_run(command, runs, mnist_root):
    import onnxruntime

    out, _ = command("export", f"run={runs / '0'}")
    assert "agrees on 10000 test samples, within" in out
    (path,) = (runs / "0").glob("*.onnx*")
    assert path.name == "model.onnx"
    session = onnxruntime.InferenceSession(path)
    known = session.get_modelmeta().custom_metadata_map
    assert known == {"class_names": json.dumps([*"0123456789"])}
    pixels = MNIST(str(mnist_root), train=False).data[:, None]
    loaded = leyden.load(runs / "0")
    for num in (1, 7):
        (found,) = session.run(["logits"], {"pixels": pixels[:num].numpy()})
        with torch.inference_mode():
            expected = loaded.network(loaded.facts.normalize(pixels[:num])).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_can_not_be_written_is_a_line(command, runs, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    _, err = command("export", f"run={runs / '1'}", code=2)
    assert "model.onnx: not written; on 10000 test samples the outputs of ONNX differ by" in err
    assert not list((runs / "1").glob("*.onnx"))
    monkeypatch.setattr("leyden.export.NEEDS", ("onnx", "no_such_package"))
    _, err = command("export", f"run={runs / '1'}", code=2)
    assert "no_such_package is not installed; pip install 'leyden[export]' installs it" in err


def test_a_run_directory_is_all_that_it_takes(runs, command, mnist_root, tmp_path):
    digits = MNIST(str(mnist_root), train=False).data[:4]
    moved = shutil.copytree(runs / "1", tmp_path / "moved")
    folder = tmp_path / "images"
    folder.mkdir()
    for number, pixels in enumerate(digits.numpy()):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("not an image by its name")
    loaded = leyden.load(moved)
    with torch.inference_mode():
        logits_NK = loaded.network(loaded.facts.normalize(digits[:, None]))
    expected_NK = logits_NK.softmax(dim=1)

    def assert_predicted(rows, expected_NK):
        found = []
        for row in rows:
            shares = [float(row[f"p({k})"]) for k in range(10)]
            assert int(row["class"]) == shares.index(max(shares))
            found.append(shares)
        torch.testing.assert_close(torch.tensor(found), expected_NK, atol=1e-5, rtol=0)

    table = tmp_path / "o.csv"
    out, _ = command("predict", f"run={moved}", f"images={folder}", f"output={table}")
    assert "0.png" in out
    assert_predicted(records.table(table), expected_NK)
    output = tmp_path / "o.json"
    images = f"images=[{folder / '1.png'}, {folder / '0.png'}]"
    command("predict", f"run={moved}", images, f"output={output}")
    assert_predicted(json.loads(output.read_text()), expected_NK[[1, 0]])


# 12 updates an epoch.
SMALL = (
    "data=folder",
    "data.image_size=[12,10]",
    "data.batch_size=5",
    "data.eval_batch_size=4",
    "data.num_workers=0",
    "model.hidden_sizes=[16]",
    "callbacks=bare",
    "trainer.max_epochs=1",
    "test=false",
)


def test_a_run_of_a_folder_predicts_any_number_of_files_and_is_told_of_a_move(
    train, command, tmp_path, monkeypatch
):
    root = folders.write(tmp_path / "pets", train=29, val=6, test=9)
    run, *_ = train("run", *SMALL, f"data.root={root}")
    images = tmp_path / "images"
    output = tmp_path / "a.csv"
    images.mkdir()
    for n, path in enumerate([*root.glob("test/*/*")]):
        (images / f"{n:02d}{path.suffix}").symlink_to(path)
    arguments = (f"run={run.directory}", f"images={images}", f"output={output}")
    monkeypatch.setattr(predict, "PREDICTED_BATCH_SIZE", 4)
    monkeypatch.setattr(predict, "MAX_SHOWN", 6)
    out, _ = command("predict", *arguments)
    assert out.count(str(images)) == 6
    assert "12 further rows are not shown; output=FILE.csv writes all" in out
    assert [row["image"] for row in records.table(output)] == sorted(map(str, images.iterdir()))
    broken = images / "07.png"
    broken.unlink(missing_ok=True)
    broken.write_bytes(b"no image")
    output.unlink()
    _, err = command("predict", *arguments, code=2)
    assert f"{broken}: not an image that can be read" in err
    _, err = command("predict", *arguments, "invert=true", code=2)
    assert "invert=true: the data" in err
    assert not [*tmp_path.glob("a.csv*")]
    loaded = leyden.load(run.directory)
    with pytest.raises(UserError) as raised:
        list(predict.predict_images(loaded, loaded.task(), sorted(images.iterdir()), invert=False))
    assert multiprocessing.active_children() == []
    assert raised  # which holds all that was under way

    evaluate = ("evaluate", f"run={run.directory}", "accelerator=cpu")
    moved = root.rename(tmp_path / "moved")
    _, err = command(*evaluate, code=2)
    assert re.search("pets/train'.*data_root=FOLDER sets the folder of the dataset", err)
    command(*evaluate, f"data_root={moved}")
    for split in ("train", "val"):
        (moved / split / "dog").rename(moved / split / "fox")
    _, err = command(*evaluate, f"data_root={moved}", code=2)
    assert "moved: not the dataset that" in err


def test_an_evaluation_has_the_precision_and_the_limits_of_the_run(runs, tmp_path):
    place = shutil.copytree(runs / "1", tmp_path / "run")
    config = records.config(place)
    taken = {"precision": "bf16-true", "limit_test_batches": 3, "deterministic": True}
    config["trainer"] |= taken
    records.put(place, config=config)
    assert dict(loading.Trained(Run(place)).cfg.trainer) == taken


def test_of_runs_that_repeat_each_other_one_is_evaluated(runs, tmp_path):
    for name in "ab":
        shutil.copytree(runs / "1", tmp_path / "s" / name)
    found, *_ = evaluation.runs_of_row(tmp_path / "s", 1, "best", data_root=None, trust=False)
    assert len(found) == 1


def test_weights_of_double_precision_are_evaluated_as_they_are(train, tmp_path):
    run, *_ = train("a", *QUICK, "trainer.precision=64-true", "trainer.max_epochs=1")
    loaded = leyden.load(run.directory)
    evaluation.evaluate([loaded], outputs=str(tmp_path), accelerator="cpu")
    kept = checkpoint(run, "best")["state_dict"]
    for name, each in loaded.module.state_dict().items():
        assert torch.equal(kept[name], each)
