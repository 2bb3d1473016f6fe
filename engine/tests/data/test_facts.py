from types import SimpleNamespace

import pytest

from leyden.data.contract import DOWNLOAD_ARGUMENTS, Facts, facts_of


@pytest.mark.parametrize(
    "facts",
    [
        {"num_classes": 10},
        {"class_names": ["a", "b"], "num_classes": 2, "input_shape": [3, 32, 32]},
        {"input_shape": (4,), "num_rooms": 3, "names": ["x"]},
        {},
    ],
)
def test_facts_of_ones_own_are_those_of_a_checkpoint(facts):
    found = facts_of(SimpleNamespace(facts=facts))
    assert Facts.from_state(found.to_state()) == found
    assert found.normalize.scale == 1.0
    assert (
        found.by_name.items()
        >= {k: tuple(v) if k in ("class_names", "input_shape") else v for k, v in facts.items()}.items()
    )


@pytest.mark.parametrize("name", [*DOWNLOAD_ARGUMENTS, "input_shape", "num_outputs", "vocab_size", "class_names"])
def test_extra_facts_have_names_of_their_own(name):
    with pytest.raises(ValueError, match=f"facts.{name}: "):
        Facts.from_state({**Facts((1, 2, 2)).to_state(), "extra": {name: 3}})
    with pytest.raises(ValueError, match=f"facts.{name}: "):
        facts_of(SimpleNamespace(facts=Facts(extra={name: 3})))


def test_a_fact_that_is_known_comes_before_one_of_ones_own():
    assert Facts((2,), extra={"input_shape": (10**9,)}).by_name["input_shape"] == (2,)


def test_facts_with_a_mean_and_no_scale_are_of_pixels():
    assert Facts((1, 2, 2), mean=(0.0,), std=(1.0,)).normalize.scale == 255.0


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("input_shape", [5, [0], [2.0], [-1], [2**15, 2**15], ["a"]]),
        ("num_classes", [0, 2.0, True, "2"]),
        ("class_names", ["ab", ["a"], [1, 2]]),
        ("mean", [[1.0, 2.0], [1], 0.5, [None]]),
        ("std", [[1.0, 2.0], ["1"]]),
        ("scale", [0.0, 1, float("nan"), "1"]),
        ("vocabulary", [[1], "abc"]),
        ("extra", [["a"], None]),
    ],
)
def test_a_value_in_a_checkpoint_that_no_data_have_is_refused_by_name(name, values):
    state = Facts((1, 2, 2), 2, ("a", "b"), (0.5,), (0.5,), 255.0).to_state()
    assert Facts.from_state(state).to_state() == state
    for value in values:
        with pytest.raises(ValueError, match=f"{name}: "):
            Facts.from_state({**state, name: value})
