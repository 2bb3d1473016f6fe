"""Optuna's search: its space, its restarts, its neighbours."""

import json
import shutil
import time

import filelock
import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from leyden.config.mistakes import UserError
from leyden.config.objective import Objective
from leyden.config.paths import CONF
from leyden.run.directory import Run
from leyden.sweep import optimize
from leyden.sweep.search import Search
from leyden.sweep.space import as_overrides, corners, space
from leyden.sweep.study import find_trial, open_study
from tests.conftest import SMALL, finish, start


def parse(*overrides):
    return OverridesParser.create().parse_overrides(list(overrides))


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
        ("a=64,128", CategoricalDistribution(["64", "128"])),
        ("a=[1,2],[3]", CategoricalDistribution(["[1,2]", "[3]"])),
        ("a=true,null", CategoricalDistribution(["true", "null"])),
        ("a={b:1,c:[d]},{b:2}", CategoricalDistribution(["{b:1,c:[d]}", "{b:2}"])),
    ],
)
def test_the_space_is_in_hydras_syntax(override, distribution):
    assert space(parse(override, "b=3")) == ({"a": distribution}, ["b=3"])


@pytest.mark.parametrize("override", ["a=tag(log,interval(0,1))", "a=interval(2,1)", "a=range(1,1)"])
def test_a_space_that_is_none(override):
    with pytest.raises(UserError, match="a="):
        space(parse(override))


def test_the_last_override_of_a_key_holds():
    searched, fixed = space(parse("a=1,2", "b=3", "c=interval(0,1)", "a=4", "b=5,6"))
    assert list(searched) == ["c", "b"]
    assert fixed == ["a=4"]


def test_the_corners_have_each_bound_and_each_choice():
    found = corners({"a": FloatDistribution(0.0, 1.0), "b": CategoricalDistribution(["x", "y", "z"])})
    assert {corner["a"] for corner in found} == {"0.0", "1.0"}
    assert {corner["b"] for corner in found} == {"x", "y", "z"}


def test_of_many_numbers_the_ends_are_the_corners():
    searched, _ = space(parse("a=range(0,100000)", "b=choice(x,y,z)"))
    assert corners(searched) == [{"a": "0", "b": "x"}, {"a": "99999", "b": "y"}, {"a": "0", "b": "z"}]
    texts = CategoricalDistribution([f"t{n}" for n in range(60)])
    assert len(corners({"a": texts})) == 60


def search(directory, num_trials):
    study = open_study(directory, sampler=optuna.samplers.RandomSampler())
    searched = {"lr": FloatDistribution(0.0, 1.0)}
    return Search(study, directory, searched, num_trials=num_trials, name="_".join)


def ask(looking, most):
    """The next trials, so many at most."""
    return [trial for trial in (looking.ask() for _ in range(most)) if trial]


def test_the_number_of_trials_is_a_total_over_restarts(tmp_path):
    first = search(tmp_path, 5)
    with first.opened():
        for trial in ask(first, 3):
            first.study.tell(trial, 1.0)
    second = search(tmp_path, 5)
    with second.opened():
        assert len(ask(second, 10)) == 2
        assert ask(second, 10) == []


def test_trials_of_a_process_that_was_killed_are_taken_over_with_their_settings(tmp_path):
    killed = search(tmp_path, 3)
    opened = killed.opened()
    opened.__enter__()
    left = ask(killed, 2)
    neighbour = search(tmp_path, 3)
    with neighbour.opened():
        (new,) = ask(neighbour, 3)  # the others are in good hands
        neighbour.study.tell(new, 1.0)
    opened.gen.close()  # the lock goes with the process
    heir = search(tmp_path, 3)
    with heir.opened():
        taken = ask(heir, 3)
        assert [trial.number for trial in taken] == [trial.number for trial in left]
        assert [as_overrides(trial) for trial in taken] == [as_overrides(trial) for trial in left]


def test_what_failed_is_tried_once_more_by_the_next_start(tmp_path):
    first = search(tmp_path, 2)
    with first.opened():
        bad, good = ask(first, 2)
        first.study.tell(bad, state=TrialState.FAIL)
        first.study.tell(good, 1.0)
        assert ask(first, 2) == []
    second = search(tmp_path, 2)
    with second.opened():
        (again,) = ask(second, 2)
        assert as_overrides(again) == as_overrides(bad)
        second.study.tell(again, 2.0)
    with search(tmp_path, 2).opened():
        assert ask(search(tmp_path, 2), 2) == []


def test_a_sampler_that_would_miss_its_package_later_says_so_at_once(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    sampler = optuna.samplers.GPSampler()
    with pytest.raises(UserError, match=r"sampler=gp: scipy is not installed; pip install -e '\.\[gp\]'"):
        optimize.search(None, [], sampler=sampler, num_trials=20, batch_size=1)


def test_another_space_is_refused(tmp_path):
    first = search(tmp_path, 2)
    first.searched = {"x": CategoricalDistribution(["1", "2"])}
    with first.opened():
        first.study.tell(ask(first, 1)[0], 1.0)
    second = search(tmp_path, 3)
    second.searched = {"x": CategoricalDistribution(["1", "3"])}
    with second.opened(), pytest.raises(UserError, match="does not take this space"):
        ask(second, 1)


def test_a_study_that_cannot_be_read(tmp_path):
    (tmp_path / "study.journal").write_text("not a journal\n" * 3)
    with pytest.raises(UserError, match=r"study\.journal: the study can't be read"):
        open_study(tmp_path)


def finished_search(directory, num_trials):
    """A search that has run all its trials; what a run leaves is a folder with its configuration."""
    mine = search(directory, num_trials)
    with mine.opened():
        while trials := ask(mine, 2):
            for trial in trials:
                (directory / trial.user_attrs["run"]).mkdir(exist_ok=True)
                (directory / trial.user_attrs["run"] / "config.yaml").touch()
                mine.study.tell(trial, 1.0)
    return mine


def test_a_journal_cut_at_any_byte_is_read_to_its_last_whole_line_or_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # thousands of them
    (tmp_path / "whole").mkdir()
    finished_search(tmp_path / "whole", 3)
    whole = (tmp_path / "whole" / "study.journal").read_bytes()
    runs = [path.parent.name for path in (tmp_path / "whole").glob("*/config.yaml")]
    assert len(runs) == 3
    refused = 0
    for end in range(len(whole)):
        directory = tmp_path / "cut"
        shutil.rmtree(directory, ignore_errors=True)
        for name in runs:
            (directory / name).mkdir(parents=True)
            (directory / name / "config.yaml").touch()
        (directory / "study.journal").write_bytes(whole[:end])
        lines = whole[:end].rpartition(b"\n")[0].splitlines()
        known = [name for name in runs if f'"{name}"'.encode() in b"".join(lines)]
        if len(known) < 3:
            if end % 7 == 0:  # they are alike
                refused += 1
                with pytest.raises(UserError, match=rf"study\.journal knows nothing of {3 - len(known)} of 3 runs"):
                    finished_search(directory, 3)
        else:
            finished_search(directory, 3)
            assert len(list(directory.glob("*/config.yaml"))) == 3
        if (directory / "study.journal").stat().st_size != end:  # something was written: it is readable, and ...
            journal = (directory / "study.journal").read_bytes()
            assert journal.splitlines()[: len(lines)] == lines  # ... has lost nothing that was whole
            assert all(json.loads(line) for line in journal.splitlines())
    assert refused > 100


def test_a_study_that_is_gone_is_said(tmp_path):
    finished_search(tmp_path, 2)
    for lose in (lambda path: path.write_bytes(b""), lambda path: path.unlink()):
        lose(tmp_path / "study.journal")
        with pytest.raises(UserError, match=r"knows nothing of 2 of 2 runs here, as .*: it was lost"):
            finished_search(tmp_path, 2)


def test_a_neighbour_of_a_process_killed_while_writing_goes_on(tmp_path):
    mine = search(tmp_path, 3)
    with mine.opened():
        (trial,) = ask(mine, 1)
        with (tmp_path / "study.journal").open("ab") as file:
            file.write(b'{"op_code":6,"worker_')
        mine.study.tell(trial, 1.0)
        assert len(ask(mine, 2)) == 2
    assert len(open_study(tmp_path).trials) == 3


def test_locks_of_processes_that_were_killed_are_removed(tmp_path):
    neighbour = search(tmp_path, 8)
    with neighbour.opened():
        ask(neighbour, 1)
        for _ in range(3):
            killed = search(tmp_path, 8)
            opened = killed.opened()
            opened.__enter__()
            ask(killed, 1)
            (tmp_path / "locks" / killed.owner).rename(tmp_path / "kept")
            opened.gen.close()
            (tmp_path / "kept").rename(tmp_path / "locks" / killed.owner)  # as kill -9 leaves it
        heir = search(tmp_path, 8)
        with heir.opened():
            assert len(ask(heir, 3)) == 3
            held = {path.name for path in (tmp_path / "locks").iterdir()}
            assert held == {"ask", neighbour.owner, heir.owner}
            assert {trial.number for trial in heir.study.trials} == {0, 1, 2, 3}
        with pytest.raises(ZeroDivisionError), search(tmp_path, 8).opened():
            1 / 0  # noqa: B018
    assert [path.name for path in (tmp_path / "locks").iterdir()] == ["ask"]


def test_a_study_that_a_stuck_process_holds(tmp_path, monkeypatch):
    monkeypatch.setattr("leyden.sweep.study.LOCK_TIMEOUT", 0.1)
    open_study(tmp_path)
    with (
        filelock.FileLock(tmp_path / "study.journal.lock"),
        pytest.raises(UserError, match="could not be acquired"),
    ):
        open_study(tmp_path)


def test_a_run_finds_its_trial(tmp_path):
    mine = search(tmp_path, 2)
    with mine.opened():
        trial, _ = ask(mine, 2)
        found = find_trial(tmp_path / trial.user_attrs["run"], optuna.pruners.MedianPruner())
        assert found.number == trial.number
        assert find_trial(tmp_path / "another", optuna.pruners.MedianPruner()) is None


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(
    "path", sorted((CONF / "hydra" / "sweeper" / "sampler").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_sampler_searches(tmp_path, path):
    if path.stem == "gp":
        pytest.importorskip("scipy", reason="needs scipy: pip install -e '.[gp]'")
    sampler = instantiate(OmegaConf.load(path), seed=0)
    study = open_study(tmp_path, sampler=sampler)
    searched, _ = space(parse("a=choice(1,2,3)", "b=range(0,5)", "d=tag(log,interval(0.1,1.0))"))
    searched = searched if path.stem != "grid" else {key: searched[key] for key in ("a", "b")}
    mine = Search(study, tmp_path, searched, num_trials=12, name="_".join)
    with mine.opened():
        while trials := ask(mine, 2):
            assert len({trial.user_attrs["run"] for trial in trials}) == 2
            for trial in trials:
                study.tell(trial, float(trial.params["a"]) + trial.params.get("d", 0.0))
    assert len(study.trials) == 12
    assert study.best_params["a"] == "1"


def test_every_sampler_of_optunas_can_be_named(tmp_path):
    cube = {"_target_": "optuna.samplers.GridSampler", "search_space": {"a": ["1", "2"], "b": ["x", "y"]}}
    study = open_study(tmp_path, sampler=instantiate(cube, _convert_="all"))
    mine = Search(study, tmp_path, space(parse("a=1,2", "b=x,y"))[0], num_trials=4, name="_".join)
    with mine.opened():
        for trial in ask(mine, 3):
            study.tell(trial, 1.0)
        (last,) = ask(mine, 3)
    assert len({tuple(as_overrides(trial)) for trial in study.trials}) == 4
    assert last.number == 3


def test_a_pruner_stops_a_bad_trial_and_says_so(tmp_path, mnist_root):
    arguments = ("-m", "sweep=tpe", "sweep_name=s", f"outputs={tmp_path}", *SMALL, "trainer.max_epochs=3")
    space = ("optimizer.lr=1e-6,1e-2", "optimizer=adam")
    # With this seed the sampler begins with a good trial, to whose course the pruner holds the others.
    sampler = ("hydra/sweeper/sampler=grid", "hydra.sweeper.sampler.seed=0")
    pruner = ("callbacks.pruning.pruner.n_startup_trials=1", "callbacks.pruning.pruner.n_warmup_steps=0")
    sampler = (*sampler, "seed=0,1,2", "hydra.sweeper.batch_size=1")
    output = finish(start(*arguments, *space, *pruner, *sampler, "hydra.sweeper.num_trials=6"))
    results = {
        (run.config["optimizer"]["lr"], run.config["seed"]): run.result
        for run in (Run(path.parent) for path in (tmp_path / "sweeps" / "s").glob("*/config.yaml"))
    }
    assert len(results) == 6
    pruned = {key: result for key, result in results.items() if result.status == "pruned"}
    assert {(1e-6, seed) for seed in (0, 1, 2)} <= set(pruned)
    assert all(result.epochs < 3 for result in pruned.values())
    assert "finished" in {results[1e-2, seed].status for seed in (0, 1, 2)}
    assert "pruned: " in output
    # The total is reached: the same command runs nothing.
    again = finish(start(*arguments, *space, *pruner, *sampler, "hydra.sweeper.num_trials=6"))
    assert "running" not in again
    assert json.loads((tmp_path / "sweeps" / "s" / "sweep.json").read_text())["name"] == "mnist_mlp"


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hydra.sweeper.num_trials=0",), "hydra.sweeper.num_trials=0: must be a positive whole number"),
        (("model.dropout=interval(0.0,1.5)",), "dropout=1.5"),
        (("optimizer.lr=tag(log,interval(0.0,0.1))",), "optimizer.lr=tag(log,interval(0.0,0.1))"),
        (("objective.metric=train/loss", "objective.mode=min"), "pruning needs one objective"),
        (("optimizer.lrr=interval(0.0,0.1)",), "did you mean optimizer.lr?"),
        (("optimizer=glob(zzz*)",), "optimizer=glob(zzz*): there is nothing to try in it"),
        (("optimizer.lr=tag(lgo,interval(0.1,0.2))",), "the tag lgo means nothing here"),
        (("hydra.sweeper.batch_size=0",), "hydra.sweeper.batch_size=0: must be a positive whole number"),
        (("hydra.sweeper.params=null",), "a search needs keys to search"),
        (("hydra.sweeper.sampler=null",), "hydra.sweeper.sampler=None: must be one of Optuna's samplers"),
        (("+hydra.sweeper.sampler.n_startup_trials=x",), "hydra.sweeper.sampler: '<' not supported"),
        (("hydra/sweeper/sampler=grid",), "hydra.sweeper.sampler: FloatDistribution.step must be given"),
        (("callbacks.pruning.pruner=null",), "pruner=None: must be one of Optuna's pruners"),
        (("data.root=a,b",), "data.root=a,b: is one thing for all jobs"),
    ],
)
def test_mistakes_are_found_before_the_first_trial(cli, tmp_path, arguments, message):
    code, out, err = cli("train", "-m", "sweep=tpe", "sweep_name=s", "data.val_size=59000", *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in out + err
    assert not list((tmp_path / "outputs").rglob("config.yaml"))


def trials(tmp_path):
    """The trials of the study, and the results of the runs."""
    directory = tmp_path / "sweeps" / "s"
    runs = [Run(path.parent) for path in directory.glob("*/config.yaml")]
    return open_study(directory).get_trials(deepcopy=False), [run.result for run in runs]


def start_search(tmp_path, *arguments):
    return start("-m", "sweep=random", "sweep_name=s", f"outputs={tmp_path}", *SMALL, *arguments)


def test_hyperband_stops_bad_trials(tmp_path, mnist_root):
    arguments = ("sweep=tpe", "callbacks/pruning=hyperband", "hydra/sweeper/sampler=grid", "trainer.max_epochs=3")
    lr = ("optimizer.lr=1e-6,1e-2", "seed=0,1,2", "optimizer=adam")
    sampler = ("hydra.sweeper.sampler.seed=0", "hydra.sweeper.batch_size=1", "hydra.sweeper.num_trials=6")
    finish(start_search(tmp_path, *arguments, *lr, *sampler))
    found, results = trials(tmp_path)
    assert len(results) == 6
    pruned = [trial for trial in found if trial.state == TrialState.PRUNED]
    assert pruned
    assert {result.status for result in results} == {"finished", "pruned"}
    assert all(trial.last_step == 1 for trial in pruned)


def test_several_objectives_end_with_a_pareto_front(tmp_path, mnist_root):
    sizes = ("model=mlp", "model.hidden_sizes=[4],[16],[64]", "optimizer.lr=0.01", "hydra/sweeper/sampler=grid")
    epochs = "trainer.max_epochs=1"
    output = finish(start_search(tmp_path, "sweep=pareto", *sizes, epochs, "hydra.sweeper.num_trials=3"))
    found, results = trials(tmp_path)
    assert sorted(trial.values[1] for trial in found) == [785 * n + (n + 1) * 10 for n in (4, 16, 64)]
    for result in results:
        (acc, size) = result.objectives
        assert acc == Objective("val/acc", "max", result.metrics["val/acc"])
        assert size == Objective("num_parameters", "min", result.metrics["num_parameters"])
    # The smallest is always on the front; those on it are better the larger they are.
    values = sorted((trial.values[1], trial.values[0]) for trial in found)
    front = [(size, acc) for n, (size, acc) in enumerate(values) if all(acc > other for _, other in values[:n])]
    assert f"Pareto front of val/acc (max), num_parameters (min): {len(front)} of 3 runs" in output
    assert output.count("python -m leyden.evaluate run=") == len(front)
    assert (tmp_path / "sweeps" / "s" / "summary.png").stat().st_size > 1000


def test_trials_that_draw_the_same_are_one_run(tmp_path, mnist_root):
    choices = ("optimizer.lr=0.001,0.01", "trainer.max_epochs=1")
    finish(start_search(tmp_path, *choices, "hydra.sweeper.num_trials=6"))
    found, results = trials(tmp_path)
    assert [trial.state for trial in found] == 6 * [TrialState.COMPLETE]
    assert len(results) <= 2
    assert {trial.value for trial in found} == {result.objectives[0].value for result in results}


def test_two_searches_work_on_one_study(tmp_path, mnist_root):
    both = [start_search(tmp_path, "hydra.sweeper.num_trials=6", "cluster.num_jobs=1") for _ in range(2)]
    for process in both:
        finish(process)
    found, results = trials(tmp_path)
    assert [trial.state for trial in found] == 6 * [TrialState.COMPLETE]
    assert [result.status for result in results] == 6 * ["finished"]
    assert len({trial.user_attrs["owner"] for trial in found}) == 2


@pytest.mark.slow
def test_a_search_killed_at_random_moments_goes_on(tmp_path, mnist_root, drawn):
    started = time.monotonic()
    finish(start_search(tmp_path / "whole", "hydra.sweeper.num_trials=5"))
    seconds = time.monotonic() - started
    for number in range(3):
        place = tmp_path / str(number)
        process = start_search(place, "hydra.sweeper.num_trials=5")
        time.sleep(drawn.uniform(0.4, 0.95) * seconds)
        process.kill()
        process.communicate()
        finish(start_search(place, "hydra.sweeper.num_trials=5"))
        found, results = trials(place)
        assert [result.status for result in results] == 5 * ["finished"]
        assert sum(trial.state == TrialState.COMPLETE for trial in found) == 5
        assert not any(trial.state == TrialState.RUNNING for trial in found)


def test_an_unreadable_study_is_found_before_the_first_trial(cli, tmp_path):
    directory = tmp_path / "outputs" / "sweeps" / "s"
    directory.mkdir(parents=True)
    (directory / "study.journal").write_text("not a journal\n" * 3)
    code, out, err = cli("train", "-m", "sweep=random", "sweep_name=s", *SMALL)
    assert code == 2
    assert "study.journal: the study can't be read" in err
    assert "Traceback" not in out + err
    assert not list(directory.rglob("config.yaml"))
