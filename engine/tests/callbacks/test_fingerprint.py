import pytest

from leyden.run.files import FINGERPRINTS_FILE, Fingerprint, append_fingerprint, first_difference, read_fingerprints
from tests.conftest import assert_same_bits
from tests.training.test_start import train  # noqa: F401 - a fixture

SHORT = ("model.dropout=0.2", "trainer.max_epochs=2")


def test_no_bit_of_training_changes(train):  # noqa: F811
    with_them, *_ = train("with", *SHORT, "callbacks.fingerprint.every_n_steps=1")
    without, *_ = train("without", *SHORT, "~callbacks.fingerprint")
    assert_same_bits(with_them.directory, without.directory)
    assert len(read_fingerprints(with_them.directory)) == 20
    steps = [line.partition(",")[0] for line in (with_them.directory / FINGERPRINTS_FILE).read_text().splitlines()]
    assert len({*steps}) == len(steps)  # a checkpoint and an epoch's end are no second line
    assert not read_fingerprints(without.directory)


def test_where_runs_part_and_by_what(train):  # noqa: F811
    """By default there is a line per epoch."""
    a, b, c, d = (
        read_fingerprints(train(name, *SHORT, *further)[0].directory)
        for name, further in {
            "a": (),
            "b": (),
            "c": ("model.dropout=0.3",),
            "d": ("callbacks.checkpoint.every_n_steps=3",),
        }.items()
    )
    assert [*a] == [10, 20]
    assert [*d] == [3, 6, 9, 10, 12, 15, 18, 20]
    assert first_difference(a, b) is None
    assert first_difference(a, d) is None
    assert first_difference(a, c) == (10, ["weights", "optimizer"])


@pytest.mark.parametrize("end", ["", "30,aa", "-1," + ",".join(["0" * 32] * 3) + "\n"])
def test_what_is_no_line_is_left_out(tmp_path, end):
    one = Fingerprint("0" * 32, "1" * 32, "f" * 32)
    append_fingerprint(tmp_path, 10, one)
    with (tmp_path / "fingerprint.csv").open("a") as file:
        file.write(end)
    assert read_fingerprints(tmp_path) == {10: one}
