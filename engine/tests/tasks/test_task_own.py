import json
import math
import re

import pytest
import torch

from tests import ENGINE
from tests.conftest import QUICK, weights
from tests.training.test_start import curves, train  # noqa: F401 - a fixture

PLAIN = ("task=own", "task._target_=tests.tasks.own.Plain", "callbacks.checkpoint.every_n_steps=3")


def test_that_of_the_page_is_trained(train, tmp_path, monkeypatch):  # noqa: F811
    page = (ENGINE / "docs" / "tasks.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    ((name, smoothing),) = re.findall(
        r"task=own task\._target_=\S+\.(\w+) (\+task\.smoothing=\S+)", page
    )
    (tmp_path / "of_the_page.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    target = f"task._target_=of_the_page.{name}"
    run, *_ = train("run", "task=own", target, smoothing, "trainer.max_epochs=1", "test=false")
    assert "val/loss" in run.result.metrics
    assert run.result.optimizer_steps == 10


def test_a_loss_of_torch_as_a_function_f1_as_the_objective_and_a_group_with_its_own_rate(
    train,  # noqa: F811
    command,
):
    loss = "task.loss={_target_: torch.nn.functional.multi_margin_loss, _partial_: true}"
    chosen = (
        "+task/metrics=f1",
        "objective.metric=val/f1",
        '+optimizer.groups.biases={match: "*.bias", lr: 0.01}',
    )
    monitor = "+callbacks.monitor._target_=leyden.pictures.Monitor"
    run, *_ = train("a", loss, *chosen, monitor, "trainer.max_epochs=1", "test=auto")
    assert run.result.objective.metric == "val/f1"
    assert {"train/f1", "val/f1", "test/f1"} <= set(run.result.metrics)
    rates = {name: value for _, name, value in curves(run) if name.startswith("lr")}
    assert rates == {"lr_0": 0.001, "lr_1": 0.01}
    out, _ = command("evaluate", f"run={run.directory}")
    assert f"test/f1    {run.result.metrics['test/f1']:.4f}" in out


CLIPPED = (*PLAIN, "trainer.gradient_clip_val=0.1")


def test_a_loss_over_pairs_is_measured_on_batches_of_one_size(train, command):  # noqa: F811
    pairs = ("task=own", "task._target_=tests.tasks.own.Pairs", "objective.metric=val/loss")
    run, _, err = train("a", *pairs, "trainer.max_epochs=1")
    line = "leyden: data: Pairs evaluates on batches of 100, as in training, not of 10000 (same_batch_size)\n"
    assert err.count(line) == 1
    out, err = command("evaluate", f"run={run.directory}", "format=json")
    measured = {**run.result.metrics, **json.loads(out)["metrics"]}
    assert [measured[f"{split}/loss"] for split in ("train", "val", "test")] == pytest.approx(
        [math.log(100)] * 3
    )
    assert err.count(line) == 1


@pytest.mark.parametrize(("module", "prefix"), [((), "network.layers"), (CLIPPED, "layers")])
def test_frozen_parameters_stay_and_the_run_can_be_gone_on_with(train, module, prefix):  # noqa: F811
    typed = ("a", *module, f"freeze=[{prefix}.1.*]")
    start = weights(train(*typed, "trainer.max_epochs=1")[0].directory)
    end = weights(train(*typed, "trainer.max_epochs=2")[0].directory)
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    assert changed == {f"{prefix}.3.weight", f"{prefix}.3.bias"}
    _, _, err = train("a", *module, "freeze=[]", "trainer.max_epochs=3", code=2)
    assert f"freeze: ['{prefix}.1.*'] there, [] here" in err


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("patterns", "moves"), [("network.layers.1.*", False), ("network.layers.1.weight", True)]
)
def test_running_statistics_stay_if_they_are_named(command, tmp_path, patterns, moves):
    small = (argument for argument in QUICK if not argument.startswith(("model.", "data.eval")))
    given = (
        "model=cnn",
        "trainer.max_epochs=2",
        "trainer.limit_train_batches=3",
        f"freeze=[{patterns}]",
    )
    command("train", f"run_dir={tmp_path / 'run'}", *small, *given)
    end = weights(tmp_path / "run")
    assert torch.equal(end["network.layers.1.weight"], torch.ones(32))
    assert torch.equal(end["network.layers.1.running_mean"], torch.zeros(32)) != moves
    assert torch.equal(end["network.layers.1.running_var"], torch.ones(32)) != moves
    assert not torch.equal(end["network.layers.5.running_mean"], torch.zeros(64))
