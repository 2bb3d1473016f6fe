"""Stopped at any step and resumed is never stopped, bit for bit."""

import contextlib
import signal

import pytest
import torch
from lightning.pytorch.strategies import Strategy

from leyden.run.directory import Run
from leyden.run.files import read_fingerprints
from tests.callbacks.test_samples_seen import seen
from tests.conftest import (
    QUICK,
    SMALL,
    assert_same_bits,
    checkpoint,
    finish,
    here,
    start,
    weights,
)
from tests.data import folders
from tests.forks import TIMEOUT_S
from tests.training.test_start import curves

# Dropout draws random numbers each step; checkpoints within epochs make runs resume in the middle of one.
STOCHASTIC = ("model.dropout=0.2", "callbacks.checkpoint.every_n_steps=3", "trainer.max_epochs=2")
RECIPE = (
    "data/augment=affine_erasing",
    "scheduler=onecycle",
    "optimizer=sgd",
    "task.label_smoothing=0.1",
    "trainer.gradient_clip_val=0.5",
    "trainer.accumulate_grad_batches=3",
)
FOLDER = (
    "data=folder",
    "data.root={pets}",
    "data.image_size=[12,10]",
    "data.batch_size=5",
    "data.num_workers=2",
    "model.hidden_sizes=[16]",
    "data/augment=affine_erasing",
    "trainer.log_every_n_steps=3",
    "test=true",
)
DDP = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
NORMED = "model._target_=tests.callbacks.test_averaging.Normed"
# What is trained; the batches at which it is stopped, each of which is a run; and what may be another when it is resumed.
MATRIX = {
    "random": ((*QUICK, *STOCHASTIC, "data.normalize=standardize"), (0, 9, 10, 19), ()),
    "recipe": ((*QUICK, *STOCHASTIC, *RECIPE), (4, 16), ()),
    "ema": ((*QUICK, *STOCHASTIC, NORMED, "+callbacks/averaging=ema"), (10, 16), ()),
    "folder": ((*FOLDER, *STOCHASTIC), (17,), ("data.num_workers=1",)),
}


class StoppedError(Exception):
    pass


@contextlib.contextmanager
def stopping(batch):
    """Within it training ends by an error at a batch, counted from 0 over the epochs."""
    training_step = Strategy.training_step

    def stopping_step(self, *args, **kwargs):
        if self.lightning_module.trainer.fit_loop.total_batch_idx == batch:
            raise StoppedError
        return training_step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Strategy, "training_step", stopping_step)
        yield


def assert_same_run(whole, run):
    """Two runs are one, but for the time they took."""
    for name in ("last", "best"):
        assert_same_bits(whole.directory, run.directory, name)
    assert run.result.metrics == whole.result.metrics
    assert read_fingerprints(run.directory) == read_fingerprints(whole.directory)
    assert curves(run) == curves(whole)


@pytest.mark.matrix
@pytest.mark.parametrize("row", MATRIX)
def test_stopped_and_resumed_is_never_stopped(train, tmp_path, row):
    arguments, stops, then = MATRIX[row]
    if row == "folder":
        folders.write(tmp_path / "pets", train=29, val=6, test=9)
    arguments = [each.replace("{pets}", f"{tmp_path}/pets") for each in arguments]
    arguments += ["callbacks.fingerprint.every_n_steps=1"]
    whole, *_ = train("whole", *arguments)
    for stop in stops:
        with stopping(stop):
            stopped, *_ = train(f"stopped{stop}", *arguments, code=1)
        had = bool(stopped.newest_checkpoint())
        assert had == (stop >= (9 if row == "recipe" else 3)), stop
        run, out, _ = train(f"stopped{stop}", *arguments, "resume=must", *then)
        assert ("resumes from" in out) == had
        assert_same_run(whole, run)


def kill_at(step, *arguments, by=signal.SIGKILL):
    """Start training in a process that sends itself a signal when it begins the step; the first one, of several."""
    kill = {"KILL_AT": str(step), "KILL_BY": str(int(by)), "VERB": "train"}
    return start(*arguments, script=("-m", "tests.strangers.cells"), **kill)


@pytest.mark.slow
def test_two_processes_of_ddp_are_one(tmp_path, mnist_root, command):
    # The last batch of training is a small one, that of the test set an odd one; few steps, before rounding grows.
    few = (
        "data.val_size=59840",
        "data.batch_size=50",
        "trainer.max_epochs=2",
        "trainer.log_every_n_steps=1",
        "data.eval_batch_size=4999",
        f"outputs={tmp_path}",
        "callbacks.checkpoint.every_n_steps=3",
        "test=true",
    )
    one = Run(tmp_path / "one")
    two = Run(tmp_path / "two")
    finish(start(f"run_dir={two.directory}", *few, *DDP))
    finish(start(f"run_dir={one.directory}", *few))
    assert seen(one) == seen(two) == (2, 2 * 160)
    for key, value in weights(one.directory).items():
        torch.testing.assert_close(weights(two.directory)[key], value, rtol=0, atol=1e-5)
    for name, value in one.result.metrics.items():
        assert two.result.metrics[name] == pytest.approx(value, abs=1e-4), name
    # The very same weights on the test set, by one process.
    out, _ = command("evaluate", f"run={two.directory}")
    assert all(f"{two.result.metrics[name]:.4f}" in out for name in ("test/acc", "test/loss"))


@pytest.mark.slow
def test_an_elastic_run_goes_on_is_forked_and_reproduced_with_another_number_of_processes(
    tmp_path, mnist_root
):
    few = (
        "data.val_size=501",
        "trainer.limit_train_batches=6",
        "model.dropout=0.2",
        "trainer=elastic",
        "trainer.virtual_ranks=4",
        "trainer.accelerator=cpu",
    )

    def trained(name, processes, epochs, *arguments):
        run = Run(tmp_path / name)
        of_start = (f"trainer.devices={processes}", f"trainer.max_epochs={epochs}", "test=true")
        finish(start(f"run_dir={run.directory}", *arguments, *of_start))
        return run

    outputs = f"outputs={tmp_path}"
    whole = trained("whole", 1, 3, *few, outputs)
    stopped = trained("stopped", 2, 2, *few, outputs)
    forked = trained("forked", 4, 3, f"fork={stopped.directory}", outputs)
    resumed = trained("stopped", 1, 3)
    for run in (forked, resumed):
        assert run.result.metrics == whole.result.metrics
        before = weights(whole.directory)
        for key, each in weights(run.directory).items():
            assert torch.equal(before[key], each)
        assert here("reproduce", f"run={run.directory}", f"against={whole.directory}") == 0
    # By the one process of its last start, though two have begun it.
    assert here("reproduce", f"run={resumed.directory}", f"output={tmp_path / 'again'}") == 0


@pytest.mark.nightly  # Lightning's own processes run by day
@pytest.mark.slow
def test_torchrun_starts_the_same_run(tmp_path, mnist_root, command, monkeypatch):
    """Both processes must know the directory, whose default contains the time; Lightning's own way is written down."""
    ddp = (*QUICK, *DDP, "trainer.max_epochs=1")
    with monkeypatch.context() as patched:
        patched.setenv("WORLD_SIZE", "2")
        _, err = command("train", *ddp, code=2)
    assert "run_dir: must be given, since each of the 2 processes would choose another one" in err
    torchrun = ("-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "leyden.train")
    finish(
        start(
            *ddp,
            f"run_dir={tmp_path / 'by_torchrun'}",
            f"outputs={tmp_path}",
            script=torchrun,
            anew=True,
        )
    )
    run = Run(tmp_path / "by_lightning")
    typed = (f"run_dir={run.directory}", *ddp, f"outputs={tmp_path}")
    assert "2 x cpu" in finish(start("train", *typed, script=("-m", "leyden")))
    assert run.starts[0]["command"][1:4] == ["-m", "leyden.train", typed[0]]
    finish(start(*run.starts[0]["command"][3:]))  # finished: it has its result
    assert_same_bits(tmp_path / "by_torchrun", run.directory)


# With three or more, the order in which gradients are added up counts; it depends on the layers' sizes.
@pytest.mark.parametrize(
    ("kind", "num", "hidden_sizes"),
    [
        ("ddp", 3, "[512]"),
        ("fsdp2", 2, "[16]"),
    ],
)
@pytest.mark.slow(minutes=1)  # two processes of DDP: tests/strangers
@pytest.mark.matrix
def test_several_processes_resume_exactly(tmp_path, mnist_root, command, kind, num, hidden_sizes):
    arguments = (
        f"trainer={kind}",
        "trainer.accelerator=cpu",
        f"trainer.devices={num}",
        f"outputs={tmp_path}",
        *QUICK,
        *STOCHASTIC,
        "trainer.gradient_clip_val=0.5",
        "test=true",
        f"model.hidden_sizes={hidden_sizes}",
        f"data.batch_size={100 // num * num}",
    )
    if num == 2:  # running statistics, which each process has of its own part of a batch
        arguments = (*arguments, NORMED)
    whole = Run(tmp_path / "whole")
    killed = Run(tmp_path / "killed")
    finish(start(f"run_dir={whole.directory}", *arguments))
    process = kill_at(15, f"run_dir={killed.directory}", *arguments)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode != 0
    finish(start(f"run_dir={killed.directory}", "resume=must", *arguments))
    assert_same_bits(whole.directory, killed.directory)
    assert curves(whole) == curves(killed)
    assert whole.result.best_epoch == killed.result.best_epoch is not None
    found = []
    for run in (whole, killed):
        processes = checkpoint(run)["callbacks"]["RankState"]["processes"]
        found.append([state["torch"] for state in processes])
    first, again = found
    assert not torch.equal(first[0], first[1])  # dropout and augmentation of their own
    assert all(map(torch.equal, first, again))
    # One process evaluates the checkpoint, which holds the weights whole.
    out, _ = command("evaluate", f"run={killed.directory}")
    assert f"{whole.result.metrics['test/acc']:.4f}" in out


@pytest.mark.parametrize(
    ("processes", "stop", "by"),
    [
        ((), 3, signal.SIGTERM),
        (DDP, 9, signal.SIGINT),
    ],
)
@pytest.mark.slow
@pytest.mark.matrix
def test_told_to_end_it_saves_at_the_next_step(tmp_path, mnist_root, processes, stop, by):
    arguments = (
        *processes,
        f"outputs={tmp_path}",
        *QUICK,
        "model.dropout=0.2",
        "trainer.max_epochs=2",
    )
    whole = Run(tmp_path / "whole")
    told = Run(tmp_path / "told")
    finish(start(f"run_dir={whole.directory}", *arguments))
    process = kill_at(stop, f"run_dir={told.directory}", *arguments, by=by)
    assert finish(process, code=128 + by).count("Interrupted. ") == 1
    # Of several processes one has the signal, and all must agree: that takes a step more. The last step of an
    # epoch is saved with its end.
    saved = checkpoint(told)["global_step"]
    assert saved == (stop + 1 + bool(processes))
    finish(start(f"run_dir={told.directory}", "resume=must", *arguments))
    assert_same_bits(whole.directory, told.directory)
    assert curves(whole) == curves(told)


@pytest.mark.slow
def test_a_training_can_be_asked_beforehand(command, tmp_path):
    """In new processes, two of which are killed at a drawn step; nothing of it is kept."""
    out, _ = command("train", *SMALL, "callbacks=bare", "exact=test")
    assert "the same bits in all 8 steps" in out
    assert not [*(tmp_path / "outputs").rglob("run.json")]
