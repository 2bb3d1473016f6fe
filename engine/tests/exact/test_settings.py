"""Settings of a plain Trainer, in one process and two, killed twice; what is expected stands in `settings.py`."""

import pytest

from tests.exact.settings import PAGE, SETTINGS, WAYS, on_the_page, outcome, table

# A way to lose bits each; all others at night.
BY_DAY = {
    ("val_quarter", "one process"),
    ("stream_workers", "one process"),
    ("swa", "one process"),
    ("accumulate", "DDP of two"),
    ("plateau_step", "DDP of two"),  # whose rates differ
}


def cells():
    for name in SETTINGS:
        for way in WAYS:
            marks = () if (name, way) in BY_DAY else (pytest.mark.nightly,)
            yield pytest.param(name, way, marks=marks)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "way"), [*cells()])
def test_a_setting_that_is_killed_twice_comes_to_what_its_row_says(name, way, tmp_path):
    kind, line = outcome(name, way, tmp_path)
    assert kind == SETTINGS[name].expected, line


def test_the_page_has_the_table_of_settings():
    assert on_the_page(PAGE.read_text())[1] == table()
