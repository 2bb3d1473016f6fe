"""The rows of the matrix, and what each feature must come to with them.

Most are generated, the others are stand-ins for real kinds of work, or settings. Run as a module, it writes the table
of docs/exact-matrix.md anew.
"""

from typing import NamedTuple

from tests import ENGINE, mistakes
from tests.strangers.generated import HOLDERS, TIMES, drawn, outcome
from tests.strangers.kinds import KEPT, KINDS, NAMED, SEEN
from tests.strangers.plain import own

FEATURES = ("resume", "evaluate", "fork")
SAME = "same bits"
ANNOUNCED = "announced"
REFUSED = "refused"
ANEW = "starts anew"
NOT_SEEN = "not seen"
PAGE = ENGINE / "docs" / "exact-matrix.md"
PARTED = "parts from the interrupted run at step"
# What features come to that don't come to the same bits.
CELLS = {
    "same": {},
    "named": {
        "resume": ANNOUNCED,
        "fork": ANNOUNCED,
    },  # it can't be kept, and is named as soon as it changes
    "seen": {
        "resume": ANNOUNCED,
        "fork": ANEW,
    },  # not looked at; a fork has no interrupted run to be compared with
    "not in a fork": {"fork": ANEW},
    "not seen": {"resume": NOT_SEEN, "fork": ANEW},
    "only resumed": {"evaluate": REFUSED, "fork": REFUSED},
    "never": dict.fromkeys(FEATURES, REFUSED),
}


class Work(NamedTuple):
    about: str  # as the page calls it
    comes_to: str = "same"  # one of CELLS, and words of the announcement, one of which it must have
    module: str = "plain.Plain"
    data: str = "plain.PlainData"  # empty for the module's own
    more: tuple[str, ...] = ()  # overrides
    fork: str = "trainer.max_epochs=4"  # the setting that its fork changes
    kill: int = 13  # the batch in which its run is killed: between two checkpoints within an epoch
    anew: bool = False  # whether its runs are processes that begin, and not copies: then there is no quick test

    def expected(self, feature):
        return CELLS[self.comes_to.partition(": ")[0]].get(feature, SAME)

    @property
    def names(self):
        kind, _, names = self.comes_to.partition(": ")
        parted = [PARTED] if kind == "seen" else []
        return (*parted, *filter(None, names.split(", ")))

    @property
    def arguments(self):
        return own(self.module, self.data, *self.more)


def generated(holder, kind, time):
    row = "-".join((holder, kind, time))
    more = (f"+task.row={row}", f"+data.row={row}")
    if "callback" in holder:
        target = "+callbacks.stranger._target_=tests.strangers.generated.Callback"
        more = (*more, target, f"+callbacks.stranger.row={row}")
    comes_to = {KEPT: "same", NAMED: "named: held, box", SEEN: "seen"}[outcome(holder, kind, time)]
    about = f"{HOLDERS[holder].about}: {KINDS[kind].about}, {TIMES[time]}"
    return Work(about, comes_to, "generated.Module", "generated.Data", more)


SHORT = {
    "VAL_LOSS": "objective.metric=val_loss",
    "BY_EPOCH": "callbacks.checkpoint.every_n_steps=null",
    "SELDOM": "callbacks.checkpoint.every_n_steps=8",  # what acts after some steps is seen by what it does
    "TWO": "trainer=ddp trainer.strategy=ddp_find_unused_parameters_true trainer.accelerator=cpu trainer.devices=2",
}


def read(text):
    """Rows by name, of a table: what is trained, with what is typed for it; as the page calls it; what it comes to."""
    rows = {}
    for name, work, about, comes_to in mistakes(text):
        given = {}
        more = []
        for word in work.split():
            option, _, value = word.partition("=")
            part, _, target = word.rpartition(":")
            if option in ("FORK", "KILL", "ANEW"):
                given[option.lower()] = value if option == "FORK" else int(value)
            elif value or word in SHORT:
                more += SHORT.get(word, word).split()
            elif part == "callback":
                more.append(f"+callbacks.stranger._target_={target}")
            else:
                given[part or "module"] = (
                    f"stand_ins.{target}" if "." not in target and target else target
                )
        rows[name] = Work(about, comes_to, more=tuple(more), **given)
    return rows


# A fork with more steps would have another schedule.
STAND_INS = read("""
splits  =>  data:Splits  =>  splits by global states, and by NumPy generators without a seed, per stage  =>  same
pool  =>  data:Loaded +data.way=pool  =>  a sampler that draws each index when asked; validation in random order  =>  seen
workers  =>  data:Loaded +data.way=workers  =>  samples drawn and counted in worker processes  =>  same
persistent_workers  =>  data:Loaded +data.way=persistent_workers  =>  the same with `persistent_workers`, in all loaders  =>  same
replacing  =>  Replacing data: +trainer.reload_dataloaders_every_n_epochs=1  =>  a data set that the module replaces at an epoch's end, `reload_dataloaders_every_n_epochs`  =>  seen: module.data
huggingface_stream  =>  data:Loaded +data.way=huggingface  =>  a stream of an installed package with a `state_dict`  =>  same
webdataset  =>  data:Loaded +data.way=webdataset  =>  a pipeline of an installed package  =>  seen
wrapper  =>  data:Loaded +data.way=wrapper  =>  a loader in a wrapper without a state, `checkpoint.every_n_steps`  =>  never
own_loader  =>  data:Loaded +data.way=own BY_EPOCH  =>  a loader of an own class, saved by the epoch  =>  same
ema  =>  EMA  =>  an average of weights in a list, and the best ones  =>  same
finetuning  =>  plain.Plain callback:tests.strangers.stand_ins.Milestones  =>  `BaseFinetuning` by milestones  =>  same
unfreezing  =>  Unfreezing  =>  `requires_grad`, `eval()`, dropout and rates by hand, by the epoch  =>  same
growing  =>  MadeLate +task.way=epoch  =>  a network that grows  =>  never
configured  =>  MadeLate +task.way=configure_model  =>  lazy layers and an LSTM, made in `configure_model`  =>  same
setup  =>  MadeLate +task.way=setup  =>  a network that is made in `setup`  =>  only resumed
denoising  =>  Denoising  =>  random numbers in all stages; `seed_everything` in `on_train_start`  =>  same
train_start  =>  Denoising +task.way=sets  =>  weights that are set in `on_train_start`  =>  not in a fork
changed_late  =>  ChangedLate objective.mode=min  =>  attributes that change, or come, after the best epoch  =>  same
estimated  =>  Scheduled +task.way=sequence FORK=trainer.limit_test_batches=1  =>  schedules in sequence, over `estimated_stepping_batches`  =>  same
metric  =>  Scheduled +task.way=metric  =>  a schedule that follows a metric  =>  same
lbfgs  =>  Optimized +task.way=lbfgs  =>  L-BFGS, gradients clipped by a list of norms  =>  same
optimizer_state  =>  Optimized +task.way=outside  =>  an optimizer with a state outside of `state_dict`, that acts after the recorded steps  =>  not seen
random_schedule  =>  Optimized +task.way=random SELDOM KILL=15  =>  a schedule with a generator in a function  =>  seen
manual  =>  Manual  =>  optimizers and a schedule by hand, gradients under way  =>  same
skipping  =>  Skipping  =>  training steps that return nothing  =>  same
cut_short  =>  Skipping +task.way=ends objective=null trainer.max_epochs=4 FORK=trainer.max_epochs=5  =>  an epoch that ends early (`on_train_batch_start`)  =>  same
iterator  =>  FromIterator  =>  a training step that takes `dataloader_iter`  =>  same
second_loader  =>  SecondLoader  =>  an iterator of a second loader in the training step  =>  named: iterator
epoch_end  =>  EpochEnd objective.metric=train/mean  =>  outputs of an epoch in a list, metrics, `R2Score`  =>  same
swag  =>  SWAG  =>  what `on_train_end` sets, as SWAG  =>  same
made_in_setup  =>  MadeInSetup  =>  a large tensor that `setup` sets  =>  same
from_random  =>  in_file.InFile  =>  `from random import shuffle` in its file  =>  same
file_draws  =>  in_file.InFile +task.way=drawn ANEW=1  =>  draws when its file is imported, and from a generator of it  =>  seen
saved_arrays  =>  Saving  =>  `on_save_checkpoint` with an array; `get_extra_state`  =>  same
saved_objects  =>  Saving +task.way=object  =>  `on_save_checkpoint` with an object  =>  never
names  =>  Named VAL_LOSS  =>  `val_loss`, `test_loss`  =>  same
combined_min_size  =>  OfAnyForm data:Combined +data.way=min_size objective.metric=val/loss/dataloader_idx_1  =>  two loaders in training, `min_size`; in validation  =>  same
combined_max_size  =>  OfAnyForm data:Combined +data.way=max_size objective.metric=val/loss/dataloader_idx_1  =>  two loaders in training, `max_size`; in validation  =>  same
combined_max_size_cycle  =>  OfAnyForm data:Combined +data.way=max_size_cycle objective.metric=val/loss/dataloader_idx_1  =>  two loaders in training, `max_size_cycle`; in validation  =>  same
combined_sequential  =>  OfAnyForm data:Combined +data.way=sequential objective.metric=val/loss/dataloader_idx_1  =>  two loaders in training, `sequential`; in validation  =>  never
combined_none  =>  OfAnyForm data:Combined +data.way=none objective.metric=val/loss/dataloader_idx_1  =>  two loaders in training, `none`; in validation  =>  same
graph_batches  =>  OfAnyForm data:Loaded +data.way=graphs +callbacks.monitor._target_=leyden.pictures.Monitor  =>  batches that are graphs, whose class counts  =>  same
accumulation  =>  plain.Plain trainer.accumulate_grad_batches=3  =>  accumulated gradients with a last step of fewer  =>  same
bf16  =>  plain.Plain trainer.precision=bf16-mixed  =>  `precision=bf16-mixed`  =>  same
cosine  =>  Scheduled scheduler=cosine +task.way=list FORK=trainer.limit_test_batches=1  =>  `scheduler=cosine`  =>  same
val_check_interval  =>  Named +trainer.val_check_interval=4 VAL_LOSS  =>  `val_check_interval` that divides the epoch  =>  same
val_check_within  =>  Named +trainer.val_check_interval=3 VAL_LOSS  =>  `val_check_interval` that does not: no validation at the end of an epoch  =>  never
every_second_epoch  =>  Named +trainer.check_val_every_n_epoch=2 trainer.max_epochs=4 objective.metric=loss +task.train=loss +task.val=loss FORK=trainer.max_epochs=6  =>  `check_val_every_n_epoch=2`, one name in training and validation  =>  same
swa  =>  plain.Plain callback:lightning.pytorch.callbacks.StochasticWeightAveraging +callbacks.stranger.swa_lrs=0.01 +callbacks.stranger.swa_epoch_start=1  =>  `StochasticWeightAveraging`  =>  never
averaging  =>  plain.Plain +callbacks/averaging=ema  =>  the engine's own average of weights  =>  same
accumulation_schedule  =>  plain.Plain callback:lightning.pytorch.callbacks.GradientAccumulationScheduler +callbacks.stranger.scheduling={0:1,1:2}  =>  `GradientAccumulationScheduler`, whose keys are numbers  =>  never
early_stopping  =>  plain.Plain callback:lightning.pytorch.callbacks.EarlyStopping +callbacks.stranger.monitor=val/loss +callbacks.stranger.patience=1 +callbacks.stranger.min_delta=10.0  =>  `EarlyStopping`  =>  same
model_checkpoint  =>  plain.Plain callback:lightning.pytorch.callbacks.ModelCheckpoint +callbacks.stranger.monitor=val/loss +callbacks.stranger.save_top_k=1  =>  `ModelCheckpoint`  =>  same
model_pruning  =>  plain.Plain callback:lightning.pytorch.callbacks.ModelPruning +callbacks.stranger.pruning_fn=l1_unstructured +callbacks.stranger.amount=0.1 SELDOM KILL=15  =>  `ModelPruning`  =>  seen
rate_finder  =>  Named callback:lightning.pytorch.callbacks.LearningRateFinder +callbacks.stranger.num_training_steps=5 VAL_LOSS  =>  `LearningRateFinder`  =>  never
size_finder  =>  Named callback:lightning.pytorch.callbacks.BatchSizeFinder +callbacks.stranger.max_trials=2 VAL_LOSS  =>  `BatchSizeFinder`  =>  never
two_processes  =>  Named TWO trainer.max_epochs=6 VAL_LOSS FORK=trainer.max_epochs=7 KILL=15 ANEW=1  =>  two processes, parameters that are not always used  =>  same
""")
ROWS = {"-".join(each): generated(*each) for each in drawn()} | STAND_INS


def table():
    lines = [f"| your work has | {' | '.join(FEATURES)} |", f"|{'---|' * (len(FEATURES) + 1)}"]
    for work in ROWS.values():
        lines.append(
            f"| {work.about} | {' | '.join(work.expected(feature) for feature in FEATURES)} |"
        )
    return "\n".join(lines) + "\n"


def on_the_page(text):
    """The table that a page has, and the text around it."""
    before, begin, rest = text.partition("| your work has |")
    found, end, after = (begin + rest).partition("\n\n")
    return before, found.rstrip("\n") + "\n", end[1:] + after


if __name__ == "__main__":
    before, _, after = on_the_page(PAGE.read_text())
    PAGE.write_text(before + table() + after)
