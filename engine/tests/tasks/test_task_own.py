"""A LightningModule of one's own gets what the perceptron has."""

import re

from tests import ENGINE
from tests.training.test_start import train  # noqa: F401 - a fixture

PLAIN = ("task=own", "task._target_=tests.tasks.own.Plain", "callbacks.checkpoint.every_n_steps=3")
GAN = ("task=own", "task._target_=tests.tasks.own.GAN", "callbacks.checkpoint.every_n_steps=3")
GAN = (*GAN, "objective.metric=val/critic", "objective.mode=min", "test=false")


def test_that_of_the_page_is_trained(train, tmp_path, monkeypatch):  # noqa: F811
    page = (ENGINE / "docs" / "tasks.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (typed,) = re.findall(r"(task=own \S+ \+task\.smoothing=\S+)", page)
    (tmp_path / "of_the_page.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    target, smoothing = typed.removeprefix("task=own ").split()
    target = "task._target_=of_the_page." + target.rpartition(".")[2]
    run, *_ = train("run", "task=own", target, smoothing, "trainer.max_epochs=1", "test=false")
    assert "val/loss" in run.result.metrics
    assert run.result.optimizer_steps == 10


def test_an_objective_that_is_never_logged_is_told_after_the_first_epoch(train):  # noqa: F811
    run, _, err = train("a", *PLAIN, "objective.metric=val/f1", "trainer.max_epochs=9", code=2)
    assert "objective.metric=val/f1: is not logged; the run logs train/acc, " in err
    assert run.result.epochs <= 1


def test_a_loss_of_torch_as_a_function_and_f1_as_the_objective(train, cli):  # noqa: F811
    loss = "task.loss={_target_: torch.nn.functional.multi_margin_loss, _partial_: true}"
    chosen = ("+task/metrics=f1", "objective.metric=val/f1", "trainer.max_epochs=1")
    run, *_ = train("a", loss, *chosen, "test=auto")
    assert run.result.objective.metric == "val/f1"
    assert {"train/f1", "val/f1", "test/f1"} <= set(run.result.metrics)
    code, out, err = cli("evaluate", f"run={run.directory}")
    assert code == 0, err
    assert f"test/f1    {run.result.metrics['test/f1']:.4f}" in out
