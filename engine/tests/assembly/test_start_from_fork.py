"""A run starts from the exact state of another one, and parts from it by what is changed alone."""

import functools
import hashlib
import shutil

import hydra
import pytest
from omegaconf import OmegaConf

from leyden.assembly import start_from as forks
from leyden.base.errors import UserError
from leyden.config.hydra import composing
from leyden.run.directory import Run
from leyden.run.files import first_difference, read_fingerprints
from leyden.run.fork import recorded_arguments
from tests import mistakes
from tests.conftest import QUICK, assert_same_bits, checkpoint, for_module, here
from tests.records import forget_result, put
from tests.tasks.test_task_own import PLAIN
from tests.training.test_start import curves

KEPT = (
    "callbacks.checkpoint.keep_all=true",
    "callbacks.checkpoint.every_n_steps=4",
    "trainer.max_epochs=3",
)
KEPT = (*KEPT, "callbacks.fingerprint.every_n_steps=1")
TYPED = (
    "~optimizer.weight_decay",
    "+optimizer.groups.b={match: '*.bias', dampening: 0.1}",
    "data.split_seed=2",
)
TYPED = ("optimizer=sgd", "optimizer.momentum=0.5", "scheduler=cosine", *TYPED)
FIRST_IS_BEST = ("objective.metric=val/loss", "objective.mode=max")
PARENTS = {
    "stochastic": ("model.dropout=0.2", "data/augment=affine_erasing", *TYPED),
    "averaged": ("+callbacks/averaging=ema", "model.dropout=0.2", *FIRST_IS_BEST),
    "own": PLAIN[:2],
}


@pytest.fixture(scope="module")
def parents(tmp_path_factory, mnist_root):
    """Runs of three epochs of ten steps, by what is special about them."""
    place = tmp_path_factory.mktemp("parents")
    for name, choices in PARENTS.items():
        typed = (*for_module(QUICK, choices), *KEPT, *choices, "seed=0")
        assert here("train", f"run_dir={place / name}", f"outputs={place}", *typed) == 0
    return place


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("name", "at"), [("stochastic", "1"), *((name, "step_16") for name in PARENTS)]
)
def test_with_nothing_changed_it_ends_in_the_bits_of_its_parent(train, parents, name, at):
    parent = Run(parents / name)
    code = PLAIN[1:2] if name == "own" else ()  # what names code is typed anew
    run, out, _ = train(
        "fork", f"fork={parent.directory}@{at}", *code, "callbacks.fingerprint.every_n_steps=1"
    )
    path = (
        parent.directory / "checkpoints" / f"{at if at.startswith('step') else f'epoch_{at}'}.ckpt"
    )
    assert f"fork of {path}, with nothing changed" in out
    for which in ("last", "best"):
        assert_same_bits(run.directory, parent.directory, which)
        assert checkpoint(run, which)["global_step"] == checkpoint(parent, which)["global_step"]
    assert run.result.metrics == parent.result.metrics
    known = read_fingerprints(parent.directory)
    assert read_fingerprints(run.directory) == known
    assert len(known) == 30
    for _, name, _ in {*curves(run)} ^ {*curves(parent)}:
        assert name.startswith("lr")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    step = {"1": 10, "step_16": 16}[at]
    assert run.starts[0]["parent"] == {"checkpoint": str(path), "sha256": sha256, "step": step}
    assert run.starts[0]["step"] == 0


LONGER = ["optimizer.lr=0.02", "optimizer.momentum=0.9", "trainer.max_epochs=4"]
CHANGED = [("stochastic", "2", ["trainer.accumulate_grad_batches=3", "scheduler=onecycle"])]
CHANGED += [("stochastic", "2", LONGER), ("averaged", "step_16", ["scheduler=cosine"])]


@pytest.mark.matrix
@pytest.mark.parametrize(("name", "at", "changed"), CHANGED)
def test_a_schedule_stands_where_the_epochs_are_whatever_their_length(
    train, parents, name, at, changed
):
    run, *_ = train("fork", f"fork={parents / name}@{at}", *changed)
    whole, *_ = train("whole", *PARENTS[name], "trainer.max_epochs=3", *changed)
    (here,) = checkpoint(run)["lr_schedulers"]
    (there,) = checkpoint(whole)["lr_schedulers"]
    assert {key: here[key] for key in there} == there
    groups = [checkpoint(each)["optimizer_states"][0]["param_groups"][0] for each in (run, whole)]
    assert groups[0].pop("lr") == pytest.approx(groups[1].pop("lr"), abs=1e-12)
    assert groups[0] == groups[1]


def test_a_value_of_an_optimizer_without_a_schedule_and_another_objective(train, parents):
    changed = (
        "optimizer.lr=0.5",
        "trainer.max_epochs=2",
        "objective.metric=val/acc",
        "objective.mode=min",
    )
    run, out, _ = train("fork", f"fork={parents / 'averaged'}@1", *changed)
    assert (
        "with optimizer.lr: 0.001 there, 0.5 here; trainer.max_epochs: 3 there, 2 here; objective"
        in out
    )
    assert checkpoint(run, "best")["global_step"] == 20  # no epoch of the parent is the best one
    assert checkpoint(run)["optimizer_states"][0]["param_groups"][0]["lr"] == 0.5
    # A fork of a fork takes that over, too.
    again, *_ = train("again", f"fork={run.directory}", "trainer.max_epochs=3")
    assert checkpoint(again)["optimizer_states"][0]["param_groups"][0]["lr"] == 0.5


@pytest.mark.slow(minutes=0.1)
def test_another_seed_draws_other_numbers_and_the_same_ones_each_time(train, parents):
    one, two = (train(name, f"fork={parents / 'averaged'}@2", "seed=7")[0] for name in "ab")
    assert_same_bits(one.directory, two.directory)
    step, what = first_difference(
        read_fingerprints(one.directory), read_fingerprints(parents / "averaged")
    )
    assert step == 21
    assert "random" in what
    # What its parent was trained on is not what it is validated on.
    assert one.config["data"]["seed"] == 7
    assert one.config["data"]["split_seed"] == 0


@pytest.mark.matrix
@pytest.mark.parametrize("nth", [1, 3, 5])
def test_killed_while_it_begins_it_begins_again(train, parents, monkeypatch, nth):
    arguments = (f"fork={parents / 'averaged'}@2", "optimizer.lr=0.01")
    whole, *_ = train("whole", *arguments)
    written = []

    def dying(function, *given):
        written.append(given)
        if len(written) == nth:
            raise KeyboardInterrupt
        return function(*given)

    with monkeypatch.context() as patch:
        for name in ("write_points", "write_fingerprints", "replacing"):
            patch.setattr(forks, name, functools.partial(dying, getattr(forks, name)))
        train("killed", *arguments, code=130 if nth < 5 else 0)
    killed, *_ = train("killed", *arguments)
    for which in ("last", "best"):
        assert_same_bits(whole.directory, killed.directory, which)
    assert curves(killed) == curves(whole)


def test_begun_it_goes_on_without_its_parent(train, parents, tmp_path):
    parent = shutil.copytree(parents / "own", tmp_path / "parent")
    arguments = (f"fork={parent}@1", PLAIN[1], "data.batch_size=50")
    whole, *_ = train("whole", *arguments)
    shutil.copytree(whole.directory, tmp_path / "part")
    forget_result(tmp_path / "part")
    shutil.rmtree(parent)
    part, *_ = train("part", *arguments, "resume=must")
    assert part.result.metrics == whole.result.metrics


REFUSED = """
fork=  =>  fork: is empty; must be a run directory, or null
fork={place}/nowhere@1  =>  {place}/nowhere: not a run directory
fork={own}@7  =>  {own}/checkpoints/epoch_7.ckpt: No such file
fork={own}  =>  fork: {own}/checkpoints/last.ckpt: has ended after 3 epochs; set a larger trainer.max_epochs
fork={averaged}@1 optimizer=sgd  =>   there, torch.optim.SGD here: a fork keeps its parent's splits and the state of its parts
fork={own}@1 init_from={own}  =>  init_from: None there, {own} here: a fork keeps
fork={own}@1 'freeze=[*.bias]'  =>  freeze: [] there
fork={averaged}@1 ~callbacks.averaging  =>  callbacks.averaging
fork={own}@1 +callbacks/averaging=ema  =>  callbacks.averaging._ta
fork={own}@step_16 seed=1  =>  seed can't be changed within an epoch; fork from the end of an epoch
fork={own}@step_16 +trainer.overfit_batches=2  =>  trainer.overfit_batches can't be changed within an epoch
fork={own}@step_16 data.batch_size=10  =>  data.batch_size can't be changed within an epoch
fork={own}@1 seed=1 data.split_seed=1  =>  data.split_seed: 0 there, 1 here: a fork keeps its parent's splits
fork={stochastic} model.hidden_sizes=[8]  =>  network.layers.1.weight is (16, 784) there and (8, 784) here
fork={averaged}@1 +optimizer.groups.b={{match:"*.bias",lr:1.0}}  =>  the optimizer's groups have different parameters
fork={stochastic}@1 data.normalize=standardize  =>  the data set is not the one
fork={own}@1 +trainer.fast_dev_run=true  =>  trainer.fast_dev_run never starts from a checkpoint
"""


@pytest.mark.parametrize(("arguments", "said"), mistakes(REFUSED))
def test_what_it_can_not_do_is_refused(train, parents, arguments, said):
    names = {"place": parents, **{name: parents / name for name in PARENTS}}
    typed = [each.strip("'") for each in arguments.format(**names).split(" ")]
    typed += PLAIN[1:2] if "{own}" in arguments else ()
    ways = [[]]
    if "@step_16" in arguments:  # a dry run shares what refuses
        ways.append(["dry_run=true"])
    for dry_run in ways:
        run, _, err = train("fork", *typed, *dry_run, code=2)
        assert said.format(**names) in err
        assert not run.directory.exists()


def inherited(*arguments):
    """The configuration of a fork as its command composes it, with the settings of its parent."""
    with composing():
        cfg = hydra.compose("train", overrides=recorded_arguments(arguments))
    return OmegaConf.to_container(cfg, resolve=True)


def test_what_is_typed_changes_what_was_typed_for_the_parent_and_what_follows_from_it(
    parents, tmp_path
):
    fork = f"fork={parents / 'stochastic'}@1"
    assert (
        inherited(fork, "optimizer=adam")["optimizer"] == inherited("optimizer=adam")["optimizer"]
    )
    assert (
        inherited(fork, "optimizer=sgd")["optimizer"]["momentum"] == 0.5
    )  # the parent's own choice is no change
    assert "momentum" not in inherited(fork, "~optimizer.momentum")["optimizer"]
    with pytest.raises(UserError, match="the jobs of a sweep have one parent"):
        recorded_arguments(["-m", f"{fork},{parents / 'own'}@1"])
    overrides = ["+trainer.gradient_clip_val=1.0", "++optimizer.lr=0.01", "scheduler=onecycle"]
    put(tmp_path / "parent", config={"seed": 0}, starts=[{"overrides": overrides}])
    found = inherited(
        f"fork={tmp_path / 'parent'}@1", "trainer.gradient_clip_val=0.5", "optimizer.lr=0.5"
    )
    assert found["trainer"]["gradient_clip_val"] == 0.5
    assert found["scheduler"]["max_lr"] == found["optimizer"]["lr"] == 0.5


def test_the_checks_of_a_sweep_read_a_forks_checkpoint_once(parents, monkeypatch):
    fork = f"fork={parents / 'stochastic'}@1"
    paths = []
    load = forks.read_checkpoint
    monkeypatch.setattr(forks, "read_checkpoint", lambda path: paths.append(path) or load(path))
    read = {}
    for rate in ("0.01", "0.02"):
        cfg = OmegaConf.create(inherited(fork, f"optimizer.lr={rate}"))
        begun = forks.starting_point(cfg, Run(parents / "none"), read)
        assert begun.content is not None
        begun.content = None  # as the check of one job releases it
        assert begun.has_best
    assert [path.name for path in paths] == ["epoch_1.ckpt"]
