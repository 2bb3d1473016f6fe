"""A trained run put to use: in a notebook, in a file for other programs, and on new samples."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import leyden
from leyden.config.errors import UserError
from leyden.exact import random_state
from leyden.exact.digest import digest_of_content
from leyden.exact.random_state import random_states
from leyden.training import trained
from tests import records
from tests.conftest import QUICK
from tests.example import MNIST


def test_a_run_is_loaded_with_all_that_a_notebook_needs(train, tmp_path):
    run, *_ = train("a", *QUICK, "trainer.max_epochs=2", "trainer.limit_val_batches=1.0")
    found = leyden.load(tmp_path / "a")
    assert found.metrics == run.result.metrics
    assert found.config["model"]["hidden_sizes"] == [16]
    steps, values = zip(*found.curves["val/acc"], strict=True)
    assert steps == (9, 19)
    assert max(values) == pytest.approx(found.metrics["val/acc"], abs=1e-6)
    assert not found.module.training
    batches = [found.module.transfer_batch_to_device(batch, "cpu", 0) for batch in found.data.val_dataloader()]
    hits = [(found.network(images).argmax(1) == labels).float() for images, labels in batches]
    assert torch.cat(hits).mean().item() == pytest.approx(found.metrics["val/acc"], abs=1e-6)
    assert leyden.load(tmp_path / "a", "last").network is not found.network


def test_loading_leaves_random_numbers_as_they_are(train, tmp_path):
    random_state._entropy.set("")  # as a test before may have left it
    own = np.random.bit_generator.randbits
    train("a", *QUICK, "trainer.max_epochs=1")
    assert np.random.bit_generator.randbits is own  # nor does training keep it
    before, drawn = digest_of_content(random_states()), []
    for _ in range(2):
        found = leyden.load(tmp_path / "a")
        assert found.network is not None
        assert found.data is not None
        assert np.random.bit_generator.randbits is own
        assert digest_of_content(random_states()) == before
        drawn.append(np.random.default_rng().random())
    assert drawn[0] != drawn[1]


def test_runs_are_loaded_as_they_are_listed(train, tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        train(f"runs/{name}", *QUICK, "trainer.max_epochs=1", f"seed={seed}")
    found = leyden.load_runs(tmp_path / "runs", where="seed > 0")
    assert [each.directory.name for each in found] == ["b"]
    best = max(run.metrics["val/acc"] for run in leyden.load_runs(tmp_path / "runs"))
    assert leyden.load_runs(tmp_path / "runs", sort="-val/acc")[0].metrics["val/acc"] == best
    with pytest.raises(UserError, match="there is no run"):
        leyden.load_runs(tmp_path / "nothing")


def test_the_package_itself_imports_nothing_heavy_and_names_what_it_has():
    code = "import sys, leyden; assert not {'torch', 'hydra'} & {*sys.modules}; leyden.lod"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "AttributeError: module 'leyden' has no attribute 'lod'" in done.stderr


@pytest.mark.slow(minutes=0.1)
def test_the_file_takes_pixels_and_gives_the_logits_of_the_run(command, train, mnist_root):
    import onnxruntime

    run, *_ = train("run", *QUICK, "data.normalize=standardize", "trainer.max_epochs=1")
    out, _ = command("export", f"run={run.directory}")
    assert "agrees on 10000 test samples, within" in out
    assert sorted(path.name for path in run.directory.glob("*.onnx*")) == ["model.onnx"]
    session = onnxruntime.InferenceSession(run.directory / "model.onnx")
    known = session.get_modelmeta().custom_metadata_map
    assert known == {"class_names": json.dumps([*"0123456789"])}
    pixels = MNIST(str(mnist_root), train=False).data[:, None]
    trained = leyden.load(run.directory)
    for num in (1, 7):
        (found,) = session.run(["logits"], {"pixels": pixels[:num].numpy()})
        with torch.inference_mode():
            expected = trained.network(trained.facts.normalize(pixels[:num])).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow(minutes=0.1)
def test_a_convolution_can_be_exported(command, tmp_path, small_root):
    run_dir = tmp_path / "run"
    few = (f"data.root={small_root}", "data.val_size=100", "trainer.limit_train_batches=1", "trainer.max_epochs=1")
    command("train", f"run_dir={run_dir}", "model=cnn", "callbacks=bare", *few, "test=false")
    command("export", f"run={run_dir}")


def test_what_can_not_be_written_is_a_line(command, train, monkeypatch):
    run, *_ = train("run", *QUICK, "trainer.max_epochs=1")
    monkeypatch.setattr(trained, "TOLERANCE", -1.0)
    _, err = command("export", f"run={run.directory}", code=2)
    assert "model.onnx: not written; on 10000 test samples ONNX predicts 0 different classes" in err
    assert not list(run.directory.glob("*.onnx"))
    monkeypatch.setattr("leyden.export.NEEDS", ("onnx", "no_such_package"))
    _, err = command("export", f"run={run.directory}", code=2)
    assert "no_such_package: not installed; pip install 'leyden[export]' installs it" in err


def test_a_run_directory_is_all_that_it_takes(train, command, mnist_root, tmp_path):
    digits = MNIST(str(mnist_root), train=False).data[:4].numpy()
    run, *_ = train("run", *QUICK, "data.normalize=standardize", "trainer.max_epochs=1")
    moved = run.directory.rename(tmp_path / "moved")
    folder = tmp_path / "images"
    folder.mkdir()
    paths = [folder / f"{number}.png" for number in range(len(digits))]
    for path, pixels in zip(paths, digits, strict=True):
        Image.fromarray(pixels).save(path)
    (folder / "notes.txt").write_text("not an image by its name")
    trained = leyden.load(moved)
    with torch.inference_mode():
        logits = trained.network(trained.facts.normalize(torch.from_numpy(digits)[:, None]))
    expected = [[f"{p:.5f}" for p in row] for row in logits.softmax(dim=1).tolist()]

    def predicted(images, output):
        out, _ = command("predict", f"run={moved}", f"images={images}", f"output={output}")
        assert "0.png" in out
        rows = json.loads(output.read_text()) if output.suffix == ".json" else records.table(output)
        found = [[f"{float(row[f'p({k})']):.5f}" for k in range(10)] for row in rows]
        assert [int(row["class"]) for row in rows] == [row.index(max(row)) for row in found]
        return found

    assert predicted(folder, tmp_path / "o.csv") == expected
    assert predicted(f"[{paths[1]}, {paths[0]}]", tmp_path / "o.json") == [expected[1], expected[0]]
