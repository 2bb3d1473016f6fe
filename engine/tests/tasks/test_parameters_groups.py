"""Parameters in groups, from the command line."""

from tests.training.test_start import curves, train  # noqa: F401 - a fixture

BIASES = '+optimizer.groups.biases={match: "*.bias", lr: 0.01}'


def test_a_group_has_a_learning_rate_of_its_own(train):  # noqa: F811
    run, *_ = train("a", "callbacks=default", BIASES, "trainer.max_epochs=1", "trainer.log_every_n_steps=1")
    rates = {name: value for _, name, value in curves(run) if name.startswith("lr")}
    assert rates == {"lr_0": 0.001, "lr_1": 0.01}
