"""Optuna's search: its space, its restarts, its neighbours."""

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
from leyden.run.directory import Run
from leyden.sweep import pruning, search
from leyden.sweep.search import Search
from leyden.sweep.study import find_trial, open_study
from tests import conf
from tests.conftest import QUICK, finish, start
from tests.forks import TIMEOUT_S
from tests.sweep.spaces import space


@pytest.mark.parametrize(
    ("override", "distribution"),
    [
        ("a=interval(0.0,0.5)", FloatDistribution(0.0, 0.5)),
        ("a=tag(log,interval(0.0001,0.1))", FloatDistribution(0.0001, 0.1, log=True)),
        ("a=interval(1,5)", FloatDistribution(1.0, 5.0)),
        ("a=int(interval(1,5))", IntDistribution(1, 5)),
        ("a=int(tag(log,interval(1,100)))", IntDistribution(1, 100, log=True)),
        ("a=range(1,4)", CategoricalDistribution(["1", "2", "3"])),
        ("a=choice(x,y)", CategoricalDistribution(["x", "y"])),
        ("a=shuffle(choice(x,y))", CategoricalDistribution(["x", "y"])),
        ("a=64,128", CategoricalDistribution(["64", "128"])),
        ("a=[1,2],[3]", CategoricalDistribution(["[1,2]", "[3]"])),
        ("a=true,null", CategoricalDistribution(["true", "null"])),
        ("a={b:1,c:[d]},{b:2}", CategoricalDistribution(["{b:1,c:[d]}", "{b:2}"])),
    ],
)
def test_the_space_is_in_hydras_syntax(override, distribution):
    searched = space(override, "b=3")
    trial = optuna.create_study().ask()
    assert searched.suggest(trial) == [f"a={trial.params['a']}"]
    assert trial.distributions == {"a": distribution}
    assert searched.fixed == ["b=3"]


def test_the_corners_have_each_bound_and_each_choice():
    found = space("a=interval(0.0,1.0)", "b=x,y,z").corners()
    assert found == [["a=0.0", "b=x"], ["a=1.0", "b=y"], ["a=0.0", "b=z"]]


def searches(directory, num_trials, searched, sampler=None):
    study = open_study(directory, sampler=optuna.samplers.RandomSampler())

    def new_jobs(batch, first):
        directories = [Path("run_" + "_".join(overrides)) for overrides in batch]
        return [SimpleNamespace(run=SimpleNamespace(directory=each), identity=None) for each in directories]

    sweep = SimpleNamespace(directory=directory, new_jobs=new_jobs)
    return Search(study, sweep, searched, num_trials=num_trials, sampler=sampler)


def small_search(directory, num_trials):
    return searches(directory, num_trials, space("lr=interval(0.0,1.0)"))


def as_overrides(trial):
    return [f"{key}={value}" for key, value in trial.params.items()]


def ask(looking, most):
    """The next trials, so many at most."""
    return [looking.trials[-1] for _ in range(most) if looking.ask()]


def test_trials_of_a_process_that_was_killed_are_taken_over_with_their_settings(tmp_path):
    killed = small_search(tmp_path, 3)
    opened = killed.opened()
    opened.__enter__()
    left = ask(killed, 2)
    neighbour = small_search(tmp_path, 3)
    with neighbour.opened():
        (new,) = ask(neighbour, 3)  # the others are in good hands
        neighbour.study.tell(new, 1.0)
    lock = tmp_path / "locks" / f"{killed.owner}.0"
    content = json.loads(lock.read_text())
    opened.gen.close()
    assert not [*tmp_path.glob("locks/*")]
    lock.parent.mkdir()
    lock.write_text(json.dumps({**content, "began": "0"}))  # as kill -9 leaves it
    heir = small_search(tmp_path, 3)
    with heir.opened():
        taken = ask(heir, 3)
        assert [trial.number for trial in taken] == [trial.number for trial in left]
        assert [as_overrides(trial) for trial in taken] == [as_overrides(trial) for trial in left]


def branched():
    return space(settings=[{"a": 1}, {"a": 2, "b": 3}], function="tests.sweep.spaces.optimizers")


@pytest.mark.parametrize("num_drawn", range(4))
def test_trials_of_a_branch_are_taken_over_whole_and_replaced_half_drawn(tmp_path, num_drawn):
    killed = searches(tmp_path, 6, branched())
    opened = killed.opened()
    opened.__enter__()
    whole = ask(killed, 4)
    assert {len(trial.params) for trial in whole} <= {2, 3}
    half = killed.study.ask()  # killed between two parameters, or before it has written that it is the owner

    class KilledError(Exception):
        pass

    drawn = []

    def suggest(name, *arguments, **kwargs):
        if len(drawn) == num_drawn:
            raise KilledError
        drawn.append(name)
        return getattr(half, "suggest_float" if "momentum" in name else "suggest_categorical")(
            name, *arguments, **kwargs
        )

    with contextlib.suppress(KilledError):
        branched().suggest(SimpleNamespace(suggest_float=suggest, suggest_categorical=suggest))
    opened.gen.close()
    heir = searches(tmp_path, 6, branched())
    with heir.opened():
        taken = ask(heir, 9)
        assert len(taken) == 6
        assert [trial.params for trial in taken[:4]] == [trial.params for trial in whole]
        for trial in taken:
            run = "run_" + "_".join(heir.space.suggest(optuna.trial.FixedTrial(trial.params)))
            assert trial.user_attrs["run"] == run
            heir.study.tell(trial, 1.0)
        assert ask(heir, 1) == []
    states = [trial.state for trial in heir.study.trials]
    assert states.count(TrialState.COMPLETE) == 6
    assert TrialState.RUNNING not in states


def test_a_sampler_that_would_miss_its_package_later_says_so_at_once(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    sampler = optuna.samplers.GPSampler()
    with pytest.raises(UserError, match=r"sampler=gp: scipy is not installed; pip install 'leyden\[gp\]'"):
        search.run_search(None, None, sampler=sampler, num_trials=20)


def test_another_space_is_refused(tmp_path):
    first = searches(tmp_path, 2, space("x=1,2"))
    with first.opened():
        first.study.tell(ask(first, 1)[0], 1.0)
    second = searches(tmp_path, 3, space("x=1,3"))
    with second.opened(), pytest.raises(UserError, match="does not accept this space"):
        ask(second, 1)


def finished_search(directory, num_trials):
    """A search that has run all its trials."""
    mine = small_search(directory, num_trials)
    with mine.opened():
        while trials := ask(mine, 2):
            for trial in trials:
                mine.study.tell(trial, 1.0)


def test_a_journal_cut_at_any_byte_is_read_to_its_last_whole_line(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # many of them
    finished_search(tmp_path, 3)
    whole = (tmp_path / "study.journal").read_bytes()
    lines_end = [n for n, byte in enumerate(whole) if byte == ord("\n")]
    # Within a line all bytes are alike.
    ends = {
        *range(0, len(whole), 41),
        *(end + n for end in lines_end for n in (-1, 0, 1, 2) if end + n < len(whole)),
    }
    for number, end in enumerate(sorted(ends)):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "study.journal").write_bytes(whole[:end])
        lines = whole[:end].rpartition(b"\n")[0].splitlines()
        finished_search(directory, 3)
        states = [trial.state for trial in open_study(directory).trials]
        assert states.count(TrialState.COMPLETE) == 3
        journal = (directory / "study.journal").read_bytes()
        assert journal.splitlines()[: len(lines)] == lines  # it has lost nothing that was whole
        assert all(json.loads(line) for line in journal.splitlines())


def test_a_neighbour_of_a_process_killed_while_writing_goes_on(tmp_path):
    mine = small_search(tmp_path, 3)
    with mine.opened():
        (trial,) = ask(mine, 1)
        with (tmp_path / "study.journal").open("ab") as file:
            file.write(b'{"op_code":6,"worker_')
        mine.study.tell(trial, 1.0)
        assert len(ask(mine, 2)) == 2
    assert len(open_study(tmp_path).trials) == 3


def test_a_run_finds_its_trial(tmp_path):
    mine = small_search(tmp_path, 2)
    with mine.opened():
        trial, _ = ask(mine, 2)
        found = find_trial(tmp_path / trial.user_attrs["run"], optuna.pruners.MedianPruner())
        assert found.number == trial.number
        assert find_trial(tmp_path / "another", optuna.pruners.MedianPruner()) is None


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.scipy] if path.stem == "gp" else [], id=path.stem)
        for path in sorted(conf("hydra/sweeper/sampler"))
    ],
)
def test_every_sampler_searches(tmp_path, path):
    sampler = instantiate({**OmegaConf.to_container(OmegaConf.load(path), resolve=False), "seed": 0})
    third = ("d=tag(log,interval(0.1,1.0))",) if path.stem != "grid" else ()
    drawn = []
    for name, starts in (("whole", 1), ("restarted", 3)):  # the draws follow from the seed and the trial's number
        (tmp_path / name).mkdir()
        for num in range(starts):
            num_trials = 12 * (num + 1) // starts
            mine = searches(tmp_path / name, num_trials, space("a=choice(1,2,3)", "b=range(0,5)", *third), sampler)
            with mine.opened():
                while trials := ask(mine, 2):
                    assert len({trial.user_attrs["run"] for trial in trials}) == 2
                    for trial in trials:
                        mine.study.tell(trial, float(trial.params["a"]) + trial.params.get("d", 0.0))
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
    node = (
        "{_target_: leyden.sweep.pruning.Pruning, metric: val/acc, pruner: {_target_: optuna.pruners.MedianPruner}}"
    )
    run, *_ = train("a", *QUICK, f"+callbacks.pruning={node}", f"trainer.max_epochs={epochs}")
    assert (run.result.status, run.result.epochs) == (status, 1)


def trials(tmp_path):
    """The trials of the study, and the results of the runs."""
    directory = tmp_path / "sweeps" / "s"
    runs = [Run(path.parent) for path in directory.glob("*/run.json")]
    return open_study(directory).get_trials(deepcopy=False), [run.result for run in runs]


def start_search(tmp_path, *arguments, anew=False):
    return start("-m", "sweep=random", "sweep_name=s", f"outputs={tmp_path}", *QUICK, *arguments, anew=anew)


@pytest.mark.slow
def test_a_search_prunes_and_refuses_another_search(tmp_path, mnist_root):
    arguments = ("sweep=tpe", "hydra/sweeper/sampler=grid", "hydra.sweeper.sampler.seed=0", "optimizer=adam")
    pruner = ("callbacks.pruning.pruner.n_startup_trials=1", "callbacks.pruning.pruner.n_warmup_steps=0")
    arguments = (*arguments, *pruner, "optimizer.lr=1e-6,1e-2", "model.dropout=0.0,0.1", "trainer.max_epochs=3")
    arguments = (*arguments, "hydra.sweeper.num_trials=4", "cluster.num_jobs=1", "seed=5")
    output = finish(start_search(tmp_path, *arguments))
    assert "4/4 jobs" in output
    assert "pruned: " in output
    found, _ = trials(tmp_path)
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


@pytest.mark.slow
def test_a_trial_that_failed_is_run_again_alone(tmp_path, mnist_root):
    arguments = ("hydra/sweeper/sampler=grid", "hydra.sweeper.params=null", "trainer.max_epochs=1")
    arguments = (*arguments, "seed=0,1", "hydra.sweeper.num_trials=2")
    code = "model._target_=tests.sweep.buggy.Seeded"
    arguments = (*arguments, "~model.hidden_sizes", "~model.dropout", code, f"+model.bad={tmp_path / 'bad'}")
    small = [override for override in QUICK if "hidden" not in override]
    typed = ("-m", "sweep=random", "sweep_name=s", f"outputs={tmp_path}", *small, *arguments)
    (tmp_path / "bad").write_text("1")
    output, _ = start(*typed).communicate(timeout=TIMEOUT_S)
    assert "1 of 2 jobs failed" in output
    assert {trial.state for trial in trials(tmp_path)[0]} == {TrialState.FAIL, TrialState.COMPLETE}
    (tmp_path / "bad").unlink()
    finish(start(*typed))
    runs = [Run(path.parent) for path in (tmp_path / "sweeps" / "s").glob("*/run.json")]
    assert {(run.config["seed"], len(run.starts)) for run in runs} == {(0, 1), (1, 2)}


def test_an_unreadable_study_is_found_before_the_first_trial(cli, tmp_path):
    directory = tmp_path / "outputs" / "sweeps" / "s"
    directory.mkdir(parents=True)
    (directory / "study.journal").write_text("not a journal\n" * 3)
    code, out, err = cli("train", "-m", "sweep=random", "sweep_name=s", *QUICK)
    assert code == 2
    assert "study.journal: the study can't be read" in err
    assert "Traceback" not in out + err
    assert not list(directory.rglob("config.yaml"))
