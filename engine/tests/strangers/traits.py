"""The traits of strangers' work that could change bits, and what each feature must come to with it.

Run as a module, it writes the table of docs/any-module.md anew.
"""

from typing import NamedTuple

from tests import ENGINE

FEATURES = ("resume", "evaluate", "sweep", "prune", "fork", "reproduce")
SAME, ANNOUNCED, REFUSED = "same bits", "announced", "refused"
PAGE = ENGINE / "docs" / "any-module.md"


class Trait(NamedTuple):
    """A kind of work, by a stand-in for it.

    Args:
        about: As the page calls it.
        module: Its class in `modules.py`, or its name with the file's.
        data: Its class in `data.py`; empty for none.
        more: Overrides; `{place}` is a folder of each run.
        cells: What features come to that don't come to the same bits.
        names: That the announcement must have.
        fork: The setting that its fork changes.
        kill: The batch in which its run is killed: between two checkpoints within an epoch.
        anew: Whether its runs are processes that begin, and not copies of one: then there is no quick test.
    """

    about: str
    module: str = "Plain"
    data: str = "Plain"
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
        data = ("data=own", f"data._target_=tests.strangers.data.{self.data}") if self.data else ("data=module",)
        module = self.module if "." in self.module else f"modules.{self.module}"
        return ("task=own", f"task._target_=tests.strangers.{module}", *data, *self.more)


def callback(name, *more):
    target = name if "." in name else f"tests.strangers.callbacks.{name}"
    return (f"+callbacks.stranger._target_={target}", *(f"+callbacks.stranger.{each}" for each in more))


LIGHTNING = "lightning.pytorch.callbacks"
UNKEPT = {"resume": ANNOUNCED, "fork": ANNOUNCED}
NEVER = dict.fromkeys(FEATURES, REFUSED)
ALL_BUT_LENGTH = (
    "trainer.limit_test_batches=1"  # a fork that changes the number of steps would have another schedule
)
MONITOR = "+callbacks.monitor._target_=leyden.pictures.curves.Monitor"  # it counts samples

TRAITS = {
    # Splits, files and random numbers of data
    "split": Trait("`random_split` without a generator, in `setup`", data="GlobalSplit"),
    "split_by_stage": Trait("a split per stage, made in each `setup(stage)`", data="SplitByStage"),
    "split_in_constructor": Trait("`random_split` in a constructor", data="SplitInConstructor"),
    "split_by_numpy": Trait("splits by the global states of NumPy and Python", data="SplitByNumPy"),
    "split_by_entropy": Trait("splits by NumPy generators without a seed", data="SplitByEntropy"),
    "prepare_data": Trait(
        "`prepare_data` that draws when it makes its file", data="Prepared", more=("+data.folder={place}",)
    ),
    "seed_everything": Trait("`seed_everything` in a data module's `setup`", data="Seeded"),
    # Samplers
    "numpy_sampler": Trait("a sampler with a NumPy generator of its own", data="SampledByNumPy"),
    "python_sampler": Trait("a sampler with a generator of `random`", data="SampledByPython"),
    "in_place_sampler": Trait("a sampler that shuffles its own list", data="SampledInPlace"),
    "counting_sampler": Trait("a sampler that counts its epochs", data="SampledByCount"),
    "set_epoch": Trait("a sampler with `set_epoch`", data="SampledBySetEpoch"),
    "one_by_one": Trait("a sampler that draws each index when it is asked for", data="SampledOneByOne"),
    "pool": Trait("the same from a pool", data="SampledFromPool"),
    "weighted_sampler": Trait("a `WeightedRandomSampler` with a generator", data="SampledByWeights"),
    "batch_sampler": Trait("a batch sampler with a generator of its own", data="SampledInBuckets"),
    "hard_examples": Trait("sampler weights that the module changes by its losses", "Mining", "Mined"),
    "changed_sampler": Trait(
        "a callback that changes the sampler when an epoch starts",
        data="Mined",
        more=callback("Reweighting"),
    ),
    "loader_generator": Trait("a `DataLoader` with a generator", data="Generated"),
    # Data sets
    "numpy_dataset": Trait("a data set with a NumPy generator of its own", data="WithNumPyNoise"),
    "numpy_dataset_workers": Trait(
        "the same in worker processes", data="WithNumPyNoise", more=("+data.num_workers=2",)
    ),
    "transform": Trait("a transform with a generator of `random`", data="WithTransform"),
    "collate": Trait("a `collate_fn` with a NumPy generator (mixup)", data="WithMixup"),
    "cache": Trait("augmented samples in a cache", data="WithCache"),
    "drift": Trait("samples that change when they are read", data="WithDrift"),
    "count": Trait("samples that depend on how many were read", data="WithCount"),
    "count_workers": Trait("the same in worker processes", data="WithCount", more=("+data.num_workers=2",)),
    "curriculum": Trait(
        "a curriculum by `current_epoch`, that the module sets in the data set",
        "ByEpoch",
        "WithCurriculum",
    ),
    "curriculum_callback": Trait("the same by a callback", data="WithCurriculum", more=callback("TellsEpoch")),
    "reload": Trait(
        "data by the epoch, `reload_dataloaders_every_n_epochs`",
        data="Rewritten",
        more=("+trainer.reload_dataloaders_every_n_epochs=1",),
    ),
    "reload_random": Trait(
        "data drawn anew each epoch, `reload_dataloaders_every_n_epochs`",
        data="Redrawn",
        more=("+trainer.reload_dataloaders_every_n_epochs=1",),
    ),
    "pseudo_labels": Trait("targets that the module writes over", "PseudoLabels"),
    "data_state": Trait("a data module with `state_dict`", data="Stateful"),
    "data_without_state": Trait("a data module with a number that changes", data="Unkept"),
    "data_generator": Trait("a data module with a generator", data="Noisy"),
    # Streams and loaders
    "environment": Trait(
        "an `IterableDataset` with an environment", data="FromEnvironment", cells=UNKEPT, names=("position",)
    ),
    "pair": Trait(
        "an `IterableDataset` with attributes that belong together",
        data="FromPair",
        cells=UNKEPT,
        names=("first",),
    ),
    "shuffle_buffer": Trait("an `IterableDataset` with a buffer that is shuffled", data="FromBuffer"),
    "endless": Trait(
        "an `IterableDataset` that goes on from epoch to epoch", data="FromEndless", cells=UNKEPT, names=("source",)
    ),
    "wrapper": Trait(
        "a loader in a wrapper without a state, `checkpoint.every_n_steps`", data="Wrapped", cells=NEVER
    ),
    "wrapper_by_epoch": Trait(
        "the same, saved by the epoch", data="Wrapped", more=("callbacks.checkpoint.every_n_steps=null",)
    ),
    "own_endless": Trait(
        "a loader of one's own over a stream that goes on, saved by the epoch",
        data="OwnEndless",
        more=("callbacks.checkpoint.every_n_steps=null",),
        cells=UNKEPT,
        names=("train_dataloader.stream",),
    ),
    "own_walk": Trait(
        "a loader of one's own with a number and a generator, saved by the epoch",
        data="OwnWalk",
        more=("callbacks.checkpoint.every_n_steps=null",),
    ),
    "wrapped_sampler": Trait(
        "a wrapped loader whose sampler has a generator, saved by the epoch",
        data="WrappedSampler",
        more=("callbacks.checkpoint.every_n_steps=null",),
    ),
    "infinite_loader": Trait("a loader that makes its iterator once", data="Infinite"),
    "workers": Trait("a loader with worker processes", data="Plain", more=("+data.num_workers=2",)),
    "second_loader": Trait(
        "`itertools.cycle` over a second loader in the training step", "SecondLoader", cells=UNKEPT, names=("more",)
    ),
    "second_iterator": Trait(
        "an iterator of a second loader in the training step", "Restarted", cells=UNKEPT, names=("iterator",)
    ),
    "combined_min": Trait("`CombinedLoader`, `min_size`", "Combined", "Combined", ("+data.mode=min_size",)),
    "combined_cycle": Trait(
        "`CombinedLoader`, `max_size_cycle`", "Combined", "Combined", ("+data.mode=max_size_cycle",)
    ),
    "combined_max": Trait("`CombinedLoader`, `max_size`", "Combined", "Combined", ("+data.mode=max_size",)),
    "combined_sequential": Trait(
        "`CombinedLoader`, `sequential`", "Sequential", "Combined", ("+data.mode=sequential",), cells=NEVER
    ),
    "dict_of_loaders": Trait("a dictionary of loaders", "Combined", "Listed"),
    "two_validation": Trait(
        "two loaders of validation",
        "TwoValidation",
        "TwoValidation",
        ("objective.metric=val/loss/dataloader_idx_1",),
    ),
    "two_tests": Trait("two loaders of testing", "TwoTests", "TwoTests"),
    "shuffled_validation": Trait("validation in random order", data="ShuffledValidation"),
    "own_loaders": Trait("a module with its own loaders (`data=module`)", "OwnLoaders", ""),
    "persistent_validation": Trait("the same with `persistent_workers` in validation", "guarded.Persistent", ""),
    "own_loaders_unused": Trait("the same beside other data", "OwnLoaders", cells=NEVER),
    "generates": Trait("an `IterableDataset` that calls a method of the module", "Generates", ""),
    "on_policy": Trait("the same, where the method asks the network", "OnPolicy", "", cells=UNKEPT),
    "own_collate": Trait("a method of the module as `collate_fn`, with a generator", "Collates", ""),
    "encodes": Trait("the same, where the method asks the network", "Encodes", ""),
    "object_batches": Trait(
        "batches that are objects, as graphs", "Batches", "Collated", ("+data.kind=object", MONITOR)
    ),
    "dict_batches": Trait("batches that are dictionaries", "Batches", "Collated", ("+data.kind=dict", MONITOR)),
    "slotted_batches": Trait(
        "batches that are dataclasses with slots", "Batches", "Collated", ("+data.kind=slotted", MONITOR)
    ),
    "list_batches": Trait(
        "batches that are lists of dictionaries", "Batches", "Collated", ("+data.kind=list", MONITOR)
    ),
    "tuple_batches": Trait("batches that are named tuples", "Batches", "Collated", ("+data.kind=pair", MONITOR)),
    # State in attributes
    "file_draws": Trait(
        "a number and a generator that the file draws when it is imported",
        more=("task._target_=tests.strangers.drawn.FileDraws",),
        anew=True,
    ),
    "unseeded": Trait("NumPy generators without a seed", "Unseeded"),
    "hidden": Trait("a hidden state in an attribute, a tensor", "Hidden"),
    "counter": Trait("a counter in an attribute", "Counter"),
    "reward": Trait("a running reward, a float", "Reward"),
    "temperature": Trait("a temperature that falls by the epoch", "Annealed"),
    "drawn_in_constructor": Trait("random features that a constructor draws, no buffer", "Directions"),
    "fitted_at_start": Trait("a tensor that `on_fit_start` works out of the data", "FittedAtStart"),
    "changed_late": Trait(
        "attributes that change, or come, after the best epoch", "ChangedLate", more=("objective.mode=min",)
    ),
    "order": Trait("a tensor that is drawn when an epoch starts", "Order"),
    "replay": Trait("a replay buffer, a deque of tensors", "Replay"),
    "replay_objects": Trait("a replay buffer of objects", "ReplayOfObjects", cells=UNKEPT, names=("buffer",)),
    "from_random": Trait("`from random import shuffle` in its file", "imported.FromRandom"),
    "partial": Trait("a `functools.partial` whose arguments change", "guarded.Partial"),
    "data_writes": Trait("a tensor that is written by `.data`", "guarded.Writes"),
    "structured": Trait("a structured array", "guarded.Records", cells=UNKEPT, names=("records",)),
    "queue": Trait("a `queue.Queue`", "guarded.Queue", cells=UNKEPT, names=("waiting",)),
    "unusual_tensors": Trait("sparse, nested and inference tensors that do not change", "guarded.Unusual"),
    "r2_score": Trait("a metric whose state changes its shape, as `R2Score`", "guarded.R2"),
    "world": Trait("an environment in an attribute", "Agent"),
    "dqn": Trait("DQN: environment, replay buffer, epsilon", "DQN"),
    "module_numpy": Trait("a module with a NumPy generator", "NumPyGenerator"),
    "module_torch": Trait("a module with a `torch.Generator`", "TorchGenerator"),
    "module_python": Trait("a module with a `random.Random`", "PythonGenerator"),
    "set": Trait("a Python set in an attribute", "Seen"),
    "memory": Trait("a dictionary of arrays", "Memory"),
    "buffer": Trait("a buffer with `persistent=False`", "Buffer"),
    "class_attribute": Trait("a number of the class", "Tried"),
    "global": Trait("a variable of the file", "Global"),
    "closure": Trait("a state in a closure", "Closed", cells=UNKEPT, names=("next",)),
    "hook": Trait("a forward hook that gathers in a list", "Hooked"),
    "layer": Trait("a number in a layer", "InALayer"),
    "loss_object": Trait("a number in a loss that is no module", "InALoss"),
    "dropout": Trait("a probability of dropout that falls", "FadingDropout"),
    "initialised": Trait("weights that are set from the first batch, by a flag", "Initialised"),
    "train_start": Trait("weights that are set in `on_train_start`", "ByHook", cells=UNKEPT),
    "reseeding": Trait("`seed_everything` in `on_train_start`", "Reseeding"),
    "epoch_lists": Trait("outputs of an epoch in a list", "EpochLists"),
    "epoch_sums": Trait(
        "sums of an epoch in plain numbers",
        "Sums",
        more=("objective.metric=train/mean",),
        cells={"prune": REFUSED},  # it needs a metric of validation
    ),
    "plain_metrics": Trait(
        "metrics of torchmetrics in a plain dictionary",
        "PlainMetrics",
        more=("objective.metric=train/mean",),
        cells={"prune": REFUSED},
    ),
    "global_numbers": Trait("the global random states in the training step", "Numbers"),
    # Copies of weights, and what is trained
    "ema_list": Trait("an average of weights in a list", "EMAInAList"),
    "ema_dict": Trait("an average of weights in a dictionary of tensors", "EMAInADict"),
    "averaged_model": Trait("an `AveragedModel` of PyTorch", "Averaged"),
    "self_supervised": Trait("a momentum encoder and a queue", "Momentum"),
    "best_weights": Trait("the best weights in an attribute", "Best"),
    "finetuning": Trait("`BaseFinetuning` by milestones", more=callback("Milestones")),
    "unfreezing": Trait("`requires_grad` by a hook of its own", "Unfreezing"),
    "modes": Trait("layers that are set to `eval()` by the epoch", "Modes"),
    "validation_dropout": Trait("dropout in validation", "DropoutInValidation"),
    "denoising": Trait("random numbers in testing, as diffusion models have", "Denoising"),
    "default_dtype": Trait("`torch.set_default_dtype` in a constructor", "Double"),
    "growing": Trait(
        "a network that grows", "Growing", cells={"resume": REFUSED, "evaluate": REFUSED, "fork": REFUSED}
    ),
    "pruned": Trait(
        "weights that are pruned (`torch.nn.utils.prune`)",
        "Pruned",
        cells={"resume": REFUSED, "evaluate": REFUSED, "fork": REFUSED},
    ),
    "lazy": Trait("lazy layers", "Lazy"),
    "configure_model": Trait("a network that is made in `configure_model`", "Configured"),
    "setup": Trait(
        "a network that is made in `setup`", "MadeInSetup", cells={"evaluate": REFUSED, "fork": REFUSED}
    ),
    "own_lambda": Trait(
        "a `LambdaLR` whose function is a method of itself", "WithOwnSchedule", fork=ALL_BUT_LENGTH
    ),
    "item": Trait("`.item()` in a constructor", "Item"),
    "compiled": Trait("`torch.compile` in a constructor", "Compiled"),
    "spectral": Trait("a spectral norm", "Spectral"),
    "batch_norm": Trait(
        "a batch norm, by gradients of several batches", "BatchNorm", more=("trainer.accumulate_grad_batches=3",)
    ),
    "lstm": Trait("an LSTM with dropout", "Recurrent"),
    # Optimizers and schedules
    "estimated": Trait("`trainer.estimated_stepping_batches`", "Stepping", fork=ALL_BUT_LENGTH),
    "loader_length": Trait("a schedule that asks for the loaders", "LoaderLength"),
    "per_epoch": Trait("a schedule per epoch", "PerEpoch"),
    "plateau": Trait("a schedule that follows a metric", "Plateau"),
    "engine_schedule": Trait(
        "`scheduler=cosine`, stepped per epoch", "FromEngine", more=("scheduler=cosine",), fork=ALL_BUT_LENGTH
    ),
    "chained": Trait("schedules in sequence, every second step", "Chained"),
    "random_schedule": Trait("a schedule with a generator in a function", "RandomSchedule", cells=UNKEPT),
    "rate_by_hand": Trait("a learning rate that is set by hand", "ByHand"),
    "groups": Trait("groups of parameters that are added", "Groups", cells={"resume": REFUSED, "fork": REFUSED}),
    "lbfgs": Trait("L-BFGS", "LBFGS"),
    "optimizer_state": Trait(
        "an optimizer with a state outside of `state_dict`", "HomemadeOptimizer", cells=UNKEPT, names=("slow",)
    ),
    "auto_clip": Trait("gradients clipped by a list of norms", "AutoClip"),
    "accumulation": Trait(
        "accumulated gradients with a last step of fewer", more=("trainer.accumulate_grad_batches=3",)
    ),
    "bf16": Trait("`precision=bf16-mixed`", more=("trainer.precision=bf16-mixed",)),
    "three_optimizers": Trait("three optimizers by hand", "ThreeOptimizers"),
    "hand_schedules": Trait("optimizer and schedule by hand, each three batches", "HandSchedules"),
    "pending": Trait("gradients that are under way at a checkpoint", "Pending"),
    "gan": Trait("a GAN with pictures to `logger.experiment`", "GAN"),
    # Steps, names and intervals
    "skipping": Trait("training steps that return nothing", "Skipping"),
    "cut_short": Trait(
        "an epoch that ends early (`on_train_batch_start`)",
        "CutShort",
        more=("objective=null", "trainer.max_epochs=4"),  # it is not validated
        cells={"prune": REFUSED},
        fork="trainer.max_epochs=5",
    ),
    "iterator": Trait("a training step that takes `dataloader_iter`", "FromIterator"),
    "names": Trait("`val_loss`, `test_loss`", "Names", more=("objective.metric=val_loss",)),
    "val_check_interval": Trait(
        "`val_check_interval` that divides the epoch", more=("+trainer.val_check_interval=4",)
    ),
    "val_check_names": Trait(
        "the same and `val_loss`", "Names", more=("+trainer.val_check_interval=4", "objective.metric=val_loss")
    ),
    "val_check_within": Trait(
        "`val_check_interval` that does not: no validation at the end of an epoch",
        more=("+trainer.val_check_interval=3",),
        cells=NEVER,
    ),
    "val_check_within_names": Trait(
        "the same and `val_loss`",
        "Names",
        more=("+trainer.val_check_interval=3", "objective.metric=val_loss"),
        cells=NEVER,
    ),
    "every_second_epoch": Trait(
        "`check_val_every_n_epoch=2`",
        more=("+trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4"),
        fork="trainer.max_epochs=6",
    ),
    # What is saved
    "hparams_network": Trait(
        "`save_hyperparameters()` with a network",
        "WithNetwork",
        more=("+task.encoder={_target_: torch.nn.Linear, in_features: 4, out_features: 8}",),
    ),
    "hparams": Trait("`save_hyperparameters()` with numbers", "WithNames", more=("+task.width=6",)),
    "hparams_path": Trait("`save_hyperparameters()` with a path and an `Enum`", "WithPath"),
    "saved_arrays": Trait("`on_save_checkpoint` with an array", "Arrays"),
    "saved_objects": Trait("`on_save_checkpoint` with an object", "Objects", cells=NEVER),
    "extra_state": Trait("`get_extra_state`", "ExtraState"),
    # Callbacks
    "ema_callback": Trait("a callback with an average of weights", more=callback("EMA")),
    "ema_callback_state": Trait("the same with `state_dict`", more=callback("EMAWithState")),
    "warmup_callback": Trait("a callback that counts steps", more=callback("Warmup")),
    "noise_callback": Trait("a callback with a generator", more=callback("Noise")),
    "callback_arrays": Trait("a callback whose `state_dict` has an array", more=callback("Norms")),
    "watching": Trait("a callback that only watches", more=callback("Watching")),
    "swa": Trait(
        "`StochasticWeightAveraging`",
        more=callback(f"{LIGHTNING}.StochasticWeightAveraging", "swa_lrs=0.01", "swa_epoch_start=1"),
        cells=NEVER,
    ),
    "averaging": Trait("the engine's own average of weights", more=("+callbacks/averaging=ema",)),
    "accumulation_schedule": Trait(
        "`GradientAccumulationScheduler`",
        more=callback(f"{LIGHTNING}.GradientAccumulationScheduler", "scheduling={0: 1, 1: 2}"),
    ),
    "early_stopping": Trait(
        "`EarlyStopping`",
        more=callback(f"{LIGHTNING}.EarlyStopping", "monitor=val/loss", "patience=1", "min_delta=10.0"),
    ),
    "model_checkpoint": Trait(
        "`ModelCheckpoint`", more=callback(f"{LIGHTNING}.ModelCheckpoint", "monitor=val/loss", "save_top_k=1")
    ),
    "model_pruning": Trait(
        "`ModelPruning`",
        more=callback(f"{LIGHTNING}.ModelPruning", "pruning_fn=l1_unstructured", "amount=0.1"),
        cells=UNKEPT,
        names=("weight_mask",),
    ),
    "rate_finder": Trait(
        "`LearningRateFinder`",
        "Rated",
        more=callback(f"{LIGHTNING}.LearningRateFinder", "num_training_steps=5"),
        cells=NEVER,
    ),
    "two_processes": Trait(
        "two processes",  # of four batches each
        "Synced",
        more=("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_epochs=6"),
        fork="trainer.max_epochs=7",
        kill=15,
        anew=True,
    ),
}


def table():
    """The table of the page."""
    lines = [f"| your work has | {' | '.join(FEATURES)} |", f"|{'---|' * (len(FEATURES) + 1)}"]
    for trait in TRAITS.values():
        lines.append(f"| {trait.about} | {' | '.join(trait.expected(feature) for feature in FEATURES)} |")
    return "\n".join(lines) + "\n"


def on_the_page(text):
    """The table that a page has, and the text around it."""
    before, begin, rest = text.partition("| your work has |")
    rows, end, after = (begin + rest).partition("\n\n")
    return before, rows + "\n", end[1:] + after


if __name__ == "__main__":
    before, _, after = on_the_page(PAGE.read_text())
    PAGE.write_text(before + table() + after)
