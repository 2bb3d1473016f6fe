"""Each kind of strangers' work, by each feature: the same bits, or a line that says so; nothing else.

The expected cells are in `rows.py`, from which the table of docs/exact-matrix.md is written.
"""

import functools
import os
import random
import warnings

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback

from tests.exact.test_fit import trainer_of
from tests.strangers.cells import DIFFERS, Row
from tests.strangers.generated import HELD, LATE, Callback, Data, Module, drawn, hold
from tests.strangers.rows import (
    ANEW,
    ANNOUNCED,
    FEATURES,
    NOT_SEEN,
    PAGE,
    ROWS,
    SAME,
    on_the_page,
    table,
)


def of(*holders):
    found = []
    for holder in holders:
        found.append(next(name for name in ROWS if name.startswith(f"{holder}-")))
    return found


# A way to change bits each, others at night, when `make test-faults` draws from all. Of those that are slow,
# exact/test_fit.py has manual optimization and what is imported from `random` in seconds.
QUICK = of("module", "state_dict", "dataset", "stream", "callback", "closure")
SLOW = (
    *of("sampler", "collate", "installed"),
    "huggingface_stream",
    "splits",
    "persistent_workers",
    "replacing",
    "combined_max_size_cycle",
    "ema",
    "finetuning",
    "accumulation",
    "val_check_interval",
    "manual",
    "from_random",
)
NIGHTLY = (
    *of("layer", "buffer", "in_dict", "in_data_module", "in_callback", "subset", "transform"),
    *of("batch_sampler", "inner_sampler", "class", "optimizer"),
    *(
        "combined_min_size",
        "graph_batches",
        "estimated",
        "metric",
        "epoch_end",
        "saved_arrays",
        "names",
    ),
)
MARKS = dict.fromkeys(SLOW, (pytest.mark.slow,)) | dict.fromkeys(
    NIGHTLY, (pytest.mark.slow, pytest.mark.nightly)
)
NUM_DRAWN = int(os.environ.get("FAULTS_N", "40"))
# The same rows each time, so that what fails fails again; FAULTS_SEED draws others.
DRAWN = random.Random(os.environ.get("FAULTS_SEED", "0")).sample([*ROWS], min(NUM_DRAWN, len(ROWS)))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A function that gives the runs of a row, which its cells share."""
    place = tmp_path_factory.mktemp("rows")
    return functools.cache(lambda name: Row(ROWS[name], place / name))


def held(rows, name, feature, method):
    outcome = rows(name).whole.failed or getattr(rows(name), method)()
    expected = ROWS[name].expected(feature)
    also = {ANEW: (SAME, ANNOUNCED), NOT_SEEN: (DIFFERS, ANNOUNCED)}.get(expected, ())
    assert outcome.kind in (expected, *also), f"{name}, {method}: {outcome.kind}: {outcome.line}"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=MARKS.get(name, ())) for name in (*QUICK, *MARKS)]
)
def test_a_run_that_is_killed_within_an_epoch_ends_in_the_same_bits_or_says_so(rows, name):
    held(rows, name, "resume", "resume")


@pytest.mark.parametrize("name", ["changed_late", "model_pruning"])
def test_what_changed_after_the_best_epoch_is_evaluated_as_it_was_then(rows, name):
    held(rows, name, "evaluate", "evaluate")


# By row, then by feature: the cells of a row share its runs.
@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "feature"), [(name, feature) for name in DRAWN for feature in FEATURES]
)
def test_each_cell_is_the_same_bits_or_says_so(rows, name, feature):
    held(rows, name, feature, "resume_often" if feature == "resume" else feature)


def test_the_page_has_the_table():
    assert on_the_page(PAGE.read_text())[1] == table()


def trained(row, lost_in=None):
    """Return the weights of a row that is trained by Lightning alone, and has lost its value in a step."""
    losing = lambda trainer, *_: hold(HELD.by, *row[1:]) if trainer.global_step == lost_in else None  # noqa: E731
    torch.manual_seed(0)
    name = "-".join(row)
    callbacks = [LambdaCallback(on_train_batch_start=losing)]
    if "callback" in row[0]:
        callbacks.append(Callback(name))
    module = Module(name)
    trainer = trainer_of(*callbacks, max_epochs=3, num_sanity_val_steps=0, deterministic=True)
    trainer.fit(module, Data(name))
    return torch.cat([each.detach().flatten() for each in module.net.parameters()])


# One row of each holder.
@pytest.mark.matrix
@pytest.mark.parametrize("row", {row[0]: row for row in reversed(drawn())}.values(), ids="-".join)
def test_a_value_that_is_lost_changes_bits(row):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = trained(row)
        assert torch.equal(whole, trained(row))
        assert not torch.equal(whole, trained(row, lost_in=LATE + 3))
