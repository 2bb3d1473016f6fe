"""Precision against recall of each class."""

import lightning as L

from leyden.callbacks.evaluation import Evaluation, OnEvaluation
from leyden.callbacks.writer import tensorboard_writer


class PRCurves(OnEvaluation):
    """Writes a precision-recall curve a class, of the evaluation at the end, for TensorBoard."""

    def draw(self, trainer: L.Trainer, evaluation: Evaluation) -> None:
        """Write them."""
        if writer := tensorboard_writer(trainer):
            for k, name in enumerate(evaluation.class_names):
                writer.add_pr_curve(
                    f"pr_{evaluation.split}/{name}",
                    evaluation.labels_N == k,
                    evaluation.probabilities_NK[:, k],
                    trainer.global_step,
                )
