"""Parameters in groups, from the command line."""

from tests.training.test_start import curves, train  # noqa: F401 - a fixture

BIASES = '+optimizer.groups.biases={match: "*.bias", lr: 0.01}'


def test_a_group_has_a_learning_rate_of_its_own(train):  # noqa: F811
    run, *_ = train("a", "callbacks=default", BIASES, "trainer.max_epochs=1", "trainer.log_every_n_steps=1")
    rates = {name: value for _, name, value in curves(run) if name.startswith("lr")}
    assert rates == {"lr_0": 0.001, "lr_1": 0.01}


def test_a_pattern_that_matches_nothing_is_told(train):  # noqa: F811
    run, _, err = train("a", '+optimizer.groups.x={match: "nothing.*"}', code=2)
    assert "optimizer: groups.x: nothing.* matches none of network.layers.1.weight" in err
    assert not run.directory.exists()


def test_freezing_is_told_to_be_a_key_of_the_root(train):  # noqa: F811
    _, _, err = train("a", '+optimizer.groups.first={match: "network.layers.1.*", freeze: true}', code=2)
    assert "optimizer: groups.first.freeze: can't be set per group; set the root key " in err
    assert "freeze=[network.layers.1.*] instead" in err
