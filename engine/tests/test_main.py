"""`leyden VERB …` is `python -m leyden.VERB …`."""

import re

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from leyden import __main__ as command
from leyden.config.hydra import composing
from tests import composed
from tests.conftest import QUICK
from tests.test_imports import VERBS


def test_it_lists_the_verbs_and_names_the_nearest_of_one_that_there_is_not(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["leyden"])
    command.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if re.match(r"  \w", line)] == VERBS
    assert max(map(len, lines)) <= 80
    monkeypatch.setattr("sys.argv", ["leyden", "trian"])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert "trian: no such verb; did you mean train?" in capsys.readouterr().err


def test_training_goes_through_hydra(cli, tmp_path):
    """The other tests have what `tests/composed.py` composes."""
    code, out, err = cli(
        "train", f"run_dir={tmp_path / 'run'}", *QUICK, "trainer.max_epochs=1", by_hydra=True
    )
    assert code == 0, out + err


OF_A_SWEEP = "hydra.mode=MULTIRUN"
COMPOSED = [
    QUICK,
    ("model=cnn", "optimizer=sgd", "~optimizer.momentum", "+trainer.max_steps=3", "seed=3"),
    ("experiment=vae", "+callbacks/averaging=ema", "name='a b'", "run_dir=x", "fork=null"),
    (OF_A_SWEEP, "seed=0,1", "optimizer.lr=0.1,0.2", "model=cnn", "sweep_name=s"),
    (OF_A_SWEEP, "model=cnn,mlp", "sweep=tpe", "optimizer.lr=interval(0.1,0.2)", "+logger.x=1"),
    (OF_A_SWEEP, "sweep=grid", "data.batch_size=range(1,3)", "~optimizer.rho"),
]


@pytest.mark.parametrize("overrides", COMPOSED)
def test_what_the_tests_compose_is_what_hydra_composes(overrides):
    with composing():
        loader = GlobalHydra.instance().config_loader()
        given = {"run_mode": RunMode.MULTIRUN, "validate_sweep_overrides": False}
        theirs = composed.Loader.load_configuration(loader, "train", [*overrides], **given)
        ours = composed.quickly(loader, "train", [*overrides], **given)
    assert ours is not None, "left to Hydra, which takes much longer"
    with open_dict(theirs.hydra):
        theirs.hydra.job.override_dirname = "???"
    assert OmegaConf.to_yaml(ours) == OmegaConf.to_yaml(theirs)
    assert OmegaConf.is_struct(ours) == OmegaConf.is_struct(theirs)
