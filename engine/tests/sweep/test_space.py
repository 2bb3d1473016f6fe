"""Conditions: a key is there where they hold, in a grid, in a search, and in what is checked before."""

import itertools

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.config.errors import UserError
from leyden.sweep.study import try_sampler
from tests.sweep.spaces import space

optuna.logging.set_verbosity(optuna.logging.WARNING)


@st.composite
def conditional(draw):
    """Values by key, and conditions on keys that come before; typed in any order."""
    values = {
        key: [f"{key}{n}" for n in range(draw(st.integers(1, 3)))] for key in "abcd"[: draw(st.integers(1, 4))]
    }
    when = {}
    for key in values:
        before = [each for each in values if each < key]
        on = draw(st.lists(st.sampled_from(before), max_size=2, unique=True)) if before else []
        if on:
            when[key] = {
                each: draw(st.lists(st.sampled_from(values[each]), min_size=1, unique=True)) for each in on
            }
    return dict(draw(st.permutations(list(values.items())))), when


def by_hand(values, when):
    """All settings: each combination of all keys, without those whose conditions do not hold."""
    found = set()
    for chosen in itertools.product(*values.values()):
        there = dict(zip(values, chosen, strict=True))
        for key in sorted(there):
            if any(there.get(on) not in allowed for on, allowed in when.get(key, {}).items()):
                del there[key]
        found.add(frozenset(there.items()))
    return found


def made(values, when):
    return space(*(f"{key}=choice({','.join(each)})" for key, each in values.items()), when=when)


@given(conditional())
def test_a_key_is_there_where_its_conditions_hold(drawn):
    expected = by_hand(*drawn)
    found = made(*drawn)
    assert {frozenset(setting.items()) for setting in found.settings()} == expected
    for setting in found.settings():
        assert found.has(setting)
        assert sorted(found.overrides(setting)) == sorted(f"{key}={value}" for key, value in setting.items())
        for key in setting:  # as a process that is killed leaves it
            assert not found.has({each: value for each, value in setting.items() if each != key})
        assert not found.has({**setting, "z": "z0"})
    reached = {key for setting in expected for key, _ in setting}
    assert not set(found.never_active()) & reached


@given(conditional())
def test_the_corners_take_each_choice_that_there_is(drawn):
    expected = by_hand(*drawn)
    corners = [frozenset(corner.items()) for corner in made(*drawn).corners()]
    assert set(corners) <= expected
    assert frozenset().union(*corners) == frozenset().union(*expected)
    # And all that can be there together is so in one of them.
    assert {frozenset(key for key, _ in one) for one in corners} == {
        frozenset(key for key, _ in one) for one in expected
    }


@given(conditional(), st.integers(0, 99))
def test_a_search_draws_what_is_there(drawn, seed):
    expected = by_hand(*drawn)
    searched = made(*drawn)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(3):
        searched.suggest(trial := study.ask())
        assert frozenset(trial.params.items()) in expected


def test_conditions_can_be_on_members_of_a_zip_and_for_one():
    zips = {"pair": "zip(model=choice(mlp,cnn),optimizer=choice(sgd,adamw))", "sizes": "zip(a=[1,2],b=[3,4])"}
    when = {"optimizer.momentum": {"optimizer": "sgd"}, "sizes": {"model": "mlp"}}
    found = space("optimizer.momentum=interval(0.0,0.9)", params=zips, when=when)
    assert [found.overrides(corner) for corner in found.corners()] == [
        ["model=mlp", "optimizer=sgd", "optimizer.momentum=0.0", "a=1", "b=3"],
        ["model=mlp", "optimizer=sgd", "optimizer.momentum=0.9", "a=2", "b=4"],
        ["model=cnn", "optimizer=adamw"],
    ]
    searched = [each.name for each in found.free]
    assert searched.index("pair") < min(searched.index("optimizer.momentum"), searched.index("sizes"))


def test_what_is_fixed_keeps_its_conditions():
    when = {"optimizer.momentum": {"optimizer": "sgd"}}
    found = space("optimizer=sgd,adamw", "optimizer.momentum=0.5", when=when)
    assert [found.overrides(setting) for setting in found.settings()] == [
        ["optimizer=sgd", "optimizer.momentum=0.5"],
        ["optimizer=adamw"],
    ]
    assert found.fixed == []
    narrowed = space("optimizer=adamw", "optimizer.momentum=0.5,0.9", "lr=1,2", when=when)
    assert narrowed.settings() == [{"lr": "1"}, {"lr": "2"}]
    assert narrowed.never_active() == []


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ({"b": {"a": "3"}}, r"hydra\.sweeper\.when\.b: a is never 3; must be one of 1, 2"),
        (
            {"b": {"z": "3"}},
            r"hydra\.sweeper\.when\.b: no job sets z; a condition must be on a key that is tried: a, b, c, d",
        ),
        ({"z": {"a": "1"}}, r"hydra\.sweeper\.when\.z: is not tried"),
        ({"b": {"c": 0.5}}, r"hydra\.sweeper\.when\.b: c is an interval"),
        ({"b": {"a": 1}, "a": {"d": "x"}, "d": {"b": 4}}, "circular conditions: a needs d needs b needs a"),
        ({"b": {"b": 4}}, "circular conditions: b needs b"),
        ({"b": {}}, r"hydra\.sweeper\.when\.b=\{\}: must be a value, or a list of values, by key"),
        ({"b": "a"}, r"hydra\.sweeper\.when\.b=a: must be a value"),
        ([1], r"hydra\.sweeper\.when=\[1\]: must be conditions by key"),
    ],
)
def test_conditions_that_are_none(when, message):
    with pytest.raises(UserError, match=message):
        space("a=1,2", "b=4,5", "c=interval(0.0,1.0)", "d=x,y", when=when)


def test_a_member_of_a_zip_has_no_condition_of_its_own():
    with pytest.raises(UserError, match=r"when\.a: is a member of the zip both"):
        space("c=5,6", params={"both": "zip(a=[1,2],b=[3,4])"}, when={"a": {"c": 5}})


def test_conditions_that_never_hold_together():
    found = space("a=1,2", "b=1,2", "c=1,2", when={"b": {"a": 1}, "c": {"a": 2, "b": 1}})
    assert found.never_active() == ["c"]


CAN = ("RandomSampler", "TPESampler", "BruteForceSampler")
CANNOT = (
    "CmaEsSampler",
    pytest.param("GPSampler", marks=pytest.mark.scipy),
    "NSGAIISampler",
    "NSGAIIISampler",
    pytest.param("QMCSampler", marks=pytest.mark.scipy),
)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", [*CAN, *CANNOT])
def test_a_sampler_that_draws_conditional_keys_at_random_is_refused(name):
    sampler = getattr(optuna.samplers, name)()
    when = {"b": {"a": 1}}
    if name in CAN:
        try_sampler(sampler, space("a=1,2", "b=4,5", when=when), ["minimize"])
    else:
        with pytest.raises(UserError, match=f"{name} can't handle keys that some trials lack"):
            try_sampler(sampler, space("a=1,2", "b=4,5", when=when), ["minimize"])
        try_sampler(sampler, space("a=1,2", "b=4,5"), ["minimize"])


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_tpe_draws_keys_together_in_groups_where_some_lack_them():
    conditional = space("a=1,2", "b=4,5", when={"b": {"a": 1}})
    try_sampler(optuna.samplers.TPESampler(multivariate=True, group=True), conditional, ["minimize"])
    with pytest.raises(UserError, match="multivariate=true"):
        try_sampler(optuna.samplers.TPESampler(multivariate=True), conditional, ["minimize"])


class First(optuna.samplers.RandomSampler):
    """Takes the first choice, and can draw no numbers."""

    def sample_independent(self, study, trial, name, distribution):
        if not hasattr(distribution, "choices"):
            raise ValueError("no numbers")
        return distribution.choices[0]


def test_a_sampler_is_tried_in_each_branch():
    found = space("a=1,2,3", "b=interval(0.0,1.0)", when={"b": {"a": 3}})
    with pytest.raises(UserError, match=r"hydra\.sweeper\.sampler: no numbers"):
        try_sampler(First(), found, ["minimize"])
