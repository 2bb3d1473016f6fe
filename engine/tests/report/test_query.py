"""Conditions: what they mean, and that nothing else can be said by them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.config.errors import UserError
from leyden.config.values import ABSENT
from leyden.report.listing import parse_condition

RUN = {
    "val/acc": 0.98,
    "optimizer.lr": 0.001,
    "status": "finished",
    "model": "a b",
    "note": None,
    "test": True,
    "n": 3,
    "exact": 0.00767466993519409,
    "sizes": [1, 2],
    "huge": 10**400,
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("val/acc > 0.97", True),
        ("val/acc>0.97 and optimizer.lr<0.01", True),
        ("val/acc>0.97 and optimizer.lr<1e-4", False),
        ("status != failed and n == 3.0", True),
        ("model = 'a b'", True),
        ('model="a c"', False),
        ("note = null", True),
        ("note < 1", False),
        ("test = true", True),
        ("nothing < 1", False),
        ("nothing != 1", False),
        (" n=3 and status=finished and 'model' = 'a b' ", True),
        ("status < 1", False),
        ("val/acc < high", False),
        # As a table shows it, from four digits on.
        ("exact = 0.007675", True),
        ("exact != 0.007675", False),
        ("exact = 7.675e-3", True),
        ("exact = 0.007674", False),
        ("exact = 0.0076747", True),
        ("exact = 0.0077", False),
        ("exact < 0.007675", True),
        ("sizes = [1,2]", True),
        ("sizes = '[1, 2]'", True),
        ("sizes != '[1,2]'", False),
        ("sizes = '[1]'", False),
        ("sizes > 1", False),
        (f"n < {'9' * 5000}", True),
        (f"sizes = {'9' * 5000}", False),
        ("huge > 1", False),
        ("huge = 1000", False),
    ],
)
def test_what_a_condition_means(text, holds):
    assert parse_condition(text)[0](lambda key: RUN.get(key, ABSENT)) is holds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is no comparison"),
        ("val/acc", "val/acc is no comparison"),
        ("val/acc >", "val/acc > is no comparison"),
        ("val/acc is 3", "val/acc is 3 is no comparison"),
        ("val/acc > 3 4", "val/acc > 3 4 is no comparison"),
        ("n = 3 or n = 4", "n = 3 or n = 4 is no comparison; `and` joins comparisons"),
        ("n = 3 and not n = 4", "not n = 4 is no comparison"),
        ("n = 3 and (n = 4)", r"\(n = 4\) is no comparison"),
        ("n = 3 and", "n = 3 and is no comparison"),
        ("val/acc > 'x", "val/acc > 'x is no comparison"),
        ("__import__('os').system('x') = 1", "is no comparison"),
        ("(" * 5000, "is no comparison"),
    ],
)
def test_what_is_none_is_told_in_a_line(text, message):
    with pytest.raises(UserError, match=f"^where=.*{message}") as raised:
        parse_condition(text)
    assert len(str(raised.value)) < 600


@given(st.text(alphabet="abn/. <>=!()'\"0andortx", max_size=30))
def test_whatever_is_typed_is_a_condition_or_a_line(text):
    try:
        condition, keys = parse_condition(text)
    except UserError:
        return
    assert condition(lambda key: ABSENT) in (True, False)
    assert condition(dict.fromkeys(keys, 0.5).get) in (True, False)
