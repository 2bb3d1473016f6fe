"""The jobs of a sweep: composed as Hydra does, and in directories whose names are readable, and of one job alone."""

import dataclasses
import json
import re

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf, open_dict

from leyden.config.hydra import composing
from leyden.sweep.jobs import Composer, JobNames
from leyden.sweep.sweep import Sweep
from leyden.sweep.work import command_of_job, run_job
from tests.composed import Loader

CHOICES = {
    "seed": ["seed=1", "seed=2", "++seed=3"],
    "model": ["model=mlp", "model=cnn"],
    "model.dropout": ["model.dropout=0.5", "~model.dropout"],
    "+model.depth": ["+model.depth=3", "+model.depth={a: 1}", "+model={depth: 2}"],
    "optimizer": ["optimizer=sgd", "optimizer=adam"],
    "optimizer.lr": ["optimizer.lr=0.1", "optimizer.lr='0.2'"],
    "scheduler": ["scheduler=cosine", "~scheduler"],
    "experiment": ["experiment=cnn", "experiment=kfold"],
    "pruning": ["+callbacks/pruning=median"],
    "callbacks": ["~callbacks.errors", "callbacks.samples={num_images: 3}", "callbacks=bare"],
    "augment": ["data/augment=shift", "data.augment=null"],
    "wrong": [
        "optimizer.lrr=1",
        "model=nothing",
        "+seed=1",
        "~model.nothing",
        "seed=x",
        "seed@a=1",
    ],
    "cluster": ["cluster.num_jobs=2"],
}


@pytest.fixture(scope="module")
def composer():
    with composing():
        loader = Loader(GlobalHydra.instance().config_loader().get_search_path())  # Hydra's own
        overrides = ["seed=1,2", "hydra.job.name=x"]
        yield Composer(
            loader, loader.load_configuration("train", overrides, run_mode=RunMode.MULTIRUN)
        )


def composed(compose, *arguments):
    try:
        config = compose(*arguments)
    except HydraException as error:
        return type(error), str(error)
    with open_dict(config.hydra):
        config.hydra.job.override_dirname = "???"
    return OmegaConf.to_yaml(config), config.hydra.overrides, OmegaConf.is_struct(config)


@pytest.mark.slow(minutes=0.1)
@settings(max_examples=15)
@given(st.data())
def test_it_composes_as_hydra_does(composer, data):
    keys = data.draw(st.lists(st.sampled_from([*CHOICES]), max_size=5))
    overrides = [data.draw(st.sampled_from(CHOICES[key])) for key in keys]
    theirs = composed(composer.loader.load_sweep_config, composer.config, overrides)
    assert composed(composer.compose, overrides) == theirs


def test_files_are_read_once_per_choice_of_groups_and_a_job_composes_the_same_each_time(
    composer, monkeypatch
):
    sweep = Sweep(composer.config, launcher=None)
    read = []
    loader = composer.loader
    sweep.composer = Composer(loader, composer.config)
    load = loader.load_sweep_config

    def reading(master, overrides):
        read.append(overrides)
        return load(master, overrides)

    monkeypatch.setattr(loader, "load_sweep_config", reading)
    batch = []
    for seed in range(0, 20, 2):
        batch += [["model=mlp", f"seed={seed}"], ["model=cnn", f"seed={seed + 1}"]]
    for seed, job in enumerate(sweep.new_jobs(batch, first=3)):
        config = job.compose()
        assert config.seed == seed
        assert config.hydra.job.num == seed + 3
        assert config.hydra.overrides.task == batch[seed]
        assert job.identity().config == job.identity().config
    assert read == [["model=mlp"], ["model=cnn"]]
    (job,) = sweep.new_jobs([["seed=7", "hydra.verbose=true"]])
    assert job.overrides == ["seed=7"]


def test_another_process_gets_values_and_a_node_neither_downloads_nor_begins_anew(composer):
    typed = ["data.eval_batch_size=${data.batch_size}", "data.download=true"]
    for resume, on_node in (("never", "auto"), ("changed", "changed")):
        (job,) = Sweep(composer.config, launcher=None).new_jobs([[*typed, f"resume={resume}"]])
        here = job.work("leyden.train", on_node=False).arguments[1]
        there = job.work("leyden.train", on_node=True).arguments[1]
        assert OmegaConf.to_container(here)["data"]["eval_batch_size"] == here.data.batch_size
        assert here.resume == resume
        assert here.data.download is True
        assert there.resume == on_node
        assert there.data.download is False
    (job,) = Sweep(composer.config, launcher=None).new_jobs([["trainer.devices=2"]])
    several = [job.work("leyden.train", is_each_started=each).function for each in (True, False)]
    assert several == [run_job, command_of_job]


SHARED = ["model=cnn", "trainer.max_epochs=3"]
VARYING = JobNames.of(
    SHARED, ["optimizer.lr", "seed", "model.width", "callbacks/pruning", "data.name"]
)
OF_SWEEP = [
    ([*SHARED, "+model.width=3"], "+width-3"),
    ([*SHARED, "callbacks/pruning=median", "data.name=x"], "pruning-median_data.name-x"),
    (SHARED, "defaults"),
    (
        [*SHARED, "seed=1", "sweep_name=x", "cluster.num_jobs=2", "data.root=/x", "sweep=tpe"],
        "seed-1",
    ),
    # what a later start of the sweep adds or changes
    ([*SHARED, "optimizer.rho=0.5", "seed=1"], "optimizer.rho-0.5_seed-1"),
    (["model=mlp", "trainer.max_epochs=3", "seed=1"], "model-mlp_seed-1-[0-9a-f]{8}"),
    (["model=cnn", "seed=1"], "seed-1-[0-9a-f]{8}"),
    ([*SHARED, "optimizer.lr=0.1", "++lr=0.1"], "++lr-0.1_lr-0.1-[0-9a-f]{8}"),
]


def test_names_of_a_sweep_are_of_what_varies_and_are_kept_with_it(tmp_path):
    for overrides, name in OF_SWEEP:
        found = VARYING.name(overrides)
        assert re.fullmatch(name.replace("+", "[+]"), found), found
    assert JobNames.read(tmp_path) is None
    for kept, read in ((dataclasses.asdict(VARYING), VARYING), ({"shared": 1, "short": {}}, None)):
        (tmp_path / "sweep.json").write_text(json.dumps({"format": 1, "names": kept}))
        assert JobNames.read(tmp_path) == read


def test_another_number_of_threads_than_before_is_a_line(composer, tmp_path, capsys):
    sweep = Sweep(composer.config, launcher=None)
    sweep.directory = tmp_path
    for before, here, told in (
        ({}, 2, False),
        ({"threads": 1}, None, False),
        ({"threads": 1}, 2, True),
    ):
        (tmp_path / "sweep.json").write_text(json.dumps({"format": 1, **before}))
        sweep._warn_of_threads(here)
        assert ("jobs so far had 1 threads each, these have 2" in capsys.readouterr().err) is told


KEYS = [
    "seed",
    "model",
    "model.a",
    "model.a_seed",
    "model._target_",
    "+model.a",
    "++model.a",
    "~model.a",
    "data/augment",
    "data@model",
    "my-key.a_b",
    "optimizer.betas",
    "model.a_optimizer",
]
LEAVES = st.sampled_from(["1", "-1", "1.5", "1e-05", "seed", "model", "a_b", "null", "true", "''"])
LEAVES |= st.text("ab1-_. ,=[]{}'", max_size=6).map(
    lambda text: "'" + text.replace("'", "\\'") + "'"
)
LEAVES |= st.text("ab1-_.+:|@?", min_size=1, max_size=8)
VALUE = LEAVES | st.lists(LEAVES, max_size=3).map(lambda values: f"[{','.join(values)}]")
VALUE |= LEAVES.map("{{a:{},b:1}}".format)
OVERRIDE = st.tuples(st.sampled_from(KEYS), VALUE).map("=".join)


@given(st.lists(OVERRIDE, max_size=3), st.lists(OVERRIDE, max_size=3))
@example(["model.a=1"], ["model.a=[1]"])
@example([f"model.a={'a' * 130}"], [f"model.a={'a' * 131}"])
@example(["model.a=1-12345678"], ["model.a=[1,12345678]"])
@example(["model.a=x_seed-1"], ["model.a=x", "seed=1"])
@example(["optimizer.betas=0.0016571640914381709"], ["optimizer.betas=0.001657"])
@example(["+model.a=1", "model.a=2"], ["model.a=2", "+model.a=1"])
@example(["seed=1", "model=x"], ["model=x", "seed=1"])
def test_no_two_lists_of_real_overrides_share_a_name(first, second):
    try:
        parsed = [
            OverridesParser.create().parse_overrides(overrides) for overrides in (first, second)
        ]
    except HydraException:
        assume(False)
    lines = []
    for overrides in parsed:
        overrides.sort(key=lambda override: override.key_or_group)
        lines.append([override.input_line for override in overrides])
    same = lines[0] == lines[1]
    for names in (
        JobNames(),
        JobNames.of(["seed=1"], ["model.a", "optimizer.betas", "data/augment", "seed"]),
    ):
        assert (names.name(first) == names.name(second)) is same
        assert not {"=", "/"} & {*names.name(first)}
        assert len(names.name(first)) <= 60
