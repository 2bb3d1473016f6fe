"""Each trait of strangers' work, by each feature: the same bits, or a line that says so; nothing else.

The expected cells are in `traits.py`, from which the table of docs/any-module.md is written.
"""

import functools
import os
import random
import shutil

import pytest

from leyden.config.paths import ROOT
from tests.reproduction.conftest import git
from tests.strangers.cells import Row
from tests.strangers.today import TODAY
from tests.strangers.traits import FEATURES, PAGE, TRAITS, on_the_page, table

# What people bring first: a way to change bits each in the fast suite, the others in the slow one; all else is drawn by
# `make test-faults`.
QUICK = ("numpy_sampler", "environment", "own_loaders", "plateau", "three_optimizers", "dqn", "gan", "saved_arrays")
QUICK += ("from_random", "data_writes")
SLOW = (
    *(
        "split",
        "numpy_dataset",
        "dict_batches",
        "object_batches",
        "list_batches",
    ),
    *(
        "two_validation",
        "combined_min",
        "combined_cycle",
        "estimated",
        "per_epoch",
        "accumulation",
    ),
    *("hidden", "replay", "class_attribute", "closure", "averaged_model", "finetuning", "item"),
    *("partial", "structured", "queue", "unusual_tensors", "r2_score", "persistent_validation"),
    *("names", "val_check_interval", "hparams_network", "ema_callback"),
)
NUM_DRAWN = int(os.environ.get("FAULTS_N", "40"))
# The same rows each time, so that what fails fails again; FAULTS_SEED draws others.
DRAWN = random.Random(os.environ.get("FAULTS_SEED", "0")).sample([*TRAITS], min(NUM_DRAWN, len(TRAITS)))


@pytest.fixture(scope="session")
def commit(tmp_path_factory):
    """A function that gives a repository of this code with the stand-ins, and its commit."""

    @functools.cache
    def made():
        folder = tmp_path_factory.mktemp("repository")
        for name in ("src", "conf", "engine/src", "engine/tests/strangers"):
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        (folder / "engine" / "tests" / "__init__.py").touch()
        (folder / "constraints.txt").write_text("numpy==1.0\n")
        for name in (".", "engine"):
            (folder / name / "pyproject.toml").write_text("[project]\nname = 'x'\n")
        git(folder, "init", "-q")
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", "first")
        return folder, git(folder, "rev-parse", "HEAD")

    return made


@pytest.fixture(scope="module")
def rows(tmp_path_factory, commit):
    """A function that gives the row of a trait, whose cells share runs."""
    place = tmp_path_factory.mktemp("rows")
    return functools.cache(lambda name: Row(TRAITS[name], place / name, commit))


def held(request, rows, name, feature, method):
    """Make sure that a cell comes to what it must come to."""
    if (name, feature) in TODAY:
        request.applymarker(pytest.mark.xfail(strict=False, reason=TODAY[name, feature]))
    outcome = getattr(rows(name), method)()
    assert outcome.kind == TRAITS[name].expected(feature), f"{name}, {method}: {outcome.kind}: {outcome.line}"


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_run_that_is_killed_within_an_epoch_ends_in_the_same_bits_or_says_so(request, rows, name):
    held(request, rows, name, "resume", "resume")


# By trait, then by feature: the cells of a row share its runs.
@pytest.mark.faults
@pytest.mark.parametrize(("name", "feature"), [(name, feature) for name in DRAWN for feature in FEATURES])
def test_each_cell_is_the_same_bits_or_says_so(request, rows, name, feature):
    held(request, rows, name, feature, "resume_often" if feature == "resume" else feature)


def test_the_page_has_the_table():
    assert on_the_page(PAGE.read_text())[1] == table()


def test_what_fails_today_is_a_cell():
    assert {*TODAY} <= {(name, feature) for name in TRAITS for feature in FEATURES}
