"""The name of a job's directory: readable, and of one job alone."""

import dataclasses
import json
import re

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import assume, example, given
from hypothesis import strategies as st

from leyden.sweep.jobs import JobNames

SHARED = ["model=cnn", "trainer.max_epochs=3"]
VARYING = JobNames.of(SHARED, ["optimizer.lr", "seed", "model.width", "callbacks/pruning", "data.name"])


OF_SWEEP = [
    ([*SHARED, "seed=1", "optimizer.lr=0.01"], "lr-0.01_seed-1"),
    ([*SHARED, "+model.width=3"], "+width-3"),
    ([*SHARED, "callbacks/pruning=median", "data.name=x"], "pruning-median_data.name-x"),
    (SHARED, "defaults"),
    ([*SHARED, "seed=1", "sweep_name=x", "cluster.num_jobs=2", "data.root=/x", "sweep=tpe"], "seed-1"),
    # what a later start of the sweep adds or changes
    ([*SHARED, "optimizer.rho=0.5", "seed=1"], "optimizer.rho-0.5_seed-1"),
    (["model=mlp", "trainer.max_epochs=3", "seed=1"], "model-mlp_seed-1-[0-9a-f]{8}"),
    (["model=cnn", "seed=1"], "seed-1-[0-9a-f]{8}"),
    ([*SHARED, "optimizer.lr=0.1", "++lr=0.1"], "++lr-0.1_lr-0.1-[0-9a-f]{8}"),
]


def test_names_of_a_sweep_are_of_what_varies_and_are_kept_with_it(tmp_path):
    for overrides, name in OF_SWEEP:
        assert re.fullmatch(name.replace("+", "[+]"), VARYING.name(overrides)), VARYING.name(overrides)
    assert JobNames.read(tmp_path) is None
    (tmp_path / "sweep.json").write_text(json.dumps({"names": dataclasses.asdict(VARYING)}))
    assert JobNames.read(tmp_path) == VARYING
    (tmp_path / "sweep.json").write_text('{"names": {"shared": 1, "short": {}}}')
    assert JobNames.read(tmp_path) is None


KEYS = [
    *("seed", "model", "model.a", "model.a_seed", "model._target_", "+model.a", "++model.a", "~model.a"),
    *("data/augment", "data@model", "my-key.a_b", "optimizer.betas", "model.a_optimizer"),
]


LEAVES = st.sampled_from(["1", "-1", "1.5", "1e-05", "seed", "model", "a_b", "null", "true", "''"])
LEAVES |= st.text("ab1-_. ,=[]{}'", max_size=6).map(lambda text: "'" + text.replace("'", "\\'") + "'")
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
        parsed = [OverridesParser.create().parse_overrides(overrides) for overrides in (first, second)]
    except HydraException:
        assume(False)
    by_key = [
        sorted(zip((o.key_or_group for o in each), overrides, strict=True), key=lambda pair: pair[0])
        for each, overrides in zip(parsed, (first, second), strict=True)
    ]
    same = by_key[0] == by_key[1]
    for names in (JobNames(), JobNames.of(["seed=1"], ["model.a", "optimizer.betas", "data/augment", "seed"])):
        assert (names.name(first) == names.name(second)) is same
        assert not {"=", "/"} & {*names.name(first)}
        assert len(names.name(first)) <= 60
