"""The rows of the matrix, and what each feature must come to with them.

Most are generated, the others are stand-ins for real kinds of work, or settings. Run as a module, it writes the table
of docs/exact-matrix.md anew.
"""

from typing import NamedTuple

from tests import ENGINE
from tests.strangers.generated import HOLDERS, TIMES, drawn, outcome
from tests.strangers.kinds import KEPT, KINDS, NAMED, SEEN

FEATURES = ("resume", "evaluate", "sweep", "prune", "fork", "reproduce")
SAME, ANNOUNCED, REFUSED, ANEW, NOT_SEEN = "same bits", "announced", "refused", "starts anew", "not seen"
PAGE = ENGINE / "docs" / "exact-matrix.md"
PARTED = "parts from the interrupted run at step"


class Work(NamedTuple):
    """A kind of work, by a stand-in for it.

    Args:
        about: As the page calls it.
        module: Its class, with its file.
        data: Its class, with its file; empty for none.
        more: Overrides; `{place}` is a folder of each run.
        cells: What features come to that don't come to the same bits.
        names: Words of the announcement, one of which it must have.
        fork: The setting that its fork changes.
        kill: The batch in which its run is killed: between two checkpoints within an epoch.
        anew: Whether its runs are processes that begin, and not copies of one: then there is no quick test.
    """

    about: str
    module: str = "plain.Plain"
    data: str = "plain.PlainData"
    more: tuple[str, ...] = ()
    cells: dict[str, str] = {}  # noqa: RUF012 - nobody changes it
    names: tuple[str, ...] = ()
    fork: str = "trainer.max_epochs=4"
    kill: int = 13
    anew: bool = False

    def expected(self, feature):
        return self.cells.get(feature, SAME)

    @property
    def arguments(self):
        data = ("data=own", f"data._target_=tests.strangers.{self.data}") if self.data else ("data=module",)
        return ("task=own", f"task._target_=tests.strangers.{self.module}", *data, *self.more)


def callback(name, *more):
    target = name if name.startswith("lightning") else f"tests.strangers.{name}"
    return (f"+callbacks.stranger._target_={target}", *(f"+callbacks.stranger.{each}" for each in more))


LIGHTNING = "lightning.pytorch.callbacks"
BY_NAME = {"resume": ANNOUNCED, "fork": ANNOUNCED}  # it can't be kept, and is named as soon as it changes
BY_STEP = {
    "resume": ANNOUNCED,
    "fork": ANEW,
}  # not looked at; of a fork there is no interrupted run to be compared with
NEVER = dict.fromkeys(FEATURES, REFUSED)
NO_WEIGHTS = {"resume": REFUSED, "evaluate": REFUSED, "fork": REFUSED}
ALL_BUT_LENGTH = "trainer.limit_test_batches=1"  # with more steps, a fork would have another schedule
MONITOR = "+callbacks.monitor._target_=leyden.pictures.curves.Monitor"  # it counts samples
BY_EPOCH = "callbacks.checkpoint.every_n_steps=null"
SELDOM = "callbacks.checkpoint.every_n_steps=8"  # what acts after some steps is seen by what it does


def generated(holder, kind, time):
    """Return the row of a value of a kind, in a holder, that changes at a time."""
    value = (f"kind={kind}", f"time={time}")
    more = [f"+task.{each}" for each in (f"holder={holder}", *value)]
    more += [f"+data.{each}" for each in (f"holder={holder}", *value)]
    if "callback" in holder:
        more += callback("generated.Callback", *value, f"is_inner={str(holder == 'in_callback').lower()}")
    comes_to = outcome(holder, kind)
    cells = {KEPT: {}, NAMED: BY_NAME, SEEN: BY_STEP}[comes_to]
    names = {KEPT: (), NAMED: ("held", "box"), SEEN: (PARTED,)}[comes_to]
    about = f"{HOLDERS[holder].about}: {KINDS[kind].about}, {TIMES[time]}"
    return Work(about, "generated.Module", "generated.Data", tuple(more), cells, names)


def module(about, name, *more, **kwargs):
    return Work(about, name if "." in name else f"stand_ins.{name}", more=more, **kwargs)


def data(about, name, *more, **kwargs):
    return Work(about, data=f"stand_ins.{name}", more=more, **kwargs)


STAND_INS = {
    # Splits, samplers, streams and loaders
    "splits": data("splits by global states, and by NumPy generators without a seed, per stage", "Splits"),
    "pool": data(
        "a sampler that draws each index when asked; validation in random order",
        "FromPool",
        cells={"resume": ANNOUNCED, "fork": ANNOUNCED},
        names=("the order of the training samples differs",),
    ),
    "workers": data("samples drawn and counted in worker processes", "InWorkers", "+data.stay=false"),
    "persistent_workers": data("the same with `persistent_workers`, in all loaders", "InWorkers"),
    "replacing": module(
        "rows that the module replaces at an epoch's end, `reload_dataloaders_every_n_epochs`",
        "Replacing",
        *("+trainer.reload_dataloaders_every_n_epochs=1", "+task.keeps=true"),
        data="",
    ),
    "replacing_object": module(
        "the same of a data set, an object",
        "Replacing",
        "+trainer.reload_dataloaders_every_n_epochs=1",
        data="",
        cells=BY_STEP,
        names=(PARTED, "module.data"),
    ),
    "huggingface_stream": data(
        "a stream of an installed package with a `state_dict`", "Streamed", "+data.stream=huggingface"
    ),
    "webdataset": data(
        "a pipeline of an installed package", "Streamed", "+data.stream=webdataset", cells=BY_STEP, names=(PARTED,)
    ),
    "wrapper": data(
        "a loader in a wrapper without a state, `checkpoint.every_n_steps`",
        "OwnLoader",
        "+data.loader=wrapper",
        cells=NEVER,
    ),
    "own_loader": data("a loader of an own class, saved by the epoch", "OwnLoader", "+data.loader=own", BY_EPOCH),
    "infinite_loader": data("a loader that makes its iterator once", "OwnLoader", "+data.loader=infinite"),
    **{
        f"combined_{mode}": Work(
            f"two loaders in training, `{mode}`; in validation",
            "stand_ins.OfSeveral",
            "stand_ins.Combined",
            (f"+data.mode={mode}", "objective.metric=val/loss/dataloader_idx_1"),
            NEVER if mode == "sequential" else {},
        )
        for mode in ("min_size", "max_size", "max_size_cycle", "sequential", "none")
    },
    **{
        f"{form}_batches": Work(
            f"batches that are {about}",
            "stand_ins.OfAnyForm",
            "stand_ins.Formed",
            (f"+data.form={form}", MONITOR),
        )
        for form, about in {
            "graph": "graphs, whose class counts",
            "slotted": "dataclasses with slots",
            "pair": "named tuples",
            "dict": "dictionaries",
            "list": "lists of dictionaries",
        }.items()
    },
    # Weights, and what is trained
    "ema": module("an average of weights in a list, and the best ones", "EMA"),
    "finetuning": Work("`BaseFinetuning` by milestones", more=callback("stand_ins.Milestones")),
    "unfreezing": module("`requires_grad`, `eval()`, dropout and rates by hand, by the epoch", "Unfreezing"),
    "growing": module("a network that grows", "MadeLate", "+task.hook=epoch", cells=NO_WEIGHTS),
    "configured": module(
        "lazy layers and an LSTM, made in `configure_model`", "MadeLate", "+task.hook=configure_model"
    ),
    "setup": module(
        "a network that is made in `setup`",
        "MadeLate",
        "+task.hook=setup",
        cells={"evaluate": REFUSED, "fork": REFUSED},
    ),
    "denoising": module("random numbers in all stages; `seed_everything` in `on_train_start`", "Denoising"),
    "train_start": module(
        "weights that are set in `on_train_start`",
        *("Denoising", "+task.sets=true"),
        cells=BY_STEP,
        names=(PARTED,),
    ),
    "changed_late": module(
        "attributes that change, or come, after the best epoch", "ChangedLate", "objective.mode=min"
    ),
    # Optimizers, schedules and steps
    "estimated": module(
        "schedules in sequence, over `estimated_stepping_batches`",
        "Scheduled",
        "+task.way=sequence",
        fork=ALL_BUT_LENGTH,
    ),
    "metric": module("a schedule that follows a metric", "Scheduled", "+task.way=metric"),
    "lbfgs": module("L-BFGS, gradients clipped by a list of norms", "Optimized", "+task.way=lbfgs"),
    "optimizer_state": module(
        "an optimizer with a state outside of `state_dict`, that acts after the recorded steps",
        *("Optimized", "+task.way=outside"),
        cells={"resume": NOT_SEEN, "fork": ANEW},
    ),
    "random_schedule": module(
        "a schedule with a generator in a function",
        "Optimized",
        *("+task.way=random", SELDOM),
        cells=BY_STEP,
        names=(PARTED,),
        kill=15,
    ),
    "manual": module("optimizers and a schedule by hand, gradients under way", "Manual"),
    "gan": module("a GAN with pictures to `logger.experiment`", "GAN"),
    "skipping": module("training steps that return nothing", "Skipping"),
    "cut_short": module(
        "an epoch that ends early (`on_train_batch_start`)",
        "Skipping",
        *("+task.ends=true", "objective=null", "trainer.max_epochs=4"),  # it is not validated
        cells={"prune": REFUSED},
        fork="trainer.max_epochs=5",
    ),
    "iterator": module("a training step that takes `dataloader_iter`", "FromIterator"),
    "second_loader": module(
        "an iterator of a second loader in the training step", "SecondLoader", cells=BY_NAME, names=("iterator",)
    ),
    "epoch_end": module(
        "outputs of an epoch in a list, metrics, `R2Score`",
        "EpochEnd",
        "objective.metric=train/mean",
        cells={"prune": REFUSED},  # it needs a metric of validation
    ),
    "swag": module("what `on_train_end` sets, as SWAG", "SWAG", cells={"evaluate": ANNOUNCED}),
    # Attributes, files, what is saved
    "made_in_setup": module("a large tensor that `setup` sets", "MadeInSetup"),
    "from_random": module("`from random import shuffle` in its file", "in_file.FromRandom"),
    "file_draws": module(
        "draws when its file is imported, and from a generator of it",
        "in_file.FileDraws",
        cells=BY_STEP,
        names=(PARTED,),
        anew=True,
    ),
    "saved_arrays": module("`on_save_checkpoint` with an array; `get_extra_state`", "Saving"),
    "saved_objects": module("`on_save_checkpoint` with an object", "Saving", "+task.kind=object", cells=NEVER),
    "names": module("`val_loss`, `test_loss`", "Named", "objective.metric=val_loss"),
}

VAL_LOSS = "objective.metric=val_loss"
SETTINGS = {
    "accumulation": Work(
        "accumulated gradients with a last step of fewer", more=("trainer.accumulate_grad_batches=3",)
    ),
    "bf16": Work("`precision=bf16-mixed`", more=("trainer.precision=bf16-mixed",)),
    "cosine": Work(
        "`scheduler=cosine`",
        "stand_ins.Scheduled",
        more=("scheduler=cosine", "+task.way=engine"),
        fork=ALL_BUT_LENGTH,
    ),
    "val_check_interval": module(
        "`val_check_interval` that divides the epoch", "Named", "+trainer.val_check_interval=4", VAL_LOSS
    ),
    "val_check_within": module(
        "`val_check_interval` that does not: no validation at the end of an epoch",
        "Named",
        *("+trainer.val_check_interval=3", VAL_LOSS),
        cells=NEVER,
    ),
    "every_second_epoch": module(
        "`check_val_every_n_epoch=2`, one name in training and validation",
        "Named",
        *("+trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4", "objective.metric=loss"),
        *("+task.train=loss", "+task.val=loss"),
        fork="trainer.max_epochs=6",
    ),
    "swa": Work(
        "`StochasticWeightAveraging`",
        more=callback(f"{LIGHTNING}.StochasticWeightAveraging", "swa_lrs=0.01", "swa_epoch_start=1"),
        cells=NEVER,
    ),
    "averaging": Work("the engine's own average of weights", more=("+callbacks/averaging=ema",)),
    "accumulation_schedule": Work(
        "`GradientAccumulationScheduler`",
        more=callback(f"{LIGHTNING}.GradientAccumulationScheduler", "scheduling={0: 1, 1: 2}"),
    ),
    "early_stopping": Work(
        "`EarlyStopping`",
        more=callback(f"{LIGHTNING}.EarlyStopping", "monitor=val/loss", "patience=1", "min_delta=10.0"),
    ),
    "model_checkpoint": Work(
        "`ModelCheckpoint`", more=callback(f"{LIGHTNING}.ModelCheckpoint", "monitor=val/loss", "save_top_k=1")
    ),
    "model_pruning": Work(
        "`ModelPruning`",
        more=(*callback(f"{LIGHTNING}.ModelPruning", "pruning_fn=l1_unstructured", "amount=0.1"), SELDOM),
        cells=BY_STEP,
        names=(PARTED,),
        kill=15,
    ),
    "rate_finder": module(
        "`LearningRateFinder`",
        "Named",
        *callback(f"{LIGHTNING}.LearningRateFinder", "num_training_steps=5"),
        VAL_LOSS,
        cells=NEVER,
    ),
    "size_finder": module(
        "`BatchSizeFinder`",
        "Named",
        *callback(f"{LIGHTNING}.BatchSizeFinder", "max_trials=2"),
        VAL_LOSS,
        cells=NEVER,
    ),
    "two_processes": module(
        "two processes, parameters that are not always used",  # of four batches each
        "Named",
        *("trainer=ddp", "trainer.strategy=ddp_find_unused_parameters_true", "trainer.accelerator=cpu"),
        *("trainer.devices=2", "trainer.max_epochs=6", VAL_LOSS),
        fork="trainer.max_epochs=7",
        kill=15,
        anew=True,
    ),
}

ROWS = {"-".join(each): generated(*each) for each in drawn()} | STAND_INS | SETTINGS


def table():
    """The table of the page."""
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
