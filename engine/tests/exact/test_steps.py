"""A resumed run computes again what the stopped one had recorded beyond its checkpoint: the first step that parts is named."""

import json
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from leyden.exact import ExactError
from leyden.exact.memory import Reporter
from leyden.exact.stop import FILE, Steps


def begin(folder, mode="report", every=5, state=None):
    """A callback and a function that ends a batch."""
    (folder / "checkpoints").mkdir(exist_ok=True)
    torch.manual_seed(0)
    steps, module = Steps(folder, Reporter(mode)), L.LightningModule()
    module.layer = torch.nn.Linear(1, 1)
    strategy = SimpleNamespace(broadcast=lambda value: value)
    given = {"strategy": strategy, "optimizers": [], "callback_metrics": {}}
    trainer = SimpleNamespace(log_every_n_steps=every, is_global_zero=True, **given)
    if state:
        steps.load_state_dict(state)
    steps.on_train_start(trainer, module)

    def end(outputs):
        steps.on_train_batch_end(trainer, module, outputs, None, 0)

    return steps, end, trainer, module


def train(steps, end, batches, outputs=lambda n: {"loss": torch.tensor(1.0 / n)}, checkpoint=3):
    """Train batches, with a checkpoint after one of them; return its state."""
    state = None
    for n in batches:
        end(outputs(n))
        if n == checkpoint:
            state = steps.state_dict()
            steps.on_save_checkpoint(None, None, {})
    return state


@pytest.mark.parametrize("mode", ["report", "require", "off"])
def test_the_first_step_that_parts_is_named_once(tmp_path, capsys, mode):
    steps, end, *_ = begin(tmp_path)
    state = train(steps, end, range(1, 13))
    recorded = [json.loads(line)["batch"] for line in (tmp_path / FILE).read_text().splitlines()]
    assert recorded == [4, 5, 10]  # the first one after a checkpoint, and every fifth
    steps, end, *_ = begin(tmp_path, mode, state=state)
    batches = range(4, 13), lambda n: torch.tensor(1.0 / n + (n >= 5))
    if mode == "require":
        with pytest.raises(ExactError, match=r"at step 5 \(loss 1.2"):
            train(steps, end, *batches)
        return
    train(steps, end, *batches)
    printed = capsys.readouterr().err
    assert printed.count("parts from the interrupted run") == (mode == "report")
    if mode == "report":
        assert "parts from the interrupted run at step 5 (loss 1.20000005, was 0.200000003)" in printed


def test_the_batch_after_a_stop_has_a_hash_of_the_weights(tmp_path, capsys):
    steps, end, *_ = begin(tmp_path)
    state = train(steps, end, range(1, 4))
    steps.is_last = True
    end(torch.tensor(0.25))
    for change in (0.0, 1.0):
        steps, end, _, module = begin(tmp_path, state=state)
        file = (tmp_path / FILE).read_text()
        module.layer.weight.data += change
        end(torch.tensor(0.25))
        (tmp_path / FILE).write_text(file)
        assert ("at step 4 (weights " in capsys.readouterr().err) == bool(change)


def test_without_a_loss_logged_metrics_are_compared(tmp_path, capsys):
    steps, end, trainer, _ = begin(tmp_path)
    trainer.callback_metrics = {"loss_d": torch.tensor(2.0), "matrix": torch.zeros(2, 2)}
    state = train(steps, end, range(1, 6), lambda n: None)
    steps, end, trainer, _ = begin(tmp_path, state=state)
    trainer.callback_metrics = {"loss_d": torch.tensor(3.0)}
    end(None)
    assert "at step 4 (loss_d 3, was 2)" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"batch": 4}'])
def test_a_file_of_another_kind_ends_no_run(tmp_path, content):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / FILE).write_text(content)
    steps, end, *_ = begin(tmp_path, state={"batch": 3})
    train(steps, end, range(4, 8), checkpoint=6)


def test_neither_an_output_nor_a_file_that_can_not_be_written_ends_a_run(tmp_path, capsys):
    steps, end, *_ = begin(tmp_path, every=1)
    (tmp_path / "checkpoints").rmdir(), (tmp_path / "checkpoints").write_text("no folder")
    for outputs in (None, {}, {"loss": None}, {"loss": "x"}, torch.zeros(3), 5):
        steps.on_save_checkpoint(None, None, {})
        end(outputs)
    assert capsys.readouterr().err.count("can't be written") == 1
