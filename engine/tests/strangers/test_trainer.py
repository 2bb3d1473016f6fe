"""Batches, splits, strategies and loops of strangers: each works, or is refused in one line."""

import re

import pytest
from lightning.pytorch.utilities import CombinedLoader
from PIL import Image

from leyden.assembly.task import partial_test_message
from leyden.assembly.trainer import silence_lightning
from tests import mistakes, records
from tests.conftest import QUICK, SMALL
from tests.exact.test_fit import trainer_of
from tests.strangers.plain import own
from tests.strangers.stand_ins import FORMS, Combined, OfSeveral, TestedAtOnce
from tests.training.test_start import curves
from tests.training.test_start_exact import stopping

FEW = ("trainer.log_every_n_steps=1", "trainer.max_epochs=2")
OBJECTIVE = ("objective.metric=val/loss", "objective.mode=min")


@pytest.mark.parametrize("form", FORMS)
def test_batches_of_any_form_are_trained_on(train, form):
    task = "stand_ins.OfForm" if form == "opaque" else "stand_ins.OfAnyForm"
    run, _, err = train("a", *own(task, "stand_ins.Formed", *FEW, *OBJECTIVE, f"+data.form={form}"))
    assert "failed" not in err
    assert run.result.metrics["test/loss"] >= 0
    assert "time/samples_per_second" in (run.directory / "metrics.csv").read_text()
    assert round(run.result.samples_per_second * run.result.seconds) == 80
    assert curves(run)


NAMES = "must be one of auto, ddp, ddp_find_unused_parameters_true, ddp_find_unused_parameters_false, fsdp2, or a"
IS_IN = "lightning.pytorch.strategies"
STRATEGIES = f"""
fsdp  =>  {NAMES}
ddp_spawn  =>  {NAMES}
null  =>  {NAMES}
{{_target_: {IS_IN}.DeepSpeedStrategy, stage: 3}}  =>  DeepSpeedStrategy may shard weights or optimizer states; checkpoints hold
{{_target_: {IS_IN}.DDPStrategy, start_method: spawn}}  =>  each process is started by its own
"""


@pytest.mark.parametrize(("strategy", "said"), mistakes(STRATEGIES))
def test_strategies_whose_runs_could_not_resume_are_refused_before_training(train, strategy, said):
    run, _, err = train("a", f"trainer.strategy={strategy}", "trainer.accelerator=cpu", *SMALL, code=2)
    assert said in err
    assert "Traceback" not in err
    assert not run.directory.exists()


def test_a_trained_run_is_put_to_use_by_the_accelerator_of_its_trainer(train, command, tmp_path):
    run, *_ = train("a", *QUICK, "trainer.accelerator=cpu", "trainer.max_epochs=1")
    picture = tmp_path / "a.png"
    Image.new("L", (28, 28), 40).save(picture)
    verbs = (("predict", f"images={picture}"), ("evaluate",))
    for verb, *more in verbs:
        for wrong in ("mps", "gpus"):
            _, err = command(verb, f"run={run.directory}", *more, f"accelerator={wrong}", code=2)
            assert re.fullmatch("leyden: trainer: .*\n", err), err
    config = run.config
    config["trainer"]["accelerator"] = "mps"
    records.put(run.directory, config=config)
    for verb, *more in verbs:
        command(verb, f"run={run.directory}", *more)


def test_each_of_several_optimizers_has_its_curves(train):
    run, *_ = train("a", *own("stand_ins.Manual"), *FEW, *OBJECTIVE, "trainer.max_epochs=1")
    found = {}
    for _, name, value in curves(run):
        found.setdefault(name, []).append(value)
    for n in range(2):
        assert found[f"grad_norm_{n}"]
        assert found[f"lr_{n}"] == pytest.approx([0.05 * 0.5**n] * len(found[f"lr_{n}"]))
    assert not {"lr", "grad_norm"} & {*found}


@pytest.mark.parametrize("mode", ["min_size", "none"])
def test_loaders_that_are_combined_are_trained_on_without_a_number_of_samples(train, mode):
    of_several = own("stand_ins.OfSeveral", "stand_ins.Combined", *FEW, "objective=null", f"+data.mode={mode}")
    run, *_ = train("a", *of_several)
    assert run.result.samples_per_second is None
    expected = {f"{split}/loss/dataloader_idx_{n}" for split in ("val", "test") for n in (0, 1)}
    assert expected <= {*run.result.metrics}


@pytest.mark.parametrize("mode", ["min_size", "sequential"])
@pytest.mark.parametrize("limit", [1.0, 1], ids=["all", "one"])
def test_a_part_of_combined_loaders_is_no_test_evaluation(mode, limit):
    silence_lightning()
    trainer = trainer_of(limit_test_batches=limit)
    data = Combined("none")
    loaders = CombinedLoader(data.test_dataloader(), mode)
    trainer.test(TestedAtOnce() if mode != "sequential" else OfSeveral(), loaders, verbose=False)
    assert bool(partial_test_message(trainer)) == isinstance(limit, int)


def splits(*more, task="plain.Plain"):
    of_system = own(task, "stand_ins.SplitBySystem", *FEW)
    return (*of_system, "callbacks=bare", "callbacks.checkpoint.keep_all=true", *more)


def test_another_validation_split_refuses_a_resume_and_an_evaluation_and_is_announced_of_a_fork(train, command):
    with stopping(11):
        train("a", *splits(), code=1)
    _, _, err = train("a", *splits(), code=2)
    assert "the data differ from those that it was trained on: first batch of val" in err
    run, *_ = train("a", *splits(), "exact=off")
    _, err = command("evaluate", f"run={run.directory}", code=2)
    assert "first batch of val differs from that in training" in err
    _, _, err = train("b", *splits()[-2:], f"fork={run.directory}@1", "trainer.max_epochs=3")
    assert "fork: the data differ" in err


def test_other_batches_of_a_loader_of_the_modules_own_are_announced_at_their_first_step(train):
    arguments = splits("+data.is_trained=true", task="stand_ins.SecondLoader")
    with stopping(11):
        train("a", *arguments, code=1)
    _, _, err = train("a", *arguments)
    assert "parts from the interrupted run at step 9" in err
