"""Precision against recall of each class."""

import lightning as L

from leyden.callbacks.classes import ClassEvaluation, OnClasses
from leyden.callbacks.writer import tensorboard_writer


class PRCurves(OnClasses):
    """Writes one precision-recall curve per class, of the evaluation at the end, for TensorBoard."""

    def draw_classes(self, trainer: L.Trainer, evaluation: ClassEvaluation) -> None:
        """Write one curve per class."""
        if writer := tensorboard_writer(trainer):
            for k, name in enumerate(evaluation.class_names):
                writer.add_pr_curve(
                    f"pr_{evaluation.split}/{name}",
                    evaluation.labels_N == k,
                    evaluation.probabilities_NK[:, k],
                    trainer.global_step,
                )
