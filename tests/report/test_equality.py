"""Two runs are equal, or from which step on they are not."""

import pytest

from tests.reproduction.conftest import call, commit, make  # noqa: F401 - fixtures


@pytest.mark.parametrize(
    ("a", "b", "code", "told"),
    [
        (
            {"fingerprints": "1234"},
            {"fingerprints": "1234"},
            0,
            "equal, bit for bit, over all 4 fingerprints, up to step 40",
        ),
        (
            {"fingerprints": "1234"},
            {"fingerprints": "1255"},
            1,
            "parted: step 30 is the first fingerprint that differs",
        ),
        ({"fingerprints": "1234"}, {"fingerprints": "1255"}, 1, "equal until step 20"),
        ({"fingerprints": "1234"}, {"fingerprints": "5234"}, 1, "there is none before"),
        (
            {"fingerprints": "12"},
            {"fingerprints": "1234"},
            0,
            "over the 2 fingerprints that both have, up to step 20",
        ),
        ({"fingerprints": "12"}, {"fingerprints": "1234"}, 0, "2 fingerprints, from step 30 to 40"),
        ({"fingerprints": "1234"}, {"fingerprints": "12"}, 1, "ends before the other run, at step 20"),
        ({"fingerprints": "12"}, {"fingerprints": "12", "step": 7}, 2, "no fingerprints in common"),
        ({"fingerprints": ""}, {"fingerprints": ""}, 2, "no fingerprints in common"),
        (
            {"metrics": {"val/acc": 0.5}},
            {"metrics": {"val/acc": 0.75}},
            1,
            "val/acc: 0.5 there, 0.75 here, 0.25 apart",
        ),
        ({"metrics": {"val/acc": 0.5, "time/x": 1.0}}, {"metrics": {"val/acc": 0.5, "time/x": 2.0}}, 0, "equal"),
        ({"metrics": {"val/acc": float("nan")}}, {"metrics": {"val/acc": float("nan")}}, 0, "equal"),
        ({}, {"config": {"seed": 1}}, 0, "seed"),
    ],
)
def test_it_says_so(call, make, a, b, code, told):  # noqa: F811
    found, text = call(f"run={make('a', **a)}", f"against={make('b', **b)}")
    assert told in text
    assert found == code
