import hashlib
import os
import re
import shutil

import pytest
import torch

from tests import mistakes, records
from tests.conftest import QUICK, SMALL, assert_same_bits, here, weights
from tests.run.test_hostile import poison
from tests.training.test_start_exact import stopping

# Weights that do not move: at the end they are what they were at the start.
STILL = ("optimizer=sgd", "optimizer.lr=1e-60", "trainer.max_epochs=1")
HEAD = "init_exclude=[network.layers.3.*]"


@pytest.fixture(scope="module")
def parents(tmp_path_factory, mnist_root):
    """A run of two epochs of which the first is the best."""
    place = tmp_path_factory.mktemp("parents")
    worst = ("objective.metric=val/loss", "objective.mode=max", "trainer.max_epochs=2")
    assert here("train", f"run_dir={place / 'a'}", f"outputs={place}", *QUICK, *worst) == 0
    return place / "a"


@pytest.fixture
def parent(parents, tmp_path):
    return shutil.copytree(parents / "checkpoints", tmp_path / "parent" / "checkpoints").parent


@pytest.mark.parametrize("name", ["best", "last"])
def test_it_starts_from_the_best_weights_or_the_last(train, parent, name):
    run, *_ = train("a", *STILL, f"init_from={parent}{'@last' if name == 'last' else ''}")
    for key, weight in weights(run.directory).items():
        assert torch.equal(weight, weights(parent, name)[key]), key
    with pytest.raises(AssertionError, match="layers"):  # these two differ
        torch.testing.assert_close(weights(parent), weights(parent, "best"))
    checkpoint = parent / "checkpoints" / f"{name}.ckpt"
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert run.starts[0]["parent"] == {"checkpoint": str(checkpoint), "sha256": sha256}
    # nothing but the weights is taken over
    assert run.result.epochs == 1
    assert run.result.optimizer_steps == 10


def test_what_is_skipped_is_as_it_was_initialised_and_nothing_else_of_the_folder_is_read(
    train, parent
):
    fresh, *_ = train("fresh", *STILL)
    records.put(
        parent,
        config={"model": {"_target_": "os.system", "command": "touch /nowhere"}},
        is_own=False,
    )
    freeze = "freeze=[network.layers.1.*]"
    tuned, out, _ = train("tuned", *STILL, f"init_from={parent}", HEAD, freeze)
    best = parent / "checkpoints" / "best.ckpt"
    assert f"weights: {best}, without network.layers.3.*; trained: 170 of 12,730\n" in out
    assert re.search(r"parameters +12,730 \(170 trained\)\n", out)
    assert tuned.result.metrics["num_trained_parameters"] == 170
    for key, weight in weights(tuned.directory).items():
        before = fresh.directory if "layers.3" in key else parent
        assert torch.equal(weight, weights(before, "best")[key]), key


def test_class_weights_of_a_loss_are_those_that_were_chosen(train, parent):
    start = (*STILL, f"init_from={parent}")
    for number in range(3):
        numbers = [n + 0.5 * number for n in range(10)]
        loss = f"task.loss={{_target_: tests.tasks.own.Weighted, weights: {numbers}}}"
        run, *_ = train(str(number), *start, loss)
        assert weights(run.directory)["loss.weights"].tolist() == numbers
        as_fork = (f"fork={run.directory}", "trainer.max_epochs=2")
        start = as_fork if number else (*STILL, f"init_from={run.directory}")


def test_stopped_within_an_epoch_it_goes_on_without_the_parent(train, command, parent):
    own = ("data/augment=erasing", "callbacks.checkpoint.every_n_steps=3")
    tuning = (*own, f"init_from={parent}", HEAD, "trainer.max_epochs=2")
    whole, *_ = train("whole", *tuning)
    with stopping(14):
        train("stopped", *tuning, code=1)
    shutil.rmtree(parent)
    stopped, out, _ = train("stopped", *tuning, "resume=must")
    assert "resumes from" in out
    assert_same_bits(whole.directory, stopped.directory)
    assert stopped.result.metrics == whole.result.metrics
    assert [bool(each["parent"]) for each in stopped.starts] == [True, False]
    command("evaluate", f"run={stopped.directory}")


MISTAKES = """
init_from=  =>  init_from: is empty; must be a run directory, or null
init_from={place}/nowhere  =>  init_from: {place}/nowhere/checkpoints/best.ckpt: No such file or directory; must be a run
init_from={parent} init_exclude=[nothing.*]  =>  init_exclude: nothing.* matches none of network.layers.1.weight,
init_from={parent} init_exclude=[???]  =>  init_exclude: Missing value at index 0
init_from={parent} data=emnist init_exclude=[*.1.bias]  =>  network.layers.3.weight is (10, 16) there and (47, 16) here, network.layers.3.bias is (10,) there and (47,) here; init_exclude=[PATTERN,...] excludes
init_from={parent} model.hidden_sizes=[16,16]  =>  network.layers.5.weight is absent there and (10, 16) here, network.layers.5.bias is absent there and (10,) here
"""


@pytest.mark.parametrize(("mistake", "message"), mistakes(MISTAKES), ids=lambda value: value[:40])
def test_a_mistake_is_a_line_before_anything_is_written(
    command, parent, small_root, tmp_path, mistake, message
):
    mistake = mistake.format(place=tmp_path, parent=parent)
    message = message.format(place=tmp_path, parent=parent)
    arguments = (*SMALL, "data.val_size=100", f"data.root={small_root}", *mistake.split())
    run = f"run_dir={tmp_path / 'run'}"
    ways = [(run,)]
    # They share what refuses: one that names no folder, and one that is found among the weights.
    if mistake.endswith(("nowhere", "init_exclude=[nothing.*]")):
        ways += [(run, "dry_run=true"), ("-m", "seed=0,1", "sweep_name=s")]
    for first in ways:
        _, err = command("train", *first, *arguments, code=2)
        assert message in err
        assert len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "outputs").exists()


def test_a_checkpoint_of_a_stranger_is_weights_or_refused(train, parent, tmp_path):
    path = parent / "checkpoints" / "best.ckpt"

    def pipe():
        path.unlink()
        os.mkfifo(path)

    names = {"state_dict": {1: torch.zeros(1)}}
    for damage in (
        lambda: poison(path, tmp_path / "executed"),
        lambda: torch.save(names, path),
        pipe,
    ):
        damage()
        run, _, err = train("a", f"init_from={parent}", code=2)
        assert err.startswith(f"leyden: init_from: {path}: ")
        assert err.count(str(path)) == len(err.strip().splitlines()) == 1
        assert not (tmp_path / "executed").exists()
        assert not run.directory.exists()
