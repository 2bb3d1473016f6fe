"""Spaces: values by key, rows of `sweep.settings`, and functions of a trial; and Optuna's search in them, its restarts, its pruning."""

import contextlib
import itertools
import json
import os
import re
from pathlib import Path
from unittest.mock import Mock

import optuna
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from leyden.base.errors import UserError
from leyden.run import lock
from leyden.run.directory import Run
from leyden.run.result import Failure
from leyden.sweep import pruning, search
from leyden.sweep.jobs import JobNames
from leyden.sweep.search import Search, find_trial, open_study
from leyden.sweep.space import override_text
from tests import ENGINE, conf
from tests.conftest import QUICK, finish, start
from tests.sweep import spaces
from tests.sweep.spaces import grid, space

optuna.logging.set_verbosity(optuna.logging.WARNING)

DISTRIBUTIONS = {
    "a=tag(log,interval(0.0001,0.1))": FloatDistribution(0.0001, 0.1, log=True),
    "a=interval(1,5)": FloatDistribution(1.0, 5.0),
    "a=int(interval(1,5))": IntDistribution(1, 5),
    "a=range(1,4)": CategoricalDistribution(["1", "2", "3"]),
    "a=shuffle(choice(x,y))": CategoricalDistribution(["x", "y"]),
    "a=[1,2],[3]": CategoricalDistribution(["[1,2]", "[3]"]),
    "a={b:1,c:[d]},{b:2}": CategoricalDistribution(["{b:1,c:[d]}", "{b:2}"]),
    "a='x y',null": CategoricalDistribution(["'x y'", "null"]),
}


@pytest.mark.parametrize(("override", "distribution"), DISTRIBUTIONS.items())
def test_the_space_is_in_hydras_syntax(override, distribution):
    searched = space(override, "b=3")
    trial = optuna.create_study().ask()
    assert searched.suggest(trial) == [f"a={trial.params['a']}"]
    assert trial.distributions == {"a": distribution}
    assert searched.fixed == ["b=3"]


ROWS = [{"model": "mlp", "optimizer": "sgd", "optimizer.momentum": 0.9}, {"model": "cnn"}]
TEXTS = ["model=mlp optimizer=sgd optimizer.momentum=0.9", "model=cnn"]
OPTIMIZERS = "tests.sweep.spaces.optimizers"


def test_rows_are_crossed_with_all_else_what_is_typed_goes_before_params_and_a_job_runs_once():
    expected = []
    for b, seed, row in itertools.product("xy", (1, 2, 3), TEXTS):
        expected.append(f"a=0 b={b} seed={seed} {row}")
    assert grid("seed=1,2,3", "a=0", settings=ROWS, params={"b": "x,y"}) == expected
    assert grid("a=9,8,9", params={"a": "1,2", "b": 3}) == ["b=3 a=9", "b=3 a=8"]
    assert grid(settings=[*ROWS, *ROWS]) == TEXTS
    assert grid("a=1") == ["a=1"]
    # A large number, which is no number of jobs.
    assert grid("a=range(10,0,-1000000000000000)") == ["a=10"]


NUMBERS = st.integers(-9, 9) | st.floats(allow_nan=False)
PLAIN = st.none() | st.booleans() | NUMBERS | st.text(max_size=8)
KEYS = st.sampled_from(["a", "b.c"])


def containers(part):
    return st.lists(part, max_size=3) | st.dictionaries(KEYS, part)


def plain(value):
    """What the parser has read, without its own kinds of texts."""
    if isinstance(value, dict):
        return {plain(key): plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return getattr(value, "text", value)


@given(st.recursive(PLAIN, containers, max_leaves=4))
def test_hydra_reads_a_value_as_it_was(value):
    text = f"key={override_text(value)}"
    override = OverridesParser.create().parse_override(text)
    found = plain(override.value())
    assert found == value
    assert type(found) is type(value)


WRONG_ROWS = [
    ({"a": 1}, "must be a list of values by key"),
    ([{"a": 1}, {}], r"\[1\]: is {}; must be plain values by key"),
    ([{"a=b": 1}], r"\[0\]: a=b: must be a key"),
    ([{"+cluster.num_jobs": 2}], "cluster.num_jobs: is the same for all jobs"),
    ([{"+z": 1}], "z is set outside, too; remove one of the two"),
]
WRONG_GRIDS = [
    (("sweep_name=x,y",), {}, "is the same for all jobs"),
    (
        (),
        {"params": {"sweep.settings": "[{a:1}]"}},
        r"hydra\.sweeper\.params: sweep\.settings is a key of its own",
    ),
    ((), {"params": [1]}, "must be values by key"),
    ((), {"function": OPTIMIZERS}, f"sweep.space={OPTIMIZERS}: is for a search"),
]
for rows, message in WRONG_ROWS:
    WRONG_GRIDS.append((("z=1",), {"settings": rows}, rf"^sweep\.settings.*{message}"))


@pytest.mark.parametrize(("arguments", "parts", "message"), WRONG_GRIDS)
def test_a_grid_that_is_none(arguments, parts, message):
    with pytest.raises(UserError, match=message) as error:
        grid(*arguments, **parts)
    assert "\n" not in str(error.value)


def test_a_function_returns_the_keys_of_a_trial():
    found = space("b=2", "c=x,y", function=OPTIMIZERS)
    assert found.fixed == ["b=2"]
    assert found.keys == {"c"}
    study = optuna.create_study()
    study.enqueue_trial({"c": "y", "which": "sgd", "momentum": 0.5})
    assert found.suggest(study.ask()) == ["c=y", "optimizer=sgd", "optimizer.momentum=0.5"]
    study.enqueue_trial({"c": "x", "which": "adamw"})
    assert found.suggest(study.ask()) == ["c=x", "optimizer=adamw"]
    drawn = search.try_sampler(RandomSampler(seed=0), found)
    assert {len(each) for each in drawn} == {2, 3}


WRONG_FUNCTIONS = [
    ("nowhere.space", None, "can't be imported (No module named 'nowhere')"),
    ("tests.sweep.spaces", None, "must be a function of an optuna.Trial"),
    (
        "tests.sweep.spaces.returning",
        {"a": object},
        "is {'a': <class 'object'>}; must be plain values by key",
    ),
    ("tests.sweep.spaces.returning", {"fork": "outputs/a"}, "fork: is the same for all jobs"),
    ("tests.sweep.spaces.returning", {"c": 2}, "c is set outside, too"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG_FUNCTIONS)
def test_a_function_that_is_none_or_returns_no_setting(monkeypatch, name, value, message):
    monkeypatch.setattr(spaces, "value", value)
    with pytest.raises(UserError) as error:
        space("b=2", "c=x,y", function=name).suggest(optuna.create_study().ask())
    assert str(error.value).startswith("sweep.space")
    assert message in str(error.value)


def test_each_file_of_the_page_has_its_jobs():
    page = (ENGINE / "docs" / "sweeps.md").read_text()
    texts = re.findall(r"(?ms)^```yaml\n(.*?)^```$", page)
    assert texts
    for text in texts:
        content = yaml.safe_load(text)
        params = content["hydra"]["sweeper"]["params"]
        found = grid(params=params, settings=content["sweep"]["settings"])
        assert f"# {len(found)} jobs" in text.splitlines()


def name_of(overrides):
    return "run_" + "_".join(overrides)


def searches(directory, num_trials, searched=None, sampler=None):
    def new_jobs(batch, first):
        return [Mock(**{"run.directory": Path(name_of(overrides))}) for overrides in batch]

    study = open_study(directory, sampler=RandomSampler())
    sweep = Mock(directory=directory, new_jobs=new_jobs)
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
def test_trials_that_a_killed_process_left_are_resumed_and_drawn_to_their_end(tmp_path, num_drawn):
    searched = space(settings=[{"a": 1}, {"a": 2, "b": 3}], function=OPTIMIZERS)
    killed = searches(tmp_path, 6, searched)
    whole = ask(killed, 4)
    half = killed.study.ask()  # killed between two parameters
    if num_drawn > 0:
        half.suggest_categorical("sweep.settings", ["a=1", "a=2 b=3"])
    if num_drawn > 1:
        half.suggest_categorical("which", ["sgd", "adamw"])
    heir = searches(tmp_path, 6, searched)
    taken = ask(heir, 9)
    assert [trial.params for trial in taken[:4]] == [trial.params for trial in whole]
    for trial in taken:
        overrides = heir.space.suggest(optuna.trial.FixedTrial(trial.params))
        assert trial.user_attrs["run"] == name_of(overrides)
        heir.study.tell(trial, 1.0)
    states = [trial.state for trial in heir.study.trials]
    assert states.count(TrialState.COMPLETE) == 6
    assert states.count(TrialState.RUNNING) == 0


def test_the_trials_of_a_function_are_named_by_what_varies(tmp_path):
    trials = [["model=kan", "optimizer.lr=0.1"], ["model=kan", "optimizer.lr=0.2", "model.depth=3"]]
    shared = search._shared(trials)
    names = JobNames.of(["experiment=x", *shared], {"model", "optimizer.lr", "model.depth"})
    found = [names.name(["experiment=x", *trial]) for trial in trials]
    assert found == ["lr-0.1", "depth-3_lr-0.2"]
    assert search._shared(trials[:1]) == []


def test_another_space_and_a_sampler_that_would_miss_its_package_later_are_refused_at_once(
    tmp_path,
):
    finished_search(tmp_path, 2, space("x=1,2"))
    with pytest.raises(UserError, match="does not accept this space"):
        ask(searches(tmp_path, 3, space("x=1,3")), 1)

    class Late(RandomSampler):
        def sample_independent(self, study, trial, name, distribution):
            if trial.number > 10:
                raise ImportError("no scipy")
            return super().sample_independent(study, trial, name, distribution)

    with pytest.raises(UserError, match=r"hydra\.sweeper\.sampler: no scipy"):
        search.try_sampler(Late(), space("a=1,2,3", "b=interval(0.0,1.0)"))
    with pytest.raises(UserError, match=r"hydra\.sweeper\.sampler=3: must be one of Optuna's"):
        search.try_sampler(3, space("a=1,2,3"))


def test_a_journal_cut_at_any_byte_is_read_to_its_last_whole_line(tmp_path, monkeypatch):
    journal = tmp_path / "study.journal"
    journal.write_text("not a journal\n" * 3)
    with pytest.raises(UserError, match=r"study\.journal: the study can't be read \("):
        open_study(tmp_path)
    for make in (lambda: journal.symlink_to("none"), lambda: os.mkfifo(journal)):
        journal.unlink()
        make()
        with pytest.raises(UserError, match=r"study\.journal: the study can't be read \(OSError"):
            open_study(tmp_path)
    journal.unlink()
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # many of them
    finished_search(tmp_path, 3)
    whole = journal.read_bytes()
    ends = {*range(0, len(whole), 83)}  # within a line all bytes are alike
    for found in re.finditer(b"\n", whole):
        end = found.start()
        ends |= {end - 1, end, end + 1, end + 2}
    for end in sorted(ends & {*range(len(whole))}):
        part = whole[:end]
        journal.write_bytes(part)
        states = [trial.state for trial in finished_search(tmp_path, 3).study.trials]
        assert states.count(TrialState.COMPLETE) == 3
        whole_lines, _, _ = part.rpartition(b"\n")
        repaired = journal.read_bytes()
        assert repaired.startswith(whole_lines)  # it has lost nothing that was whole
        for line in repaired.splitlines():
            assert json.loads(line)


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
    marks = [pytest.mark.scipy] if "leyden[gp]" in path.read_text() else []
    return pytest.param(path, marks=marks, id=path.stem)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("path", [*map(sampler, conf("hydra/sweeper/sampler"))])
def test_every_sampler_searches_and_draws_by_the_number_of_the_trial(tmp_path, path):
    sampler = instantiate(
        {**OmegaConf.to_container(OmegaConf.load(path), resolve=False), "seed": 0}
    )
    third = ("d=tag(log,interval(0.1,1.0))",) if path.stem != "grid" else ()
    searched = space("a=choice(1,2,3)", "b=range(0,5)", *third)
    drawn = []
    for starts in (1, 3):
        place = tmp_path / str(starts)
        place.mkdir()
        for num in range(starts):
            mine = finished_search(place, 12 * (num + 1) // starts, searched, sampler)
            if num < starts - 1:  # killed while the next trial is drawn
                mine.study.sampler = search.sampler_for(sampler, len(mine.study.trials))
                half = mine.study.ask()
                assert num or half.suggest_categorical("a", ["1", "2", "3"])
        assert len(mine.study.trials) == 12
        assert mine.study.best_params["a"] == "1"
        drawn.append([trial.params for trial in mine.study.trials])
    assert drawn[0] == drawn[1]
    assert len({str(params) for params in drawn[0]}) > 6


@pytest.mark.parametrize(("epochs", "status"), [(1, "finished"), (2, "pruned")])
def test_after_the_last_epoch_nothing_is_pruned(train, tmp_path, monkeypatch, epochs, status):
    (tmp_path / "study.journal").touch()
    trial = Mock(**{"should_prune.return_value": True})
    monkeypatch.setattr(pruning, "find_trial", lambda *_: trial)
    run, *_ = train("a", *QUICK, "+callbacks/pruning=median", f"trainer.max_epochs={epochs}")
    assert run.result.status == status
    assert run.result.epochs == 1


@pytest.mark.slow
def test_a_search_prunes_and_refuses_another_search_and_another_start(tmp_path, mnist_root):
    typed = (
        "-m",
        "sweep=tpe",
        "sweep_name=s",
        f"outputs={tmp_path}",
        *QUICK,
        "hydra/sweeper/sampler=grid",
        "hydra.sweeper.sampler.seed=0",
        "hydra.sweeper.num_trials=4",
        "cluster.num_jobs=1",
        "callbacks.pruning.pruner.n_startup_trials=1",
        "callbacks.pruning.pruner.n_warmup_steps=0",
        "optimizer=adam",
        "optimizer.lr=1e-6,1e-2",
        "model.dropout=0.0,0.1",
        "trainer.max_epochs=3",
        "seed=5",
    )
    directory = tmp_path / "sweeps" / "s"
    assert "4/4 jobs" in finish(start(*typed))
    found = open_study(directory).get_trials(deepcopy=False)
    assert {trial.state for trial in found} == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in found:
        result = Run(directory / trial.user_attrs["run"]).result
        if trial.state == TrialState.PRUNED:
            assert result.status == "pruned"
            assert result.epochs < 3
        else:
            assert result.status == "finished"
            assert result.epochs == 3
            assert trial.value == result.objective.value
    # Trials of other fixed values are none of the same search; what changes no bit may change.
    output = finish(start(*typed, "trainer.max_epochs=4"), code=2)
    assert "holds a different sweep: fixed [" in output
    assert "trainer.max_epochs=4" in output
    with lock.hold(directory / "locks" / "search"):
        assert "in use by" in finish(start(*typed), code=2)
    finish(start(*typed, "sweep.pictures=none", "cluster.num_jobs=2"))


def test_a_trial_that_failed_is_run_again_alone_in_each_start(tmp_path):
    first = searches(tmp_path, 2)
    failed, finished = ask(first, 2)
    first.ended(Mock(number=0, **{"run.result": None}), Failure("KeyError", "this seed"))
    first.study.tell(finished, 1.0)
    for _ in range(2):
        again = searches(tmp_path, 2)
        (trial,) = ask(again, 9)
        assert trial.params == failed.params
        again.study.tell(trial, state=TrialState.FAIL)
