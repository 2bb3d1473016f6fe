"""Spaces: values by key, rows of `sweep.settings`, and functions of a trial."""

import itertools
import re

import optuna
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from leyden.config.errors import UserError
from leyden.sweep.search import try_sampler
from leyden.sweep.space import override_text
from tests import ENGINE
from tests.sweep import spaces
from tests.sweep.spaces import grid, space

optuna.logging.set_verbosity(optuna.logging.WARNING)
ROWS = [{"model": "mlp", "optimizer": "sgd", "optimizer.momentum": 0.9}, {"model": "cnn"}]
TEXTS = ["model=mlp optimizer=sgd optimizer.momentum=0.9", "model=cnn"]
OPTIMIZERS = "tests.sweep.spaces.optimizers"


def test_rows_are_crossed_with_all_else():
    assert grid("seed=1,2,3", "a=0", settings=ROWS, params={"b": "x,y"}) == [
        f"a=0 b={b} seed={seed} {row}" for b, seed, row in itertools.product("xy", (1, 2, 3), TEXTS)
    ]


def test_what_is_typed_goes_before_params_and_a_job_runs_once():
    assert grid("a=9,8,9", params={"a": "1,2", "b": 3}) == ["b=3 a=9", "b=3 a=8"]
    assert grid(settings=[*ROWS, *ROWS]) == TEXTS
    assert grid("a=1") == ["a=1"]
    assert grid("a=range(10,0,-1000000000000000)") == ["a=10"]  # a large number, which is no number of jobs


plain = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=8)
KEYS = st.sampled_from(["a", "b.c"])


@given(st.recursive(plain, lambda of: st.lists(of, max_size=3) | st.dictionaries(KEYS, of), max_leaves=4))
def test_hydra_reads_a_value_as_it_was(value):
    def read(value):
        if isinstance(value, dict):
            return {read(key): read(each) for key, each in value.items()}
        return [*map(read, value)] if isinstance(value, list) else getattr(value, "text", value)

    found = read(OverridesParser.create().parse_override(f"key={override_text(value)}").value())
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
    ((), {"params": {"sweep.settings": "[{a:1}]"}}, r"hydra\.sweeper\.params: sweep\.settings is a key of its own"),
    ((), {"params": [1]}, "must be values by key"),
    ((), {"function": OPTIMIZERS}, f"sweep.space={OPTIMIZERS}: is for a search"),
    *((("z=1",), {"settings": rows}, rf"^sweep\.settings.*{message}") for rows, message in WRONG_ROWS),
]


@pytest.mark.parametrize(("arguments", "parts", "message"), WRONG_GRIDS)
def test_a_grid_that_is_none(arguments, parts, message):
    with pytest.raises(UserError, match=message) as error:
        grid(*arguments, **parts)
    assert "\n" not in str(error.value)


def test_a_function_returns_the_keys_of_a_trial():
    found = space("b=2", "c=x,y", function=OPTIMIZERS)
    assert (found.fixed, found.keys) == (["b=2"], {"c"})
    study = optuna.create_study()
    study.enqueue_trial({"c": "y", "which": "sgd", "momentum": 0.5})
    assert found.suggest(study.ask()) == ["c=y", "optimizer=sgd", "optimizer.momentum=0.5"]
    study.enqueue_trial({"c": "x", "which": "adamw"})
    assert found.suggest(study.ask()) == ["c=x", "optimizer=adamw"]
    drawn, log_keys = try_sampler(optuna.samplers.RandomSampler(seed=0), found)
    assert log_keys == ["momentum"]
    assert {len(each) for each in drawn} == {2, 3}


WRONG_FUNCTIONS = [
    ("nowhere.space", None, "can't be imported (No module named 'nowhere')"),
    ("tests.sweep.spaces", None, "must be a function of an optuna.Trial"),
    ("tests.sweep.spaces.returning", {"a": object}, "is {'a': <class 'object'>}; must be plain values by key"),
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


TEXT = (ENGINE / "docs" / "sweeps.md").read_text()
FILES = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_each_file_has_its_jobs():
    assert FILES
    for text in FILES:
        content = yaml.safe_load(text)
        found = grid(params=content["hydra"]["sweeper"]["params"], settings=content["sweep"]["settings"])
        assert len(found) == int(re.search(r"^# (\d+) jobs$", text, re.MULTILINE)[1])
