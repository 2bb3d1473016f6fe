"""The table of points is read whatever has happened to it, and no line of it spoils another."""

import csv

from hypothesis import given
from hypothesis import strategies as st

from leyden.loggers import MetricsCSV
from leyden.run.result import HEADER, read_points

NAMES = st.sampled_from(["val/acc", "train/loss_step", 'a "name", with a comma', "ü"])
POINTS = st.lists(st.tuples(st.integers(0, 10**6), NAMES, st.floats(allow_nan=False)), max_size=9)


def write(path, table):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *table])
    return path.read_bytes()


@given(table=POINTS, data=st.data())
def test_what_is_cut_off_anywhere_keeps_its_whole_lines(tmp_path_factory, table, data):
    path = tmp_path_factory.mktemp("cut") / "metrics.csv"
    content = write(path, table)
    assert read_points(path) == table
    length = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:length])
    assert read_points(path) == table[: max(content[:length].count(b"\n") - 1, 0)]


@given(table=POINTS, position=st.floats(0, 1, exclude_max=True), byte=st.binary(min_size=1, max_size=1))
def test_a_bad_byte_costs_the_lines_that_it_is_in(tmp_path_factory, table, position, byte):
    path = tmp_path_factory.mktemp("bad") / "metrics.csv"
    content = write(path, table)
    place = int(position * len(content))
    path.write_bytes(content[:place] + byte + content[place + 1 :])
    line = content[:place].count(b"\n") - 1  # in the table; it may be joined to the next one
    found = read_points(path)
    assert found[: max(line, 0)] == table[: max(line, 0)]
    rest = table[max(line + 2, 0) :]
    assert found[len(found) - len(rest) :] == rest


def test_deleted_while_it_is_written_it_has_a_header_again(tmp_path):
    logger = MetricsCSV(save_dir=str(tmp_path), purge_step=0)
    logger.log_metrics({"a": 1.0}, 0)
    logger.path.unlink()
    logger.log_metrics({"a": 2.0, "epoch": 0}, 1)
    logger.log_metrics({"a": float("nan")}, 2)
    assert logger.path.read_text().splitlines() == ["step,metric,value", "1,a,2.0", "2,a,nan"]


def test_a_run_that_goes_on_keeps_the_lines_before_it_as_they_were(tmp_path):
    logger = MetricsCSV(save_dir=str(tmp_path), purge_step=0)
    for step in range(4):
        logger.log_metrics({"a": float(step), "b": step / 3}, step)
    whole = logger.path.read_text().splitlines()
    logger.path.write_bytes(logger.path.read_bytes().replace(b"step,metric,value", b"\xff,\0")[:-3])
    resumed = MetricsCSV(save_dir=str(tmp_path), purge_step=2)
    resumed.log_metrics({"c": 5}, 2)
    assert resumed.path.read_text().splitlines() == [*whole[:5], "2,c,5"]
    assert read_points(resumed.path)[-1] == (2, "c", 5.0)
