import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf, open_dict

from leyden.config.hydra import composing
from leyden.sweep.jobs import Composer
from leyden.sweep.sweep import Sweep
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
    "wrong": ["optimizer.lrr=1", "model=nothing", "+seed=1", "~model.nothing", "seed=x", "seed@a=1"],
    "cluster": ["cluster.num_jobs=2"],
}


@pytest.fixture(scope="module")
def composer():
    with composing():
        loader = Loader(GlobalHydra.instance().config_loader().get_search_path())  # Hydra's own
        overrides = ["seed=1,2", "hydra.job.name=x"]
        yield Composer(loader, loader.load_configuration("train", overrides, run_mode=RunMode.MULTIRUN))


def composed(compose):
    try:
        config = compose()
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
    theirs = composed(lambda: composer.loader.load_sweep_config(composer.config, overrides))
    assert composed(lambda: composer.compose(overrides)) == theirs


def test_files_are_read_once_per_choice_of_groups_and_a_job_composes_the_same_each_time(composer, monkeypatch):
    sweep, read, original = Sweep(composer.config, launcher=None), [], type(composer.loader).load_sweep_config
    sweep.composer = Composer(composer.loader, composer.config)
    monkeypatch.setattr(
        type(composer.loader), "load_sweep_config", lambda *given: read.append(given[2]) or original(*given)
    )
    batch = [[f"model={('mlp', 'cnn')[seed % 2]}", f"seed={seed}"] for seed in range(20)]
    for seed, job in enumerate(sweep.new_jobs(batch, first=3)):
        config = job.compose()
        assert (config.seed, config.hydra.job.num, config.hydra.overrides.task) == (seed, seed + 3, batch[seed])
        assert job.identity().config == job.identity().config
    assert read == [["model=mlp"], ["model=cnn"]]
    (job,) = sweep.new_jobs([["seed=7", "hydra.verbose=true"]])
    assert job.overrides == ["seed=7"]


def test_another_process_gets_values_and_a_node_neither_downloads_nor_begins_anew(composer):
    typed = ["data.eval_batch_size=${data.batch_size}", "data.download=true"]
    for resume, on_node in (("never", "auto"), ("changed", "changed")):
        (job,) = Sweep(composer.config, launcher=None).new_jobs([[*typed, f"resume={resume}"]])
        here, there = job.call("leyden.train").config, job.call("leyden.train", on_node=True).config
        assert OmegaConf.to_container(here)["data"]["eval_batch_size"] == here.data.batch_size
        assert (here.resume, here.data.download) == (resume, True)
        assert (there.resume, there.data.download) == (on_node, False)
