from types import SimpleNamespace

import pytest

from leyden.data.contract import DOWNLOAD_ARGUMENTS, Facts, digests_of, facts_of


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


def test_digests_that_are_no_texts_by_name_are_not_recorded():
    for found, expected in (({"a": "1"}, {"a": "1"}), (["a"], {}), ({"a": 1}, {})):
        assert digests_of(SimpleNamespace(digests=found)) == expected
    assert digests_of(SimpleNamespace()) == {}
