"""What a task's kind decides, for tasks that only name it, and for a kind of one's own."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from leyden.base.errors import UserError
from leyden.data.contract import Facts
from leyden.pictures import Confusion
from leyden.tasks import Autoencoder, Classification, Language, Regression, Task
from leyden.trained import predict

CLASSES = ("cat", "dog")
FACTS = Facts((2,), 2, CLASSES, target_names=("a", "b"))
INPUTS = torch.tensor([[0.0, 1.0], [2.0, 0.0]])


def named(kind):
    """A task as on the page: it names a kind, and derives from none of the library's tasks."""
    task = type("Named", (Task,), {"kind": kind})
    return task(network=nn.Identity())


class Tags(Task):
    kind = "tags"
    output_name = "tags"

    def predict_rows(self, inputs, facts):
        outputs = self.network(inputs)
        are_bright = (outputs > 1).any(1)
        return [{"bright": each} for each in are_bright.tolist()]


@pytest.mark.parametrize("of_library", [Classification, Regression, Autoencoder])
def test_a_task_that_names_a_kind_predicts_is_exported_and_drawn_as_the_librarys(of_library):
    library = of_library(network=nn.Identity())
    task = named(library.kind)
    expected = library.predict_rows(INPUTS, FACTS)
    assert task.predict_rows(INPUTS, FACTS) == expected
    assert task.output_name == library.output_name
    picture = Confusion(class_names=CLASSES)
    assert picture.draws(task) == picture.draws(library)
    assert picture.draws(task) == (of_library is Classification)


def test_classes_are_predicted_with_the_probability_of_each():
    _, row = named("classes").predict_rows(INPUTS, FACTS)
    share = torch.tensor(2.0).sigmoid().item()
    expected = {
        "class": "cat",
        "probability": share,
        "p(cat)": share,
        "p(dog)": 1 - share,
    }
    assert row == pytest.approx(expected)
    unnamed = named("classes").predict_rows(INPUTS, Facts((2,), 2))
    assert [row["class"] for row in unnamed] == [1, 0]


def test_numbers_are_predicted_by_their_names_and_a_reconstruction_by_its_error():
    _, row = named("values").predict_rows(INPUTS, FACTS)
    assert row == {"predicted a": 2.0, "predicted b": 0.0}
    network = nn.Identity()
    network.forward = lambda inputs: (inputs + 3, "the code")
    _, row = Autoencoder(network=network).predict_rows(INPUTS, FACTS)
    assert row == {"squared error": 9.0}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("x,y\n0,1\n2,0\n")
    return path


def test_a_kind_of_ones_own_predicts_a_table(path):
    task = Tags(network=nn.Identity())
    rows = predict.predict_table(task, FACTS, path)
    assert rows == [
        {"x": 0.0, "y": 1.0, "bright": False},
        {"x": 2.0, "y": 0.0, "bright": True},
    ]


@pytest.mark.parametrize("kind", ["text", ""])
def test_a_kind_without_predictions_is_refused_in_a_line(path, kind):
    run = SimpleNamespace(
        directory="outputs/run",
        facts=FACTS,
        config={"data": {}},
        seeded=torch.no_grad,
        task=lambda accelerator: named(kind),
    )
    message = r"outputs/run: Named has no predict_rows\(inputs, facts"
    with pytest.raises(UserError, match=message):
        predict.predict(run, [], str(path), invert=False, accelerator=None, output=None)


@pytest.mark.parametrize("kind", ["classes", Language.kind])
def test_data_of_another_kind_are_refused(kind):
    values = Facts((2,), target_names=("a",))
    with pytest.raises(ValueError, match="the targets of these data are values"):
        named(kind).check_facts(values)
    for other in ("reconstruction", "tags", "values", ""):
        named(other).check_facts(values)


def test_outputs_of_another_shape_are_refused():
    task = named("classes")
    task.check_network(INPUTS, FACTS)
    message = r"returns a Tensor of shape \(2, 2\); must be logits of shape \(2, 3\)"
    with pytest.raises(ValueError, match=message):
        task.check_network(INPUTS, Facts((2,), 3))
