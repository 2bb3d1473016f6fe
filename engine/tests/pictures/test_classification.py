import numpy as np
import pytest
import torch

from leyden.pictures.base import gather, interleave, render
from leyden.pictures.classification import ClassEvaluation, confusion_counts, errors_figure, most_confident
from leyden.pictures.classification import confusion_figure as confusion_figure

NAMES = ("cat", "dog", "eel")
PROBABILITIES_NK = np.array(
    [[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.0, 0.8, 0.2], [0.1, 0.2, 0.7], [0.0, 0.99, 0.01]], dtype=np.float32
)
EVALUATION = ClassEvaluation("val", np.array([0, 1, 2, 2, 0]), PROBABILITIES_NK, NAMES)


def test_the_surest_mistakes_come_first():
    assert most_confident(EVALUATION).tolist() == [4, 2, 1]


@pytest.mark.parametrize(
    ("eel", "caption"), [("eel", "true cat →\npredicted dog\n0.990"), ("moray", "cat →\ndog\n0.990")]
)
def test_a_mistake_names_both_classes(eel, caption):
    evaluation = ClassEvaluation("val", EVALUATION.labels_N, PROBABILITIES_NK, ("cat", "dog", eel))
    figure = errors_figure(evaluation, most_confident(evaluation), np.zeros((3, 1, 8, 8)))
    assert figure.axes[0].texts[0].get_text() == caption
    assert "true class → predicted class" in figure.texts[0].get_text().replace("\n", " ")


def test_rows_are_true_classes_and_columns_predicted_ones():
    assert confusion_counts(EVALUATION).tolist() == [[1, 1, 0], [1, 0, 0], [0, 1, 1]]


def test_the_title_says_which_split_and_how_good():
    assert EVALUATION.title == "validation split, 5 samples, accuracy 0.4000"


@pytest.mark.parametrize("num_classes", [2, 100])
def test_few_and_many_classes_are_drawn(num_classes):
    labels_N = np.arange(200) % num_classes
    probabilities_NK = np.eye(num_classes, dtype=np.float32)[(labels_N + (labels_N == 1)) % num_classes]
    evaluation = ClassEvaluation(
        "test", labels_N, probabilities_NK, tuple(f"class {k}" for k in range(num_classes))
    )
    assert len(np.unique(render(confusion_figure(evaluation)).reshape(-1, 3), axis=0)) > 20


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_processes_take_turns_within_a_batch(world_size):
    batches = [torch.arange(7), torch.arange(7, 14), torch.arange(14, 15)]
    parts = [[batch[rank::world_size] for batch in batches] for rank in range(world_size)]
    assert torch.equal(interleave(parts), torch.arange(15))


def test_a_process_that_has_kept_a_batch_more_is_cut_to_the_others(monkeypatch):
    mine = [torch.tensor([0, 2]), torch.tensor([4, 6])]
    theirs = [torch.tensor([1, 3]), torch.tensor([5]), torch.tensor([9])]  # its parts are smaller: it kept on

    def all_gather_object(every, batches):
        every[:] = [mine, theirs]

    monkeypatch.setattr(torch.distributed, "all_gather_object", all_gather_object)
    assert gather(mine, 2).tolist() == [0, 1, 2, 3, 4, 5, 6]
