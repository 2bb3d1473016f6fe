"""Whatever is typed either trains, or is refused in a line or two: never a traceback, never a hang."""

import functools
import importlib.metadata
import resource
import shutil

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from leyden.base.paths import conf_files
from leyden.config.values import flatten
from tests import conf
from tests.example import OWN
from tests.faults.commands import call, is_clean, within

pytestmark = pytest.mark.faults

BASE = ("trainer.max_steps=2", "trainer.max_epochs=1", "objective=null", "model.hidden_sizes=[4]")
# What would start other processes, or jobs: those have tests of their own.
ELSEWHERE = ("cluster", "sweep", "hydra")
MANY = {"trainer.devices", "trainer.num_nodes", "trainer.strategy"}
FEW = ["x", "0", "-2", "null", "[]", "1.5", "''", "{a:1}", "ddp_spawn", "nan"]
ODD = r"""
    null true false 0 1 -1 2 0.5 -0.1 1.5 1e9 nan inf -inf '' x auto
    [] [0] [1,2] [x] [null] [[1]] {a:1} {} a/b ../x ü a'b a#b (x) a=b
    1,2 ${x} ${seed} ${oc.env:HOME} ??? 99999999999999999999 0x10 1_0 1e-400 \
    os.system torch.nn.ReLU builtins.dict {_target_:builtins.dict} min warn
"""
ANYHOW = {"database": None, "suppress_health_check": list(HealthCheck)}
VALUES = [*ODD.split(), f"{OWN}.models.mlp.MLP", "'a b'", "", "\x1b[31m", "\n"]
OPTIONS = """
    max_steps max_time overfit_batches fast_dev_run val_check_interval check_val_every_n_epoch min_epochs min_steps
    gradient_clip_algorithm profiler detect_anomaly benchmark inference_mode num_sanity_val_steps enable_progress_bar
    reload_dataloaders_every_n_epochs default_root_dir barebones sync_batchnorm limit_predict_batches enable_model_summary
    enable_checkpointing plugins x
"""


def keys():
    """Every key that can be typed, by the YAMLs themselves, and options of the trainer that stand in none."""
    for name, path in sorted(conf_files()):
        group = "data" if path.stem == "splits" else name.parent.as_posix().replace(".", "")
        if group.split("/")[0] in (*ELSEWHERE, "experiment") or (
            not group and path.stem != "run_defaults"
        ):
            continue
        for key, _ in flatten(OmegaConf.to_container(OmegaConf.load(path))):
            if not key.startswith(("defaults", "hydra")):
                yield f"{group}.{key}".lstrip(".").replace("/", ".")
    yield from (f"+trainer.{name}" for name in OPTIONS.split())


KEYS = sorted({*keys()} - {"outputs", "run_dir"})
GROUPS = {name.parent.as_posix() for name, _ in conf_files("*/**/*.yaml")} - {"callbacks/pruning"}
GROUPS = sorted(group for group in GROUPS if group.split("/")[0] not in ELSEWHERE)
EXTRAS = importlib.metadata.metadata("leyden").get_all("Provides-Extra")


@st.composite
def overrides(draw):
    kind = draw(st.sampled_from(["key", "key", "key", "key", "group", "out", "odd"]))
    if kind == "group":
        group = draw(st.sampled_from(GROUPS))
        names = [path.stem for path in conf(group) if path.stem not in ("ddp", "gpu", *EXTRAS)]
        return f"{group}={draw(st.sampled_from([*sorted(names), 'null', '', 'x', '[]', '5']))}"
    if kind == "odd":
        return draw(
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
        )
    key = draw(st.sampled_from(KEYS))
    if kind == "out":
        return f"~{key.lstrip('+')}"
    value = draw(st.sampled_from(FEW if key in MANY else VALUES))
    return (
        f"{draw(st.sampled_from(['', '', '', '+', '++']))}{key}={value}"
        if "+" not in key
        else f"{key}={value}"
    )


def test_whatever_is_typed_trains_or_is_refused_in_a_line(tmp_path, data, trials, seed):
    place = tmp_path / "place"
    few = functools.partial(
        resource.setrlimit, resource.RLIMIT_AS, (12 * 2**30, 12 * 2**30)
    )  # bytes of memory

    @settings(max_examples=2 * trials, phases=(Phase.generate, Phase.shrink), **ANYHOW)
    @hypothesis.seed(seed)
    @hypothesis.given(st.lists(overrides(), min_size=1, max_size=3))
    def whatever(typed):
        place.mkdir()
        try:
            arguments = (*within(place), *data, *BASE, *typed)
            code, output = call("train", *arguments, directory=tmp_path, cwd=place, before=few)
            assert is_clean(code, output), f"{typed}: {code}\n{output[-3000:]}"
            left = {
                path.name
                for path in place.iterdir()
                if not path.name.startswith("test_evaluations.")
            }
            assert code == 0 or not left, f"{typed}: {left} is left"
        finally:
            shutil.rmtree(place)

    before = set(tmp_path.parent.iterdir())
    whatever()
    assert set(tmp_path.parent.iterdir()) == before
