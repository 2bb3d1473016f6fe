from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn
from torch.optim.swa_utils import AveragedModel

from leyden.callbacks.averaging import EMA
from tests.conftest import checkpoint, weights


class Normed(nn.Sequential):
    """A network with running statistics, of the choices of the one that the other tests train."""

    def __init__(self, *, input_shape, num_classes, hidden_sizes, dropout):
        (size,) = hidden_sizes
        first = nn.Linear(torch.Size(input_shape).numel(), size)
        middle = (nn.BatchNorm1d(size), nn.Dropout(dropout), nn.ReLU())
        super().__init__(nn.Flatten(), first, *middle, nn.Linear(size, num_classes))


NORMED = f"model._target_={__name__}.Normed"
EMA_09 = ("+callbacks/averaging=ema", "callbacks.averaging.decay=0.9")


@pytest.mark.matrix
@pytest.mark.parametrize(("every", "steps"), [(3, range(1, 21, 3)), (1, range(1, 21))])
def test_ema_is_the_moving_average_and_changes_no_bit_of_training(
    train, command, monkeypatch, every, steps
):
    states = {}

    def recording(self, trainer, pl_module, *args, real=EMA.on_train_batch_end):
        state = {key: value.clone() for key, value in pl_module.state_dict().items()}
        states.setdefault(trainer.global_step, state)
        real(self, trainer, pl_module, *args)

    monkeypatch.setattr(EMA, "on_train_batch_end", recording)
    typed = (*EMA_09, f"callbacks.averaging.update_every_n_steps={every}")
    run, *_ = train("a", "trainer.max_epochs=2", "test=auto", NORMED, *typed)
    out, _ = command("evaluate", f"run={run.directory}")
    for name in ("test/acc", "test/loss"):
        assert f"{run.result.metrics[name]:.4f}" in out
    plain, *_ = train("b", "trainer.max_epochs=2", NORMED)
    content = checkpoint(run)
    trained = weights(plain.directory)
    assert any("running_var" in key for key in trained)
    for key, value in content["state_dict"].items():
        assert torch.equal(content["current_model_state"][key], trained[key]), key
        if value.is_floating_point():
            average = states[steps[0]][key]
            for step in steps[1:]:
                average = 0.9 * average + 0.1 * states[step][key]
            torch.testing.assert_close(value, average, rtol=1e-5, atol=1e-6, msg=key)


def test_indices_counters_and_masks_are_not_averaged():
    ema = EMA(decay=0.9999, update_every_n_steps=2)
    module = L.LightningModule()
    module.layer = nn.Linear(2, 2)
    module.trained = 0
    module.register_buffer("order", torch.arange(784))
    module.register_buffer("count", torch.tensor(0))
    module.register_buffer("mask", torch.tensor(True))
    ema._average_model = AveragedModel(module, use_buffers=True, **ema._kwargs)
    for step in range(2, 32, 2):  # two optimizers take two steps at once
        module.count += 2
        module.mask ^= True
        ema.on_train_batch_end(SimpleNamespace(global_step=step), module, None, None, 0)
    average = ema._average_model.module
    assert torch.equal(average.order, module.order)
    assert average.count == module.count
    assert average.mask == module.mask
    assert ema._average_model.n_averaged == 15


@pytest.mark.gpu
def test_on_a_gpu_the_average_lies_on_the_gpu(train, monkeypatch):
    places = set()

    def placed(self, *args, real=WeightAveraging.on_train_end):
        places.update(value.device.type for value in self._average_model.state_dict().values())
        real(self, *args)

    monkeypatch.setattr(WeightAveraging, "on_train_end", placed)
    train("a", "trainer.max_epochs=2", "trainer=gpu", NORMED, *EMA_09)
    assert places == {"cuda"}
