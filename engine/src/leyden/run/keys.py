"""The keys of a configuration, and what each means to bits, starts, forks and reports.

A key has the roles of the last pattern in `KEYS` that fits it or a part that contains it.
`docs/keys.md` is written from this table and from `conf/run_defaults.yaml`, by `scripts/keys.py`.
"""

import enum
import functools
import re


class Role(enum.Flag):
    """A meaning of a key; a key has several."""

    BITS = enum.auto()  # can change weights or metrics, so that another value makes another run
    NAMED = enum.auto()  # is a setting that names a job and shows in reports, if it is typed
    RECORDED = enum.auto()  # is in the run's record
    RESUMED = enum.auto()  # is repeated, as typed, when the run is resumed by its directory
    FORKED = enum.auto()  # is repeated, as typed, in a fork
    PATH = enum.auto()  # is a path, relative to the folder of the start
    NOTE = enum.auto()  # is the user's words, kept when the run is resumed
    SAMPLES = enum.auto()  # decides on which samples and targets metrics are computed
    TEST_SET = enum.auto()  # decides which test set the run is evaluated on
    EPOCH = (
        enum.auto()
    )  # decides the batches and steps of an epoch, so no fork within one changes it
    PARENT = enum.auto()  # is the parent's in a fork: its splits, and the state of its parts
    LIMIT = enum.auto()  # limits batches: 1 is one batch, and 1.0 all of them
    EVALUATED = enum.auto()  # is a setting of the trainer that an evaluation takes from the run


SETTING = Role.BITS | Role.NAMED | Role.RECORDED | Role.RESUMED | Role.FORKED
SHOWN = SETTING & ~Role.BITS  # names, logs and displays
LAUNCH = SHOWN & ~Role.NAMED  # where and how a start reads and writes
START = Role(0)  # of one start alone

DATA = SETTING | Role.SAMPLES | Role.EPOCH
SPLITS = DATA | Role.PARENT  # a sample that the parent was trained on would be validated on
INPUTS = SETTING | Role.EPOCH  # inputs and batches, but neither samples nor targets

# `*` stands for any part of a key or of a name, `**` for any parts or none.
KEYS = {
    # the root
    "name": SHOWN,
    "note": Role.RECORDED | Role.NOTE,
    "tags": Role.RECORDED | Role.NOTE,
    "seed": SETTING | Role.EPOCH,
    "init_from": SETTING | Role.PATH | Role.PARENT,
    "init_exclude": SETTING | Role.PARENT,
    "fork": (SETTING | Role.PATH) & ~Role.FORKED,
    "freeze": SETTING | Role.PARENT,
    "objective": SETTING,
    "compile": SETTING,
    "test": Role.RESUMED | Role.FORKED,
    "resume": START,
    "exact": Role.RESUMED,
    "outputs": Role.RESUMED | Role.PATH,
    "run_dir": START,
    "sweep_name": START,
    "sweep": START,
    "picture_format": LAUNCH,
    "dry_run": START,
    "trust": START,
    # the groups
    "cluster": START,
    "logger": SHOWN,
    "model": SETTING,
    "task": SETTING,
    "scheduler": SETTING,
    "optimizer": SETTING,
    "optimizer._target_": SETTING | Role.PARENT,
    "callbacks": SETTING,  # but those of `is_display`; a fork may add some
    "callbacks.averaging": SETTING | Role.PARENT,
    "trainer": SETTING,
    "trainer.log_every_n_steps": SHOWN,
    "trainer.profiler": SHOWN,
    "trainer.enable_progress_bar": SHOWN,
    "trainer.enable_model_summary": SHOWN,
    "trainer.accumulate_grad_batches": SETTING | Role.EPOCH,
    "trainer.limit_*_batches": SETTING | Role.LIMIT,
    "trainer.val_check_interval": SETTING | Role.LIMIT,
    "trainer.limit_train_batches": SETTING | Role.LIMIT | Role.EPOCH,
    "trainer.limit_val_batches": SETTING | Role.LIMIT | Role.SAMPLES,
    "trainer.overfit_batches": SETTING | Role.LIMIT | Role.SAMPLES | Role.EPOCH,
    "trainer.limit_test_batches": SETTING | Role.LIMIT | Role.EVALUATED,
    "trainer.precision": SETTING | Role.EVALUATED,
    "trainer.deterministic": SETTING | Role.EVALUATED,
    # the data
    "data": DATA,
    "data._target_": DATA | Role.TEST_SET,
    "data.train*": DATA | Role.TEST_SET,
    "data.test*": DATA | Role.TEST_SET,
    "data.dataset": DATA | Role.TEST_SET,
    "data.dataset.split": SPLITS | Role.TEST_SET,
    "data.dataset.gap": SPLITS | Role.TEST_SET,
    "data.dataset.group": SPLITS | Role.TEST_SET,
    "data.dataset.test_size": SPLITS | Role.TEST_SET,
    "data.dataset.test_file": SPLITS | Role.TEST_SET,
    "data.val_size": SPLITS,
    "data.num_folds": SPLITS,
    "data.fold": SPLITS,
    "data.split_seed": SPLITS,
    "data.group": SPLITS,
    "data.groups": SPLITS,
    "data.overlap": SPLITS,
    "data.**.batch_size": INPUTS,
    "data.**.eval_batch_size": INPUTS,
    "data.**.shuffle": INPUTS,
    "data.**.pin_memory": INPUTS,
    "data.**.prefetch_factor": INPUTS,
    "data.**.persistent_workers": INPUTS,
    "data.**.num_workers": INPUTS,
    "data.**.augment": INPUTS,
    "data.**.normalize": INPUTS,
    "data.**.image_size": INPUTS,
    "data.**.channels": INPUTS,
    "data.**.inputs": INPUTS,
    "data.**.categories": INPUTS,
    "data.num_workers": LAUNCH,
    "data.download": LAUNCH,
    "data.root": LAUNCH | Role.PATH | Role.TEST_SET,
}
# Where an elastic run's processes are; what they compute is the same.
PLACES = ("trainer.devices", "trainer.num_nodes")
NOTES = tuple(key for key, roles in KEYS.items() if Role.NOTE in roles)

# Callbacks that never change weights or metrics, by their class paths.
DISPLAYS = (
    "leyden.callbacks.Fingerprints",
    "leyden.callbacks.Progress",
    "leyden.callbacks.RunCheckpoint",
    "leyden.callbacks.Summary",
    "leyden.callbacks.checkpoint.*",
    "leyden.callbacks.display.*",
    "leyden.pictures.*",
    "lightning.pytorch.callbacks.**.DeviceStatsMonitor",
    "lightning.pytorch.callbacks.**.LearningRateMonitor",
    "lightning.pytorch.callbacks.**.ModelSummary",
    "lightning.pytorch.callbacks.**.RichModelSummary",
    "lightning.pytorch.callbacks.**.RichProgressBar",
    "lightning.pytorch.callbacks.**.TQDMProgressBar",
)


def _expression(pattern: str) -> str:
    """Return the regular expression of a dotted pattern."""
    escaped = re.escape(pattern)
    return escaped.replace(r"\*\*\.", r"(?:[^.]+\.)*").replace(r"\*", "[^.]*")


# What a fitting pattern is followed by: the end of the key, or the rest of a key inside of the
# part.
REST = r"(?:\..*)?"
ROWS = [(re.compile(_expression(key) + REST, re.DOTALL), roles) for key, roles in KEYS.items()]
DISPLAY = re.compile("|".join(map(_expression, DISPLAYS)))


@functools.cache  # thousands of runs have the same keys
def roles_of(key: str) -> Role:
    """Return the roles of a dotted key.

    A project's own root key, which is not in the table, changes bits.

    Example:
        >>> roles_of("data.dataset.normalize") == INPUTS
        True
    """
    for pattern, roles in reversed(ROWS):
        if pattern.fullmatch(key):
            return roles
    return SETTING


@functools.cache
def has(key: str, role: Role) -> bool:
    """Return whether a dotted key has a role.

    Example:
        >>> has("optimizer.lr", Role.BITS), has("data.num_workers", Role.BITS)
        (True, False)
    """
    return role in roles_of(key)


@functools.cache
def is_display(class_path: str) -> bool:
    """Return whether a class is a callback that never changes weights or metrics."""
    return DISPLAY.fullmatch(class_path) is not None
