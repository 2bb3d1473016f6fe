import numpy as np
import pytest
import torch

from leyden.training import onnx
from tests.training.test_start import train  # noqa: F401 - a fixture


def test_the_file_takes_pixels_and_gives_the_logits_of_the_run(cli, train, mnist_root):  # noqa: F811
    import onnxruntime

    from leyden.files.fetch import load
    from leyden.training.trained import Trained
    from tests.example import MNIST

    run, *_ = train("run", "model.dropout=0.2", "data.normalize=standardize")
    code, out, err = cli("export", f"run={run.directory}")
    assert code == 0, err
    assert "agrees on 10000 test samples, within" in out
    assert sorted(path.name for path in run.directory.glob("*.onnx*")) == ["model.onnx"]
    session = onnxruntime.InferenceSession(run.directory / "model.onnx")
    assert session.get_modelmeta().custom_metadata_map == {
        "class_names": '["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]',
    }
    pixels = load(MNIST, mnist_root, train=False, download=False).data[:, None]
    trained = Trained(run)
    task, facts = trained.task(), trained.facts
    network = task.network
    for num in (1, 7):
        (found,) = session.run(["logits"], {"pixels": pixels[:num].numpy()})
        with torch.inference_mode():
            expected = network(facts.normalize(pixels[:num])).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow(minutes=0.1)
def test_a_convolution_can_be_exported(cli, tmp_path, small_root):
    run_dir = tmp_path / "run"
    few = (f"data.root={small_root}", "data.val_size=100", "trainer.limit_train_batches=1", "trainer.max_epochs=1")
    code, _, err = cli("train", f"run_dir={run_dir}", "model=cnn", "callbacks=bare", *few, "test=false")
    assert code == 0, err
    code, _, err = cli("export", f"run={run_dir}")
    assert code == 0, err


def test_what_can_not_be_written_is_a_line(cli, train, monkeypatch, tmp_path):  # noqa: F811
    run, *_ = train("run")
    monkeypatch.setattr(onnx, "TOLERANCE", -1.0)
    code, _, err = cli("export", f"run={run.directory}")
    assert code == 2
    assert "model.onnx: not written; on 10000 test samples ONNX predicts 0 different classes" in err
    assert not list(run.directory.glob("*.onnx"))
    for output in (tmp_path / "nowhere" / "model.onnx", tmp_path / "model.pt"):
        code, _, err = cli("export", f"run={run.directory}", f"output={output}")
        assert code == 2
        assert f"output={output}: must be the name of a .onnx file" in err
    monkeypatch.setattr("leyden.export.NEEDS", ("onnx", "no_such_package"))
    code, _, err = cli("export", f"run={run.directory}")
    assert code == 2
    assert "no_such_package: not installed; pip install 'leyden[export]' installs it" in err
