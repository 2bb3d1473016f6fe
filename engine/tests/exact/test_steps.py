"""A resumed run computes again what the stopped one had recorded beyond its checkpoint: the first step that parts is named."""

import json
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from leyden.exact import ExactError
from leyden.exact.memory import Reporter
from leyden.exact.steps import STEPS_FILE
from leyden.exact.stop import Steps


class Run:
    """A run without a loop: batches end."""

    def __init__(self, folder, state=None, mode="report", every=5):
        (folder / "checkpoints").mkdir(exist_ok=True)
        torch.manual_seed(0)
        self.steps, self.module = Steps(folder, Reporter(mode)), L.LightningModule()
        self.module.layer = torch.nn.Linear(1, 1)
        strategy, self.metrics = SimpleNamespace(broadcast=lambda value: value), {}
        given = {"strategy": strategy, "optimizers": [], "callback_metrics": self.metrics}
        self.trainer = SimpleNamespace(log_every_n_steps=every, is_global_zero=True, **given)
        if state:
            self.steps.load_state_dict(state)
        self.steps.on_train_start(self.trainer, self.module)

    def end(self, outputs):
        self.steps.on_train_batch_end(self.trainer, self.module, outputs, None, 0)

    def train(self, batches, outputs=lambda n: {"loss": torch.tensor(1.0 / n)}, checkpoint=3):
        """Train batches, with a checkpoint after one of them; return its state."""
        state = None
        for n in batches:
            self.end(outputs(n))
            if n == checkpoint:
                state = self.steps.state_dict()
                self.steps.on_save_checkpoint(None, None, {})
        return state


@pytest.mark.parametrize("mode", ["report", "require", "off"])
def test_the_first_step_that_parts_is_named_once(tmp_path, capsys, mode):
    state = Run(tmp_path).train(range(1, 13))
    recorded = [
        json.loads(line)["batch"] for line in (tmp_path / STEPS_FILE).read_text().splitlines()
    ]
    assert recorded == [4, 5, 10]  # the first one after a checkpoint, and every fifth
    run, batches = (
        Run(tmp_path, state, mode),
        (range(4, 13), lambda n: torch.tensor(1.0 / n + (n >= 5))),
    )
    if mode == "require":
        with pytest.raises(ExactError, match=r"at step 5 \(loss 1.2"):
            run.train(*batches)
        return
    run.train(*batches)
    printed = capsys.readouterr().err
    assert printed.count("parts from the interrupted run") == (mode == "report")
    if mode == "report":
        assert (
            "parts from the interrupted run at step 5 (loss 1.20000005, was 0.200000003)" in printed
        )


def test_the_batch_after_a_stop_has_a_hash_of_the_weights(tmp_path, capsys):
    run = Run(tmp_path)
    state = run.train(range(1, 4))
    run.steps.is_last = True
    run.end(torch.tensor(0.25))
    file = (tmp_path / STEPS_FILE).read_text()
    for change in (0.0, 1.0):
        (tmp_path / STEPS_FILE).write_text(file)
        run = Run(tmp_path, state)
        run.module.layer.weight.data += change
        run.end(torch.tensor(0.25))
        assert ("at step 4 (weights " in capsys.readouterr().err) == bool(change)


def test_without_a_loss_logged_metrics_are_compared(tmp_path, capsys):
    run = Run(tmp_path)
    run.metrics |= {"loss_d": torch.tensor(2.0), "matrix": torch.zeros(2, 2)}
    run = Run(tmp_path, run.train(range(1, 6), lambda n: None))
    run.metrics["loss_d"] = torch.tensor(3.0)
    run.end(None)
    assert "at step 4 (loss_d 3, was 2)" in capsys.readouterr().err


def test_neither_an_output_nor_a_file_of_another_kind_ends_a_run(tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    for content in ("", "{", "[1]", '{"batch": 4}'):
        (tmp_path / STEPS_FILE).write_text(content)
        Run(tmp_path, {"batch": 3}).train(range(4, 8), checkpoint=6)
    run = Run(tmp_path, every=1)
    (tmp_path / STEPS_FILE).unlink()
    (tmp_path / "checkpoints").rmdir(), (tmp_path / "checkpoints").write_text("no folder")
    for outputs in (None, {}, {"loss": None}, {"loss": "x"}, torch.zeros(3), 5):
        run.steps.on_save_checkpoint(None, None, {})
        run.end(outputs)
    assert capsys.readouterr().err.count("can't be written") == 1
