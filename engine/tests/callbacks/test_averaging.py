"""With averages of weights, what was evaluated is what the checkpoint holds."""

import pytest
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn

from leyden.callbacks.averaging import EMAWeightAveraging, SWAWeightAveraging
from tests import mistakes
from tests.training.test_start import curves, train  # noqa: F401 - a fixture


class Normed(nn.Module):
    """A network with running statistics, of the choices of the one that the other tests train."""

    def __init__(self, *, input_shape, num_classes, hidden_sizes, dropout):
        super().__init__()
        (size,) = hidden_sizes
        first = nn.Linear(torch.Size(input_shape).numel(), size)
        self.layers = nn.Sequential(
            nn.Flatten(), first, nn.BatchNorm1d(size), nn.Dropout(dropout), nn.ReLU(), nn.Linear(size, num_classes)
        )

    def forward(self, images_NCHW):
        return self.layers(images_NCHW)


EMA = ("+callbacks.ema._target_=lightning.pytorch.callbacks.EMAWeightAveraging", "+callbacks.ema.decay=0.95")
NORMED = f"model._target_={__name__}.Normed"
# Of two epochs, of ten steps each, the second one is averaged.
LATE_EMA = (
    "+callbacks/averaging=ema",
    "callbacks.averaging.decay=0.9",
    "callbacks.averaging.update_starting_at_step=11",
)
SWA = ("+callbacks/averaging=swa", "callbacks.averaging.update_starting_at_epoch=1")
SWA_NORMED = (*SWA, NORMED)
LATE_EMA_NORMED = (*LATE_EMA, NORMED)


@pytest.mark.matrix
@pytest.mark.parametrize("averaging", [EMA, LATE_EMA, SWA], ids=["ema", "late", "swa"])
def test_the_test_is_of_the_average_as_the_checkpoint_has_it(train, cli, averaging):  # noqa: F811
    run, *_ = train("a", "trainer.max_epochs=2", "test=auto", *averaging)
    code, out, err = cli("evaluate", f"run={run.directory}")
    assert code == 0, err
    for name in ("test/acc", "test/loss"):
        assert f"{run.result.metrics[name]:.4f}" in out
    content = torch.load(run.checkpoint("best"), weights_only=True)
    assert not all(
        torch.equal(content["current_model_state"][key], content["state_dict"][key])
        for key in content["state_dict"]
    )


def states_of(train, monkeypatch, averaging, name, *arguments):  # noqa: F811
    """A run that averages, and the state after each of its optimizer steps."""
    states = {}
    on_train_batch_end = averaging.on_train_batch_end

    def recording(self, trainer, pl_module, *args):
        state = {key: value.clone() for key, value in pl_module.state_dict().items()}
        states.setdefault(trainer.global_step, state)
        on_train_batch_end(self, trainer, pl_module, *args)

    with monkeypatch.context() as patch:
        patch.setattr(averaging, "on_train_batch_end", recording)
        run, *_ = train(name, *arguments)
    return run, states


@pytest.mark.parametrize(
    ("more", "steps"),
    [
        ((), range(11, 21)),
        (("callbacks.averaging.update_every_n_steps=4",), (12, 16, 20)),
        (("trainer.accumulate_grad_batches=3", "callbacks.averaging.update_every_n_steps=2"), (6, 8)),  # 4 an epoch
    ],
)
def test_swa_is_the_mean_of_the_weights_and_of_running_statistics(train, monkeypatch, more, steps):  # noqa: F811
    run, states = states_of(train, monkeypatch, SWAWeightAveraging, "a", "trainer.max_epochs=2", *SWA_NORMED, *more)
    content = torch.load(run.checkpoint("last"), weights_only=True)
    assert any("running_var" in key for key in content["state_dict"])
    for key, value in content["state_dict"].items():
        taken = torch.stack([states[step][key] for step in steps])
        if value.is_floating_point():
            torch.testing.assert_close(value, taken.mean(dim=0), rtol=1e-5, atol=1e-6, msg=key)
        else:  # the number of batches so far
            assert torch.equal(value, taken[-1]), key
        assert torch.equal(content["current_model_state"][key], states[max(states)][key]), key


@pytest.mark.parametrize(
    ("more", "steps"),
    [
        ((), range(11, 21)),
        (("callbacks.averaging.update_every_n_steps=3",), (12, 15, 18)),
        (("callbacks.averaging.update_starting_at_step=0",), range(1, 21)),
    ],
)
def test_ema_is_the_moving_average_from_its_first_step_on(train, monkeypatch, more, steps):  # noqa: F811
    run, states = states_of(
        train, monkeypatch, EMAWeightAveraging, "a", "trainer.max_epochs=2", *LATE_EMA_NORMED, *more
    )
    content = torch.load(run.checkpoint("last"), weights_only=True)
    for key, value in content["state_dict"].items():
        average = states[steps[0]][key]
        for step in steps[1:]:
            new = states[step][key]
            average = 0.9 * average + 0.1 * new if new.is_floating_point() else new
        torch.testing.assert_close(value, average, rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.parametrize("averaging", [LATE_EMA_NORMED, SWA_NORMED], ids=["ema", "swa"])
def test_it_changes_no_bit_of_training_and_before_it_begins_none_of_validation(train, averaging):  # noqa: F811
    averaged, *_ = train("a", "trainer.max_epochs=2", *averaging)
    plain, *_ = train("b", "trainer.max_epochs=2", NORMED)
    points = [[point for point in curves(run) if "test" not in point[1]] for run in (averaged, plain)]
    assert len(points[0]) == len(points[1])
    different = {point[:2] for point, other in zip(*points, strict=True) if point != other}
    assert different == {(19, "val/loss"), (19, "val/acc")}


@pytest.mark.parametrize("averaging", [LATE_EMA_NORMED, SWA_NORMED], ids=["EMA", "SWA"])
def test_an_average_that_has_not_begun_is_the_last_weights_and_says_so(train, averaging, request):  # noqa: F811
    run, _, err = train("a", "trainer.max_epochs=2", "+trainer.max_steps=10", *averaging)
    assert f"{request.node.callspec.id}WeightAveraging has averaged nothing" in err
    content = torch.load(run.checkpoint("last"), weights_only=True)
    for key, value in content["state_dict"].items():
        assert torch.equal(value, content["current_model_state"][key])


@pytest.mark.gpu
@pytest.mark.parametrize("averaging", [LATE_EMA_NORMED, SWA_NORMED], ids=["ema", "swa"])
def test_on_a_gpu_the_average_lies_on_the_gpu(train, monkeypatch, averaging):  # noqa: F811
    places = []
    on_train_end = WeightAveraging.on_train_end

    def placed(self, *args):
        places.extend(value.device.type for value in self.average.state_dict().values())
        on_train_end(self, *args)

    monkeypatch.setattr(WeightAveraging, "on_train_end", placed)
    train("a", "trainer.max_epochs=2", "trainer=gpu", *averaging)
    assert {*places} == {"cuda"}


SWA_NODE = "+callbacks.swa={_target_: leyden.callbacks.averaging.SWAWeightAveraging, update_starting_at_epoch: 0"
EMA_NODE = "+callbacks.ema={_target_: leyden.callbacks.averaging.EMAWeightAveraging, update_starting_at_step: 0"
LIGHTNINGS = "{_target_: lightning.pytorch.callbacks."
REFUSED = f"""
+callbacks.swa={LIGHTNINGS}StochasticWeightAveraging, swa_lrs: 0.01}}  =>  callbacks.swa: StochasticWeightAveraging: its average is not saved in checkpoints; use +callbacks/averaging=swa
+callbacks/averaging=swa  =>  callbacks.averaging: update_starting_at_epoch=2: must be smaller than trainer.max
{SWA_NODE}, update_every_n_steps: 0}}  =>  callbacks.swa: update_every_n_steps=0: must be a whole number, 1 or larger
+callbacks.ema={LIGHTNINGS}EMAWeightAveraging, update_starting_at_epoch: 1}}  =>  callbacks.ema: EMAWeightAveraging: averages at the end of an epoch, after its validation
+callbacks.ema={LIGHTNINGS}EMAWeightAveraging, update_starting_at_step: 100}}  =>  callbacks.ema: EMAWeightAveraging: until it begins, the initial weights are validated and saved
{EMA_NODE}, update_every_n_steps: 1, decay: 1.5}}  =>  callbacks.ema: decay=1.5: must be from 0 to 1
"""


@pytest.mark.parametrize(("override", "told"), mistakes(REFUSED))
def test_what_no_checkpoint_can_hold_is_refused(train, tmp_path, override, told):  # noqa: F811
    _, _, err = train("a", "trainer.max_epochs=2", override, code=2)
    assert told in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "a").exists()
