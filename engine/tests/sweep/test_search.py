"""Optuna's search: its space, its restarts, its pruning."""

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from leyden.config.errors import UserError
from leyden.run import lock
from leyden.run.directory import Run
from leyden.run.result import Failure
from leyden.sweep import pruning, search
from leyden.sweep.search import Search, find_trial, open_study
from tests import conf
from tests.conftest import QUICK, finish, start
from tests.forks import TIMEOUT_S
from tests.sweep.spaces import space


@pytest.mark.parametrize(
    ("override", "distribution"),
    [
        ("a=tag(log,interval(0.0001,0.1))", FloatDistribution(0.0001, 0.1, log=True)),
        ("a=interval(1,5)", FloatDistribution(1.0, 5.0)),
        ("a=int(interval(1,5))", IntDistribution(1, 5)),
        ("a=range(1,4)", CategoricalDistribution(["1", "2", "3"])),
        ("a=shuffle(choice(x,y))", CategoricalDistribution(["x", "y"])),
        ("a=[1,2],[3]", CategoricalDistribution(["[1,2]", "[3]"])),
        ("a={b:1,c:[d]},{b:2}", CategoricalDistribution(["{b:1,c:[d]}", "{b:2}"])),
        ("a='x y',null", CategoricalDistribution(["'x y'", "null"])),
    ],
)
def test_the_space_is_in_hydras_syntax(override, distribution):
    searched = space(override, "b=3")
    trial = optuna.create_study().ask()
    assert searched.suggest(trial) == [f"a={trial.params['a']}"]
    assert trial.distributions == {"a": distribution}
    assert searched.fixed == ["b=3"]


def searches(directory, num_trials, searched=None, sampler=None):
    def new_jobs(batch, first):
        directories = [Path("run_" + "_".join(overrides)) for overrides in batch]
        return [SimpleNamespace(run=SimpleNamespace(directory=each)) for each in directories]

    study = open_study(directory, sampler=optuna.samplers.RandomSampler())
    sweep = SimpleNamespace(directory=directory, new_jobs=new_jobs)
    searched = searched or space("lr=interval(0.0,1.0)")
    return Search(study, sweep, searched, num_trials=num_trials, sampler=sampler)


def ask(looking, most):
    """The next trials, so many at most."""
    return [looking.trials[-1] for _ in range(most) if looking.ask()]


def finished_search(directory, num_trials, *more):
    """A search that has run all its trials."""
    mine = searches(directory, num_trials, *more)
    while trials := ask(mine, 2):
        for trial in trials:
            value = float(trial.params.get("a", 1.0)) + trial.params.get("d", 0.0)
            with contextlib.suppress(RuntimeError):
                mine.study.tell(trial, value)
    return mine


@pytest.mark.parametrize("num_drawn", range(3))
def test_trials_that_a_killed_process_left_are_resumed_and_replaced_if_half_drawn(tmp_path, num_drawn):
    searched = space(settings=[{"a": 1}, {"a": 2, "b": 3}], function="tests.sweep.spaces.optimizers")
    killed = searches(tmp_path, 6, searched)
    whole = ask(killed, 4)
    half = killed.study.ask()  # killed between two parameters
    for name, choices in (("sweep.settings", ["a=1", "a=2 b=3"]), ("which", ["sgd", "adamw"]))[:num_drawn]:
        half.suggest_categorical(name, choices)
    heir = searches(tmp_path, 6, searched)
    taken = ask(heir, 9)
    assert [trial.params for trial in taken[:4]] == [trial.params for trial in whole]
    for trial in taken:
        run = "run_" + "_".join(heir.space.suggest(optuna.trial.FixedTrial(trial.params)))
        assert trial.user_attrs["run"] == run
        heir.study.tell(trial, 1.0)
    states = [trial.state for trial in heir.study.trials]
    assert (states.count(TrialState.COMPLETE), states.count(TrialState.RUNNING)) == (6, 0)


def test_a_sampler_that_would_miss_its_package_later_or_supports_no_such_space_says_so_at_once():
    class Late(optuna.samplers.RandomSampler):
        def sample_independent(self, study, trial, name, distribution):
            if trial.number > 10:
                raise ImportError("no scipy")
            return super().sample_independent(study, trial, name, distribution)

    with pytest.raises(UserError, match=r"hydra\.sweeper\.sampler: no scipy"):
        search.try_sampler(Late(), space("a=1,2,3", "b=interval(0.0,1.0)"))
    with pytest.raises(UserError, match=r"hydra\.sweeper\.sampler=3: must be one of Optuna's"):
        search.try_sampler(3, space("a=1,2,3"))


def test_another_space_is_refused(tmp_path):
    finished_search(tmp_path, 2, space("x=1,2"))
    with pytest.raises(UserError, match="does not accept this space"):
        ask(searches(tmp_path, 3, space("x=1,3")), 1)


def test_a_journal_cut_at_any_byte_is_read_to_its_last_whole_line(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # many of them
    finished_search(tmp_path, 3)
    whole = (tmp_path / "study.journal").read_bytes()
    lines_end = [n for n, byte in enumerate(whole) if byte == ord("\n")]
    # Within a line all bytes are alike.
    ends = {*range(0, len(whole), 83), *(end + n for end in lines_end for n in (-1, 0, 1, 2))}
    for end in sorted(end for end in ends if end < len(whole)):
        (tmp_path / "study.journal").write_bytes(whole[:end])
        lines = whole[:end].rpartition(b"\n")[0].splitlines()
        found = finished_search(tmp_path, 3)
        assert [trial.state for trial in found.study.trials].count(TrialState.COMPLETE) == 3
        journal = (tmp_path / "study.journal").read_bytes()
        assert journal.splitlines()[: len(lines)] == lines  # it has lost nothing that was whole
        assert all(json.loads(line) for line in journal.splitlines())


def test_a_run_finds_its_trial_also_beside_a_process_killed_while_writing(tmp_path):
    mine = searches(tmp_path, 2)
    trial, _ = ask(mine, 2)
    with (tmp_path / "study.journal").open("ab") as file:
        file.write(b'{"op_code":6,"worker_')
    found = find_trial(tmp_path / trial.user_attrs["run"], optuna.pruners.MedianPruner())
    assert found.number == trial.number
    found.report(0.5, 1)
    assert find_trial(tmp_path / "another", optuna.pruners.MedianPruner()) is None
    mine.study.tell(trial, 1.0)


def sampler(path):
    return pytest.param(path, marks=[pytest.mark.scipy] * ("leyden[gp]" in path.read_text()), id=path.stem)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("path", [*map(sampler, conf("hydra/sweeper/sampler"))])
def test_every_sampler_searches_and_draws_by_the_number_of_the_trial(tmp_path, path):
    sampler = instantiate({**OmegaConf.to_container(OmegaConf.load(path), resolve=False), "seed": 0})
    third = ("d=tag(log,interval(0.1,1.0))",) if path.stem != "grid" else ()
    searched, drawn = space("a=choice(1,2,3)", "b=range(0,5)", *third), []
    for starts in (1, 3):
        (place := tmp_path / str(starts)).mkdir()
        for num in range(starts):
            mine = finished_search(place, 12 * (num + 1) // starts, searched, sampler)
        assert len(mine.study.trials) == 12
        assert mine.study.best_params["a"] == "1"
        drawn.append([trial.params for trial in mine.study.trials])
    assert drawn[0] == drawn[1]
    assert len({str(params) for params in drawn[0]}) > 6


@pytest.mark.parametrize(("epochs", "status"), [(1, "finished"), (2, "pruned")])
def test_after_the_last_epoch_nothing_is_pruned(train, tmp_path, monkeypatch, epochs, status):
    (tmp_path / "study.journal").touch()
    trial = SimpleNamespace(report=lambda value, epoch: None, should_prune=lambda: True)
    monkeypatch.setattr(pruning, "find_trial", lambda directory, pruner: trial)
    run, *_ = train("a", *QUICK, "+callbacks/pruning=median", f"trainer.max_epochs={epochs}")
    assert (run.result.status, run.result.epochs) == (status, 1)


def trials(tmp_path):
    return open_study(tmp_path / "sweeps" / "s").get_trials(deepcopy=False)


def start_search(tmp_path, *arguments, small=QUICK):
    return start("-m", "sweep=random", "sweep_name=s", f"outputs={tmp_path}", *small, *arguments)


@pytest.mark.slow
def test_a_search_prunes_and_refuses_another_search(tmp_path, mnist_root):
    arguments = ("sweep=tpe", "hydra/sweeper/sampler=grid", "hydra.sweeper.sampler.seed=0", "optimizer=adam")
    pruner = ("callbacks.pruning.pruner.n_startup_trials=1", "callbacks.pruning.pruner.n_warmup_steps=0")
    arguments = (*arguments, *pruner, "optimizer.lr=1e-6,1e-2", "model.dropout=0.0,0.1", "trainer.max_epochs=3")
    arguments = (*arguments, "hydra.sweeper.num_trials=4", "cluster.num_jobs=1", "seed=5")
    assert "4/4 jobs" in finish(start_search(tmp_path, *arguments))
    found = trials(tmp_path)
    assert {trial.state for trial in found} == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in found:
        result = Run(tmp_path / "sweeps" / "s" / trial.user_attrs["run"]).result
        assert (result.status == "pruned") == (result.epochs < 3) == (trial.state == TrialState.PRUNED)
        assert result.status == "pruned" or trial.value == result.objective.value
    # Trials of other fixed values are none of the same search; what changes no bit may change.
    output, _ = start_search(tmp_path, *arguments, "trainer.max_epochs=4").communicate(timeout=TIMEOUT_S)
    assert "holds a different sweep: fixed [" in output
    assert "trainer.max_epochs=4" in output
    finish(start_search(tmp_path, *arguments, "sweep.pictures=none", "cluster.num_jobs=2"))


def test_a_trial_that_failed_is_run_again_alone_in_each_start(tmp_path):
    first = searches(tmp_path, 2)
    failed, finished = ask(first, 2)
    first.ended(SimpleNamespace(number=0, run=SimpleNamespace(result=None)), Failure("KeyError", "this seed"))
    first.study.tell(finished, 1.0)
    for _ in range(2):
        again = searches(tmp_path, 2)
        (trial,) = ask(again, 9)
        assert trial.params == failed.params
        again.study.tell(trial, state=TrialState.FAIL)


@pytest.mark.nightly  # a search that is refused runs by day
@pytest.mark.slow(minutes=0.2)
def test_a_study_that_can_not_be_read_and_one_in_use_are_refused_before_the_first_trial(command, tmp_path):
    directory = tmp_path / "outputs" / "sweeps" / "s"
    directory.mkdir(parents=True)
    (directory / "study.journal").write_text("not a journal\n" * 3)
    for words, context in (("study.journal: the study can't be read", None), ("in use by", "search")):
        with lock.hold(directory / "locks" / context) if context else contextlib.nullcontext():
            out, err = command("train", "-m", "sweep=random", "sweep_name=s", *QUICK, code=2)
        assert words in err
        assert "Traceback" not in out + err
    assert not list(directory.rglob("config.yaml"))
