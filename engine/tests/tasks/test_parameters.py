"""What is frozen stays as it is, whoever makes the optimizer."""

import pytest
import torch

from tests.conftest import QUICK, weights
from tests.tasks.test_task_own import PLAIN
from tests.training.test_start import curves, train  # noqa: F401 - a fixture


@pytest.mark.parametrize(
    ("module", "prefix"), [((), "network.layers"), ((*PLAIN, "trainer.gradient_clip_val=0.1"), "layers")]
)
def test_frozen_parameters_stay_and_the_run_can_be_gone_on_with(train, module, prefix):  # noqa: F811
    freeze = f"freeze=[{prefix}.1.*]"
    frozen, *_ = train("a", *module, freeze, "trainer.max_epochs=1")
    start = weights(frozen.directory)
    train("a", *module, freeze, "trainer.max_epochs=2")
    end = weights(frozen.directory)
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    assert changed == {f"{prefix}.3.weight", f"{prefix}.3.bias"}
    _, _, err = train("a", *module, "freeze=[]", "trainer.max_epochs=3", code=2)
    assert f"freeze: ['{prefix}.1.*'] there, [] here" in err


@pytest.mark.matrix
@pytest.mark.parametrize(("patterns", "moves"), [("network.layers.1.*", False), ("network.layers.1.weight", True)])
def test_running_statistics_stay_if_they_are_named(cli, tmp_path, patterns, moves):
    small = (argument for argument in QUICK if not argument.startswith(("model.", "data.eval")))
    given = ("model=cnn", "trainer.max_epochs=2", f"freeze=[{patterns}]")
    code, _, err = cli("train", f"run_dir={tmp_path / 'run'}", *small, *given)
    assert code == 0, err
    end = weights(tmp_path / "run")
    assert torch.equal(end["network.layers.1.weight"], torch.ones(32))
    assert torch.equal(end["network.layers.1.running_mean"], torch.zeros(32)) != moves
    assert torch.equal(end["network.layers.1.running_var"], torch.ones(32)) != moves
    assert not torch.equal(end["network.layers.5.running_mean"], torch.zeros(64))


BIASES = '+optimizer.groups.biases={match: "*.bias", lr: 0.01}'


def test_a_group_has_a_learning_rate_of_its_own(train):  # noqa: F811
    run, *_ = train("a", "callbacks=default", BIASES, "trainer.max_epochs=1", "trainer.log_every_n_steps=1")
    rates = {name: value for _, name, value in curves(run) if name.startswith("lr")}
    assert rates == {"lr_0": 0.001, "lr_1": 0.01}
