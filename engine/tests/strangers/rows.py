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
SAME, ANNOUNCED, REFUSED, ANEW, NOT_SEEN = "same bits", "announced", "refused", "starts anew", "not seen"
PAGE = ENGINE / "docs" / "exact-matrix.md"
PARTED = "parts from the interrupted run at step"


class Work(NamedTuple):
    about: str  # as the page calls it
    module: str = "plain.Plain"
    data: str = "plain.PlainData"  # empty for the module's own
    more: tuple[str, ...] = ()  # overrides
    cells: dict[str, str] = {}  # noqa: RUF012 - what features come to that don't come to the same bits
    names: tuple[str, ...] = ()  # words of the announcement, one of which it must have
    fork: str = "trainer.max_epochs=4"  # the setting that its fork changes
    kill: int = 13  # the batch in which its run is killed: between two checkpoints within an epoch
    anew: bool = False  # whether its runs are processes that begin, and not copies: then there is no quick test

    def expected(self, feature):
        return self.cells.get(feature, SAME)

    @property
    def arguments(self):
        return own(self.module, self.data, *self.more)


BY_NAME = {"resume": ANNOUNCED, "fork": ANNOUNCED}  # it can't be kept, and is named as soon as it changes
BY_STEP = {"resume": ANNOUNCED, "fork": ANEW}  # not looked at; a fork has no interrupted run to be compared with
NEVER = dict.fromkeys(FEATURES, REFUSED)
ALL_BUT_LENGTH = "trainer.limit_test_batches=1"  # with more steps, a fork would have another schedule
BY_EPOCH = "callbacks.checkpoint.every_n_steps=null"
SELDOM = "callbacks.checkpoint.every_n_steps=8"  # what acts after some steps is seen by what it does


def generated(holder, kind, time):
    """Return the row of a value of a kind, in a holder, that changes at a time."""
    value = (f"kind={kind}", f"time={time}")
    more = [f"+{part}.{each}" for part in ("task", "data") for each in (f"holder={holder}", *value)]
    if "callback" in holder:
        given = ("_target_=tests.strangers.generated.Callback", *value, f"is_inner={holder == 'in_callback'}")
        more += [f"+callbacks.stranger.{each}" for each in given]
    comes_to = {KEPT: "same", NAMED: "named: held, box", SEEN: "seen"}[outcome(holder, kind, time)]
    cells, names = outcome_of(comes_to)
    about = f"{HOLDERS[holder].about}: {KINDS[kind].about}, {TIMES[time]}"
    return Work(about, "generated.Module", "generated.Data", tuple(more), cells, names)


def outcome_of(text):
    """The cells of a row and the words of its announcement, by the last column of a table."""
    kind, _, names = text.partition(": ")
    cells = {"same": {}, "named": BY_NAME, "seen": BY_STEP, "never": NEVER}
    return cells[kind], tuple(names.split(", ")) if names else (PARTED,) * (kind == "seen")


def read(text, **more):
    """Rows by name, of a table: what is trained, with what is typed for it; as the page calls it; what it comes to."""
    rows, shorts = {}, {"SELDOM": SELDOM, "BY_EPOCH": BY_EPOCH, "VAL_LOSS": VAL_LOSS}
    for name, work, about, comes_to in mistakes(text):
        what, *typed = work.split()
        kind, _, of = what.rpartition(":")
        given = {kind or "module": of if "." in of else f"stand_ins.{of}"}
        if "ITS_OWN" in typed:
            given["data"] = ""
        given["more"] = tuple(shorts.get(each, each) for each in typed if each != "ITS_OWN")
        given["cells"], given["names"] = outcome_of(comes_to)
        rows[name] = Work(about, **(given | more.get(name, {})))
    return rows


VAL_LOSS = "objective.metric=val_loss"
LIGHTNINGS = "+callbacks.stranger._target_=lightning.pytorch.callbacks"
STAND_INS = read(
    f"""
splits  =>  data:Splits  =>  splits by global states, and by NumPy generators without a seed, per stage  =>  same
pool  =>  data:Loaded +data.loader=pool  =>  a sampler that draws each index when asked; validation in random order  =>  seen
workers  =>  data:InWorkers +data.stay=false  =>  samples drawn and counted in worker processes  =>  same
persistent_workers  =>  data:InWorkers  =>  the same with `persistent_workers`, in all loaders  =>  same
replacing  =>  Replacing ITS_OWN +trainer.reload_dataloaders_every_n_epochs=1  =>  a data set that the module replaces at an epoch's end, `reload_dataloaders_every_n_epochs`  =>  seen: {PARTED}, module.data
huggingface_stream  =>  data:Loaded +data.loader=huggingface  =>  a stream of an installed package with a `state_dict`  =>  same
webdataset  =>  data:Loaded +data.loader=webdataset  =>  a pipeline of an installed package  =>  seen
wrapper  =>  data:Loaded +data.loader=wrapper  =>  a loader in a wrapper without a state, `checkpoint.every_n_steps`  =>  never
own_loader  =>  data:Loaded +data.loader=own BY_EPOCH  =>  a loader of an own class, saved by the epoch  =>  same
ema  =>  EMA  =>  an average of weights in a list, and the best ones  =>  same
finetuning  =>  plain.Plain +callbacks.stranger._target_=tests.strangers.stand_ins.Milestones  =>  `BaseFinetuning` by milestones  =>  same
unfreezing  =>  Unfreezing  =>  `requires_grad`, `eval()`, dropout and rates by hand, by the epoch  =>  same
growing  =>  MadeLate +task.hook=epoch  =>  a network that grows  =>  never
configured  =>  MadeLate +task.hook=configure_model  =>  lazy layers and an LSTM, made in `configure_model`  =>  same
setup  =>  MadeLate +task.hook=setup  =>  a network that is made in `setup`  =>  same
denoising  =>  Denoising  =>  random numbers in all stages; `seed_everything` in `on_train_start`  =>  same
train_start  =>  Denoising +task.sets=true  =>  weights that are set in `on_train_start`  =>  seen
changed_late  =>  ChangedLate objective.mode=min  =>  attributes that change, or come, after the best epoch  =>  same
estimated  =>  Scheduled +task.way=sequence  =>  schedules in sequence, over `estimated_stepping_batches`  =>  same
metric  =>  Scheduled +task.way=metric  =>  a schedule that follows a metric  =>  same
lbfgs  =>  Optimized +task.way=lbfgs  =>  L-BFGS, gradients clipped by a list of norms  =>  same
optimizer_state  =>  Optimized +task.way=outside  =>  an optimizer with a state outside of `state_dict`, that acts after the recorded steps  =>  same
random_schedule  =>  Optimized +task.way=random SELDOM  =>  a schedule with a generator in a function  =>  seen
manual  =>  Manual  =>  optimizers and a schedule by hand, gradients under way  =>  same
skipping  =>  Skipping  =>  training steps that return nothing  =>  same
cut_short  =>  Skipping +task.ends=true objective=null trainer.max_epochs=4  =>  an epoch that ends early (`on_train_batch_start`)  =>  same
iterator  =>  FromIterator  =>  a training step that takes `dataloader_iter`  =>  same
second_loader  =>  SecondLoader  =>  an iterator of a second loader in the training step  =>  named: iterator
epoch_end  =>  EpochEnd objective.metric=train/mean  =>  outputs of an epoch in a list, metrics, `R2Score`  =>  same
swag  =>  SWAG  =>  what `on_train_end` sets, as SWAG  =>  same
made_in_setup  =>  MadeInSetup  =>  a large tensor that `setup` sets  =>  same
from_random  =>  in_file.FromRandom  =>  `from random import shuffle` in its file  =>  same
file_draws  =>  in_file.FileDraws  =>  draws when its file is imported, and from a generator of it  =>  seen
saved_arrays  =>  Saving  =>  `on_save_checkpoint` with an array; `get_extra_state`  =>  same
saved_objects  =>  Saving +task.kind=object  =>  `on_save_checkpoint` with an object  =>  never
names  =>  Named VAL_LOSS  =>  `val_loss`, `test_loss`  =>  same
""",
    setup={"cells": {"evaluate": REFUSED, "fork": REFUSED}},
    estimated={"fork": ALL_BUT_LENGTH},
    optimizer_state={"cells": {"resume": NOT_SEEN, "fork": ANEW}},
    random_schedule={"kill": 15},
    cut_short={"fork": "trainer.max_epochs=5"},
    swag={"cells": {"evaluate": ANNOUNCED}},
    file_draws={"anew": True},
)
for mode in ("min_size", "max_size", "max_size_cycle", "sequential", "none"):
    of_two = ("stand_ins.OfSeveral", "stand_ins.Combined")
    more = (f"+data.mode={mode}", "objective.metric=val/loss/dataloader_idx_1")
    about, cells = f"two loaders in training, `{mode}`; in validation", NEVER if mode == "sequential" else {}
    STAND_INS[f"combined_{mode}"] = Work(about, *of_two, more, cells)
more = ("+data.form=graph", "+callbacks.monitor._target_=leyden.pictures.Monitor")  # it counts samples
graphs = Work("batches that are graphs, whose class counts", "stand_ins.OfAnyForm", "stand_ins.Formed", more)
STAND_INS["graph_batches"] = graphs
TWO = "trainer=ddp trainer.strategy=ddp_find_unused_parameters_true trainer.accelerator=cpu trainer.devices=2"
SETTINGS = read(
    f"""
accumulation  =>  plain.Plain trainer.accumulate_grad_batches=3  =>  accumulated gradients with a last step of fewer  =>  same
bf16  =>  plain.Plain trainer.precision=bf16-mixed  =>  `precision=bf16-mixed`  =>  same
cosine  =>  Scheduled scheduler=cosine +task.way=list  =>  `scheduler=cosine`  =>  same
val_check_interval  =>  Named +trainer.val_check_interval=4 VAL_LOSS  =>  `val_check_interval` that divides the epoch  =>  same
val_check_within  =>  Named +trainer.val_check_interval=3 VAL_LOSS  =>  `val_check_interval` that does not: no validation at the end of an epoch  =>  never
every_second_epoch  =>  Named +trainer.check_val_every_n_epoch=2 trainer.max_epochs=4 objective.metric=loss +task.train=loss +task.val=loss  =>  `check_val_every_n_epoch=2`, one name in training and validation  =>  same
swa  =>  plain.Plain {LIGHTNINGS}.StochasticWeightAveraging +callbacks.stranger.swa_lrs=0.01 +callbacks.stranger.swa_epoch_start=1  =>  `StochasticWeightAveraging`  =>  never
averaging  =>  plain.Plain +callbacks/averaging=ema  =>  the engine's own average of weights  =>  same
accumulation_schedule  =>  plain.Plain {LIGHTNINGS}.GradientAccumulationScheduler +callbacks.stranger.scheduling={{0:1,1:2}}  =>  `GradientAccumulationScheduler`, whose keys are numbers  =>  never
early_stopping  =>  plain.Plain {LIGHTNINGS}.EarlyStopping +callbacks.stranger.monitor=val/loss +callbacks.stranger.patience=1 +callbacks.stranger.min_delta=10.0  =>  `EarlyStopping`  =>  same
model_checkpoint  =>  plain.Plain {LIGHTNINGS}.ModelCheckpoint +callbacks.stranger.monitor=val/loss +callbacks.stranger.save_top_k=1  =>  `ModelCheckpoint`  =>  same
model_pruning  =>  plain.Plain {LIGHTNINGS}.ModelPruning +callbacks.stranger.pruning_fn=l1_unstructured +callbacks.stranger.amount=0.1 SELDOM  =>  `ModelPruning`  =>  seen
rate_finder  =>  Named {LIGHTNINGS}.LearningRateFinder +callbacks.stranger.num_training_steps=5 VAL_LOSS  =>  `LearningRateFinder`  =>  never
size_finder  =>  Named {LIGHTNINGS}.BatchSizeFinder +callbacks.stranger.max_trials=2 VAL_LOSS  =>  `BatchSizeFinder`  =>  never
two_processes  =>  Named {TWO} trainer.max_epochs=6 VAL_LOSS  =>  two processes, parameters that are not always used  =>  same
""",
    cosine={"fork": ALL_BUT_LENGTH},
    every_second_epoch={"fork": "trainer.max_epochs=6"},
    model_pruning={"kill": 15},
    two_processes={"fork": "trainer.max_epochs=7", "kill": 15, "anew": True},  # of four batches each
)

ROWS = {"-".join(each): generated(*each) for each in drawn()} | STAND_INS | SETTINGS


def table():
    lines = [f"| your work has | {' | '.join(FEATURES)} |", f"|{'---|' * (len(FEATURES) + 1)}"]
    for work in ROWS.values():
        lines.append(f"| {work.about} | {' | '.join(work.expected(feature) for feature in FEATURES)} |")
    return "\n".join(lines) + "\n"


def on_the_page(text):
    """The table that a page has, and the text around it."""
    before, begin, rest = text.partition("| your work has |")
    found, end, after = (begin + rest).partition("\n\n")
    return before, found.rstrip("\n") + "\n", end[1:] + after


if __name__ == "__main__":
    before, _, after = on_the_page(PAGE.read_text())
    PAGE.write_text(before + table() + after)
