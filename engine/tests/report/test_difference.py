"""Two runs are equal, or from which step on they are not."""

import pytest

from leyden.report.outcome import show_difference
from tests import mistakes
from tests.reproduction.conftest import call, commit, make, start  # noqa: F401 - fixtures

FINGERPRINTS = """
1234 1234  =>  0  =>  equal, bit for bit, over all 4 fingerprints that both have, up to step 40
1234 1255  =>  1  =>  diverged: step 30 is the first fingerprint that differs
1234 1255  =>  1  =>  equal until step 20
1234 5234  =>  1  =>  there is no earlier fingerprint
12 1234  =>  0  =>  over all 2 fingerprints that both have, up to step 20
1234 12  =>  1  =>  ends before the other run, at step 20
12 12/7  =>  2  =>  no fingerprints in common
- -  =>  2  =>  no fingerprints in common
"""
OTHERS = [  # of metrics, and of the configuration
    ({"metrics": {"val/acc": 0.5}}, {"metrics": {"val/acc": 0.75}}, 1, "result val/acc 0.5 0.75"),
    ({"metrics": {"a": 0.5}}, {"metrics": {"a": 0.5, "b": 1.0}}, 0, "result b 1.0"),  # one was evaluated later
    ({"metrics": {"a": 0.5, "time/x": 1.0}}, {"metrics": {"a": 0.5, "time/x": 2.0}}, 0, "equal"),
    ({"metrics": {"val/acc": float("nan")}}, {"metrics": {"val/acc": float("nan")}}, 0, "equal"),
    ({}, {"config": {"seed": 1}}, 0, "seed"),
]


def of(text):
    digits, _, step = text.partition("/")
    return {"fingerprints": digits.strip("-"), "step": int(step or 10)}


BOTH = [(*map(of, pair.split()), int(code), told) for pair, code, told in mistakes(FINGERPRINTS)]


@pytest.mark.parametrize(("a", "b", "code", "told"), BOTH + OTHERS)
def test_it_says_so(call, make, a, b, code, told):  # noqa: F811
    found, text = call(f"run={make('a', **a)}", f"against={make('b', **b)}")
    assert told in " ".join(text.split())
    assert found == code


def test_data_that_differ_are_named(call, make, capfd):  # noqa: F811
    data = {"a": {"t.csv": "1", "u.csv": "1"}, "b": {"t.csv": "2", "u.csv": "1"}, "c": None}
    a, b, c = (make(name, starts=[start("", data=of)], fingerprints=name) for name, of in data.items())
    code, text = call(f"run={a}", f"against={b}")
    assert code == 1
    show_difference(str(a), str(b))
    for each in (text, capfd.readouterr().out):
        assert 'data t.csv "1" "2"' in " ".join(each.split())
        assert "u.csv" not in each
    show_difference(str(a), str(c))
    assert "t.csv" not in capfd.readouterr().out
