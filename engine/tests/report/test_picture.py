"""What the picture of a sweep has of its runs, and that it can be read."""

import itertools

import pytest
from matplotlib.figure import Figure

from leyden.report import summary
from leyden.report.summary import Point, draw_summary


@pytest.fixture
def drawn(monkeypatch):
    """Calls `draw_summary`, and returns the figure."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))

    def draw(points, metric="val/acc", *, log=None, averaged=("seed",)):
        draw_summary(points, metric, log=log, averaged=averaged)
        return figures.pop()

    return draw


def grid(**values):
    return [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]


def points(choices, value=lambda choices: 0.5):
    return [Point(each, value(each)) for each in choices]


def labels(figure):
    return [axes.get_xlabel() for axes in figure.axes]


def ticks(axes):
    return [label.get_text() for label in axes.get_xticklabels()]


def test_the_axis_of_a_choice_is_in_order_and_names_no_none():
    axes = Figure().add_subplot()
    along = [(None, 1.0, False), (10, 2.0, False), (9, 3.0, False), ("x", 4.0, False), (9, 5.0, False)]
    summary._scatter(axes, along, log=None)
    assert ticks(axes) == ["9", "10", "null", "x"]
    assert not axes.lines  # single runs have no mean


def test_a_grid_has_means_with_their_deviations_and_single_trials_are_dots():
    axes, others = Figure().subplots(2)
    along = [(0.001, 1.0, False), (0.001, 3.0, False), (0.1, 4.0, False), (0.1, 6.0, False), (0.1, 99.0, True)]
    summary._scatter(axes, along, log=True)
    assert axes.lines[0].get_xydata().tolist() == [[0.001, 2], [0.1, 5]]  # without the run that was pruned
    assert ticks(axes) == ["0.001", "0.1"]
    assert axes.containers[0].has_yerr
    assert "±" in axes.get_legend_handles_labels()[1][-1]
    summary._scatter(others, [(0.1 * n, 1.0, False) for n in range(9)], log=None)
    assert not others.lines


def test_ticks_are_the_values_that_were_tried_unless_they_are_many(drawn):
    few = drawn(points(grid(lr=[0.0003, 0.001, 0.003], seed=[0, 1])))
    assert ticks(few.axes[0]) == ["0.0003", "0.001", "0.003"]
    many = drawn(points([{"lr": 0.001 * 1.1**n} for n in range(30)]), log=["lr"])
    assert len(many.axes[0].get_xticks()) < 30


def test_pruned_runs_are_crosses_in_the_legend(drawn):
    figure = drawn([Point({"lr": n}, 0.1 * n, is_pruned=n > 2) for n in range(5)], log=[])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a run", "pruned"]
    assert [len(each.get_offsets()) for each in figure.axes[0].collections] == [3, 2]


def test_two_numbers_of_three_values_each_have_a_heat_map_of_means(drawn):
    choices = grid(lr=[0.1, 0.2, 0.3], width=[8, 16, 32, 64], seed=[0, 1])
    figure = drawn(points(choices, lambda each: each["lr"] * each["width"] + each["seed"]))
    assert labels(figure)[:3] == ["lr", "width", "lr"]
    heat = figure.axes[2]
    assert heat.images[0].get_array().tolist()[1] == pytest.approx([0.1 * 16 + 0.5, 0.2 * 16 + 0.5, 0.3 * 16 + 0.5])
    assert heat.texts[0].get_text() == "1.3"
    assert [label.get_text() for label in heat.get_yticklabels()] == ["8", "16", "32", "64"]


@pytest.mark.parametrize(
    ("choices", "log"),
    [
        (grid(lr=[0.1, 0.2], width=[8, 16, 32]), None),
        (grid(lr=[0.1, 0.2, 0.3], model=["a", "b", "c"]), None),
        (grid(lr=[0.1, 0.2, 0.3], width=[8, 16, 32])[1:], None),
        ([*grid(lr=[1, 2, 3], width=[1, 2, 3]), {"lr": 1}], None),
    ],
)
def test_what_does_not_cross_has_none(drawn, choices, log):
    assert not [axes for axes in drawn(points(choices), log=log).axes if axes.images]


def test_the_keys_of_a_zip_share_an_axis(drawn):
    zipped = [{"model": model, "optimizer": optimizer} for model, optimizer in (("mlp", "sgd"), ("cnn", "adamw"))]
    figure = drawn(points([{**each, "lr": lr} for each in zipped for lr in (0.1, 0.2)]))
    assert labels(figure) == ["model, optimizer", "lr"]
    assert ticks(figure.axes[0]) == ["cnn, adamw", "mlp, sgd"]
