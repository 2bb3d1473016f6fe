"""Hugging Face's Trainer, resumed from its newest checkpoint: python with_transformers.py DIR SCENARIO."""

import sys

import task
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint


class Recorded(Trainer):
    """The Trainer, which remembers its batch."""

    def training_step(self, model, inputs, *rest, **options):
        self.batch = inputs
        return super().training_step(model, inputs, *rest, **options)


class Marks(TrainerCallback):
    """Marks of each step."""

    def on_step_end(self, args, state, control, model, optimizer, lr_scheduler, **_):
        task.mark(state.global_step, model, [optimizer, lr_scheduler], self.trainer.batch)


def main(folder, scenario):
    if scenario == "ema":
        task.cannot("the Trainer has no average of weights")
    task.seed()
    options = {}
    if scenario == "stream":
        options["max_steps"] = task.NUM_STEPS
    if scenario in task.WITH_VALIDATION:
        options |= {"eval_strategy": "epoch", "per_device_eval_batch_size": task.NUM_VAL}
        options |= {"metric_for_best_model": "eval_loss", "greater_is_better": False}
    if scenario == "plateau":
        options["lr_scheduler_type"] = "reduce_lr_on_plateau"
        options["lr_scheduler_kwargs"] = {"patience": 1}
    args = TrainingArguments(
        folder, num_train_epochs=task.num_epochs(scenario), seed=0, learning_rate=0.01,
        save_steps=task.EVERY_N_STEPS, per_device_train_batch_size=task.BATCH_SIZE, use_cpu=True,
        gradient_accumulation_steps=2 if scenario == "accumulate" else 1, label_names=["targets"],
        dataloader_num_workers=2 if scenario == "workers" else 0, report_to=[], disable_tqdm=True,
        train_sampling_strategy="random" if task.is_shuffled(scenario) else "sequential",
        enable_jit_checkpoint=scenario == "sigterm", **options,
    )  # fmt: skip
    marks = Marks()
    callbacks = [marks, EarlyStoppingCallback(2)] if scenario == "early" else [marks]
    data, val = task.make_loader(scenario).dataset, task.Samples(scenario, is_validation=True)
    net = task.NetWithLoss(scenario)
    trainer = Recorded(net, args, task.collate, data, val, callbacks=callbacks)
    marks.trainer = trainer
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder))
    task.mark("end", trainer.model)


if __name__ == "__main__":
    main(*sys.argv[1:])
