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

    def draw(points, *, log=None):
        draw_summary(points, "val/acc", log=log, averaged=("seed",))
        return figures.pop()

    return draw


def grid(**values):
    return [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]


def points(choices, value=lambda choices: 0.5):
    return [Point(each, value(each)) for each in choices]


def labels(figure):
    return [axes.get_xlabel() for axes in figure.axes]


def ticks(axes, name="x"):
    return [label.get_text() for label in getattr(axes, f"get_{name}ticklabels")()]


def test_means_are_those_of_several_whole_runs_and_an_axis_is_in_order():
    """Runs of choices, of a grid, and of single trials."""
    choices, means, trials = Figure().subplots(3)
    along = [(None, 1.0, False), (10, 2.0, False), (9, 3.0, False), ("x", 4.0, False), (9, 5.0, False)]
    summary._scatter(choices, along, log=None)
    assert ticks(choices) == ["9", "10", "null", "x"]
    along = [(0.001, 1.0, False), (0.001, 3.0, False), (0.1, 4.0, False), (0.1, 6.0, False), (0.1, 99.0, True)]
    summary._scatter(means, along, log=True)
    assert means.lines[0].get_xydata().tolist() == [[0.001, 2], [0.1, 5]]  # without the run that was pruned
    assert ticks(means) == ["0.001", "0.1"]
    assert means.containers[0].has_yerr
    assert "±" in means.get_legend_handles_labels()[1][-1]
    summary._scatter(trials, [(0.1 * n, 1.0, False) for n in range(9)], log=None)
    assert not [*choices.lines, *trials.lines]  # single runs have no mean


def test_ticks_are_the_values_that_were_tried_unless_they_are_many_and_pruned_runs_are_crosses(drawn):
    few = drawn(points(grid(lr=[0.0003, 0.001, 0.003], seed=[0, 1])))
    assert ticks(few.axes[0]) == ["0.0003", "0.001", "0.003"]
    many = drawn([Point({"lr": 0.001 * 1.1**n}, 0.1 * n, is_pruned=n > 20) for n in range(30)], log=["lr"])
    assert len(many.axes[0].get_xticks()) < 30
    (legend,) = many.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a run", "pruned"]
    assert [len(each.get_offsets()) for each in many.axes[0].collections] == [21, 9]


def test_two_numbers_of_three_values_each_have_a_heat_map_of_means(drawn):
    choices = grid(lr=[0.1, 0.2, 0.3], width=[8, 16, 32, 64], seed=[0, 1])
    figure = drawn(points(choices, lambda each: each["lr"] * each["width"] + each["seed"]))
    assert labels(figure)[:3] == ["lr", "width", "lr"]
    heat = figure.axes[2]
    assert heat.images[0].get_array().tolist()[1] == pytest.approx([0.1 * 16 + 0.5, 0.2 * 16 + 0.5, 0.3 * 16 + 0.5])
    assert heat.texts[0].get_text() == "1.3"
    assert ticks(heat, "y") == ["8", "16", "32", "64"]
    for not_crossed in (
        grid(lr=[0.1, 0.2], width=[8, 16, 32]),
        grid(lr=[0.1, 0.2, 0.3], model=["a", "b", "c"]),
        grid(lr=[0.1, 0.2, 0.3], width=[8, 16, 32])[1:],
        [*grid(lr=[1, 2, 3], width=[1, 2, 3]), {"lr": 1}],
    ):
        assert not [axes for axes in drawn(points(not_crossed)).axes if axes.images]


def test_the_keys_of_a_zip_share_an_axis(drawn):
    zipped = [{"model": model, "optimizer": optimizer} for model, optimizer in (("mlp", "sgd"), ("cnn", "adamw"))]
    figure = drawn(points([{**each, "lr": lr} for each in zipped for lr in (0.1, 0.2)]))
    assert labels(figure) == ["model, optimizer", "lr"]
    assert ticks(figure.axes[0]) == ["cnn, adamw", "mlp, sgd"]
