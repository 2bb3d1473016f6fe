import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from leyden.run.curves import read_points
from leyden.tasks import Classification
from leyden.trained.loading import Trained
from tests.conftest import QUICK, SMALL, assert_same_bits, checkpoint, for_module, weights


@pytest.fixture
def train(train):
    """Trains a small run, which draws nothing unless `callbacks=default` is among the arguments."""

    def run(name, *arguments, code=0):
        quick = SMALL if any(each.startswith("callbacks=") for each in arguments) else QUICK
        return train(name, *for_module(quick, arguments), *arguments, code=code)

    return run


def curves(run):
    """All points but those of times, which no two runs have in common."""
    return [
        point
        for point in read_points(run.directory / "metrics.csv")
        if not point[1].startswith("time/")
    ]


def next_steps(out):
    """The printed commands, a verb and its arguments each, by what they are for."""
    lines = [line.strip() for line in out.partition("next steps:\n")[2].splitlines()]
    commands = [shlex.split(line) for line in lines[1::2]]
    assert all(
        program.rpartition("/")[2] == "leyden"
        for program, *_ in commands
        if "tensorboard" not in program
    )
    return {
        what.removesuffix(":"): words[1:] for what, words in zip(lines[::2], commands, strict=True)
    }


def test_the_commands_that_are_printed_can_be_pasted(cli, command, train):
    _, out, _ = train(
        "run", "test=false", "logger=csv", "trainer.max_epochs=2", "objective.metric=train/acc"
    )
    assert "2, by train/acc" in out
    assert re.search(r"^ *time +\d+\.\d s", out, re.MULTILINE)
    steps = next_steps(out)
    assert list(steps) == ["evaluate it on the test set", "all runs so far"]
    out, _ = command(*steps["evaluate it on the test set"])
    assert "test/acc" in out
    run, out, _ = train("viewed", "scheduler=onecycle", "test=true", "trainer.max_epochs=1")
    steps = next_steps(out)
    _, _, folder = steps["view it"][-1].partition("=")
    charts = {path.parent.name for path in Path(folder).rglob("*tfevents*")}
    assert charts == {"train", "val", "test", "best"}
    _, out, _ = cli(*steps["all runs so far"])
    assert str(run.directory) in out


def test_the_best_epoch_is_kept_and_tested(train):
    unsteady = ("trainer.max_epochs=6", "optimizer=sgd", "optimizer.lr=0.9")
    run, *_ = train("a", *unsteady, "objective.metric=val/loss", "objective.mode=min")
    losses = {step: value for step, metric, value in curves(run) if metric == "val/loss"}
    assert run.result.objective.value == pytest.approx(min(losses.values()))
    best = checkpoint(run, "best")
    assert best["global_step"] - 1 == min(losses, key=losses.get)
    assert best["global_step"] < 60, "the last epoch is the best: this test needs another setting"


@pytest.mark.system
@pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")
def test_compile_leaves_the_keys_unchanged_and_the_result_close(train):
    plain, *_ = train("a", "trainer.max_epochs=1", "seed=3")
    compiled, *_ = train("b", "trainer.max_epochs=1", "seed=3", "compile=true")
    assert list(weights(plain.directory)) == list(weights(compiled.directory))
    for key, value in weights(plain.directory).items():
        torch.testing.assert_close(weights(compiled.directory)[key], value, rtol=1e-3, atol=1e-4)


def test_a_loss_that_is_no_number_stops_the_run_and_names_its_samples_and_the_command_before_it(
    train, monkeypatch
):
    def step(self, batch, original=Classification.step):
        outcome = original(self, batch)
        if self.global_step == 17:
            return outcome._replace(loss=outcome.loss * float("nan"))
        return outcome

    monkeypatch.setattr(Classification, "step", step)
    run, _, err = train("a", "optimizer.lr=0.002", code=2)
    assert "train/loss is nan at step 17" in err
    assert "Traceback" not in err
    assert run.result.status == "failed"
    assert run.result.error.type == "FloatingPointError"
    assert torch.load(run.newest_checkpoint(), weights_only=True)["global_step"] == 10
    data = Trained(run, "best").data
    samples = data.train_dataloader().samples_of(1, 7)
    assert (
        f"; first in batch 8 of epoch 2, of the samples {', '.join(map(str, samples[:8]))} and"
        in err
    )
    assert (
        f"leyden train fork={run.directory} optimizer.lr=0.0002 starts from the checkpoint before it"
        in err
    )
    loader = data.train_dataloader()
    loader.sampler.set_epoch(1)
    assert torch.equal([*loader][7][1], data.held[True].targets[samples])


def test_what_can_not_be_kept_ends_in_a_line_where_exactness_is_required(train, monkeypatch):
    def unseen(module):
        raise ValueError("hidden")

    monkeypatch.setattr("leyden.exact.state._of_module", unseen)
    _, _, err = train("a", "exact=require", code=2)
    assert "exact=require: module (ValueError: hidden) can't be looked at" in err
    assert "Traceback" not in err


def test_weights_that_are_no_numbers_are_never_saved(train, monkeypatch):
    def poison(self):
        if self.current_epoch == 1:
            with torch.no_grad():
                next(self.parameters()).fill_(float("nan"))

    monkeypatch.setattr(Classification, "on_train_epoch_end", poison)
    run, _, err = train("a", "objective=null", code=2)
    assert "not finite" in err
    assert checkpoint(run)["global_step"] == 10
    for value in weights(run.directory).values():
        assert value.isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_on_a_gpu_the_same_seed_gives_the_same_bits(train, precision):
    arguments = (
        "trainer=gpu",
        f"trainer.precision={precision}",
        "trainer.max_epochs=2",
        "model.dropout=0.2",
    )
    first, again = (train(name, *arguments)[0] for name in "ab")
    assert_same_bits(first.directory, again.directory)
