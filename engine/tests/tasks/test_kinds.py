"""What a task's kind decides, for tasks that only name it, and for those that define a kind of their own."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from leyden.config.errors import UserError
from leyden.data.contract import Facts
from leyden.pictures import Confusion
from leyden.tasks import Autoencoder, Classification, Language, Regression, Task
from leyden.training import predict

FACTS = Facts((2,), 2, ("cat", "dog"), target_names=("a", "b"))
LIBRARY = (Classification, Regression, Autoencoder)
INPUTS = torch.tensor([[0.0, 1.0], [2.0, 0.0]])


def named(kind):
    """A task as on the page: it names a kind, and derives from none of the library's tasks."""
    return type("Named", (Task,), {"kind": kind})(network=nn.Identity())


class Tags(Task):
    kind = "tags"
    output_name = "tags"

    def predictions(self, inputs, facts):
        return [{"bright": bright} for bright in (self.network(inputs) > 1).any(1).tolist()]


@pytest.mark.parametrize("of_library", LIBRARY)
def test_a_task_that_names_a_kind_predicts_is_exported_and_drawn_as_the_librarys(of_library):
    library = of_library(network=nn.Identity())
    task = named(library.kind)
    assert task.predictions(INPUTS, FACTS) == library.predictions(INPUTS, FACTS)
    assert task.output_name == library.output_name
    picture = Confusion(class_names=FACTS.class_names)
    assert picture.draws(task) == picture.draws(library) == (of_library is Classification)


def test_each_kind_predicts_what_its_outputs_mean():
    rows = [named(each.kind).predictions(INPUTS, FACTS) for each in LIBRARY]
    found = [each[1] for each in rows]
    share = 1 / (1 + torch.tensor(-2.0).exp().item())
    assert found[0] == pytest.approx(
        {"class": "cat", "probability": share, "p(cat)": share, "p(dog)": 1 - share}
    )
    assert found[1] == {"predicted a": 2.0, "predicted b": 0.0}
    assert found[2] == {"squared error": 0.0}


def test_a_kind_of_ones_own_predicts_a_table_and_one_without_predictions_is_refused(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("x,y\n0,1\n2,0\n")
    rows = predict.predict_table(Tags(network=nn.Identity()), FACTS, path)
    assert rows == [{"x": 0.0, "y": 1.0, "bright": False}, {"x": 2.0, "y": 0.0, "bright": True}]
    for kind in ("text", ""):
        run = SimpleNamespace(
            directory="outputs/run", facts=FACTS, config={"data": {}}, seeded=torch.no_grad,
            task=lambda _, kind=kind: named(kind),
        )  # fmt: skip
        with pytest.raises(
            UserError, match=r"outputs/run: Named has no predictions\(inputs, facts"
        ):
            predict.predict(run, [], str(path), invert=False, accelerator=None, output=None)


def test_data_of_another_kind_and_outputs_of_another_shape_are_refused():
    values = Facts((2,), target_names=("a",))
    for task in (
        named("classes"),
        Classification(network=nn.Identity()),
        Language(network=nn.Identity()),
    ):
        with pytest.raises(ValueError, match="the targets of these data are values"):
            task.check_facts(values)
    for kind in ("reconstruction", "tags", "values"):
        named(kind).check_facts(values)
    named("classes").check_network(INPUTS, FACTS)
    with pytest.raises(ValueError, match=r"returns \(2, 2\); must be logits of shape \(2, 3\)"):
        named("classes").check_network(INPUTS, Facts((2,), 3))
