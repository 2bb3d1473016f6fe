"""Grids one after another, and jobs that are left out."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.config.errors import UserError
from tests.sweep.spaces import grid


def test_a_union_runs_each_job_once():
    union = [{"a": "1,2", "b": "5"}, {"b": "5,6", "a": "2"}]
    assert grid("seed=0", params={"c": "x,y"}, union=union) == [
        *(f"b=5 seed=0 c={c} a={a}" for c in "xy" for a in (1, 2)),
        *(f"a=2 seed=0 c={c} b=6" for c in "xy"),
    ]


def test_an_entry_goes_before_params_and_what_is_typed_before_both():
    assert grid(params={"a": "1,2"}, union=[{"a": "3,4"}, {"b": "5"}]) == ["a=3", "a=4", "b=5 a=1", "b=5 a=2"]
    assert grid("a=9", params={"a": "1,2"}, union=[{"a": "3,4"}, {"b": "5,6"}]) == ["a=9", "a=9 b=5", "a=9 b=6"]


def test_an_entry_can_have_a_zip_and_conditions():
    union = [{"both": "zip(a=[1,2],b=[3,4])"}, {"a": "5,6"}]
    assert grid("c=x,y", union=union, when={"c": {"a": [1, 5]}}) == [
        "a=1 b=3 c=x",
        "a=1 b=3 c=y",
        "a=2 b=4",
        "a=5 c=x",
        "a=5 c=y",
        "a=6",
    ]


values = {"a": "123", "b": "45", "c": "678"}
entries = st.lists(
    st.fixed_dictionaries(
        {}, optional={k: st.lists(st.sampled_from(v), min_size=1) for k, v in values.items()}
    ).filter(bool),
    max_size=3,
)


@given(entries)
def test_what_is_left_out_is_what_has_all_the_values_of_an_entry(exclude):
    all_jobs = [dict(zip(values, job, strict=True)) for job in itertools.product(*values.values())]
    left = [job for job in all_jobs if not any(all(job[k] in v for k, v in entry.items()) for entry in exclude)]
    typed = [f"{key}={','.join(each)}" for key, each in values.items()]
    if not left:
        with pytest.raises(UserError, match=r"hydra\.sweeper\.exclude: excludes all jobs"):
            grid(*typed, exclude=exclude)
    else:
        assert grid(*typed, exclude=exclude or None) == [
            " ".join(f"{k}={v}" for k, v in job.items()) for job in left
        ]


@pytest.mark.parametrize(
    ("typed", "allowed", "matches"),
    [
        ("0.001", 0.001, True),
        ("1e-3", 0.001, True),
        ("true", True, True),
        ("null", None, True),
        ("'x y'", "x y", True),
        ("[1,2]", [[1, 2]], True),
        ("[1,2]", "[1,2]", True),
        ("{b:1}", {"b": 1}, True),
        ("1", True, False),
        ("[1,2]", [1, 2], False),
    ],
)
def test_values_are_compared_as_they_are_meant(typed, allowed, matches):
    if matches:
        assert grid(f"a={typed},other", exclude=[{"a": allowed}]) == ["a=other"]
    else:
        with pytest.raises(UserError, match=r"exclude\[0\]: a is never"):
            grid(f"a={typed},other", exclude=[{"a": allowed}])


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"exclude": [{"z": 1}]}, r"exclude\[0\]: no job sets z; a condition must be on a key that is tried: a, b"),
        ({"exclude": [{"a": 1}, {"a": 3}]}, r"exclude\[1\]: a is never 3; must be one of 1, 2"),
        ({"exclude": {"a": 1}}, "exclude={'a': 1}: must be a list of mappings"),
        ({"exclude": []}, r"exclude=\[\]: must be a list"),
        ({"exclude": [3]}, r"exclude=\[3\]: must be a list"),
        ({"exclude": [{}]}, r"exclude\[0\]={}: must be a value"),
        ({"union": "a"}, "union=a: must be a list"),
        ({"union": [{"a": "interval(0,1)"}]}, "a=interval.*: a grid takes lists"),
        ({"union": [{"a": "range(0,0)"}]}, r"a=range\(0,0\): has no values to try"),
        ({"union": [{"sweep_name": "x,y"}]}, "is the same for all jobs"),
        ({"when": {"b": {"a": 1}, "a": {"b": 3}}}, "circular conditions"),
        ({"union": [{"c": "1,2"}, {"d": "1,2"}], "when": {"d": {"c": 1}}}, "d needs c, which its grid does not"),
    ],
)
def test_a_mistake_in_it_is_a_line(node, message):
    with pytest.raises(UserError, match=message) as error:
        grid("a=1,2", "b=3,4", **node) if "union" not in node else grid("b=3,4", **node)
    assert "\n" not in str(error.value)


def test_conditions_that_never_hold_together():
    with pytest.raises(UserError, match=r"hydra\.sweeper\.when\.c: its conditions never hold together"):
        grid("a=1,2", "b=1,2", "c=1,2", when={"b": {"a": 1}, "c": {"a": 2, "b": 1}})


@pytest.mark.parametrize("key", ["union", "exclude"])
def test_a_search_says_what_there_is_instead(cli, key):
    code, _, err = cli("train", "-m", "sweep=random", f"+hydra.sweeper.{key}=[{{seed:1}}]")
    assert code == 2
    assert err == f"leyden: hydra.sweeper.{key}: is for grids; a search accepts hydra.sweeper.when and zip(...)\n"
