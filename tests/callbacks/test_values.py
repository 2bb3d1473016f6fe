"""Values of the optimizer by epoch."""

import pytest

from leyden.run.points import points
from tests.training.test_train import train  # noqa: F401 - a fixture

TARGET = "_target_:leyden.callbacks.values.ValuesByEpoch"


def test_they_hold_from_their_epoch_on_and_over_a_resume(train):  # noqa: F811
    values = f"+callbacks.values={{{TARGET},by_epoch:{{1:{{lr:0.5}},3:{{lr:0.25}}}}}}"
    adam = ("optimizer=adam", "optimizer.lr=0.001")
    run, *_ = train("a", values, *adam, "trainer.max_epochs=3")
    train("a", values, *adam, "trainer.max_epochs=5")
    rates = {step: value for step, name, value in points(run.directory / "metrics.csv") if name.startswith("lr")}
    assert {step // 10: rate for step, rate in rates.items()} == {0: 0.001, 1: 0.5, 2: 0.5, 3: 0.25, 4: 0.25}


@pytest.mark.parametrize(
    ("by_epoch", "more", "said"),
    [
        ("{1:{momentum:0.5}}", (), "ValuesByEpoch: Adam has no momentum"),
        ("{1:{lr:0.5}}", ("scheduler=cosine",), "would both set values of the optimizer; scheduler=none"),
        ("{0:{lr:0.5}}", (), "must be values by name by epoch"),
        ("{1:0.5}", (), "must be values by name by epoch"),
    ],
)
def test_what_can_not_be_set_is_refused(train, by_epoch, more, said):  # noqa: F811
    _, _, err = train("a", f"+callbacks.values={{{TARGET},by_epoch:{by_epoch}}}", "optimizer=adam", *more, code=2)
    assert said in err
