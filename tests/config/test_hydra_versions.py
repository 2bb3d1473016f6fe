"""The one file that knows what differs between versions of Hydra."""

import re

from leyden.config import hydra_versions
from leyden.config.paths import SRC
from tests.conftest import finish, start

NODE = {
    "_target_": "torch.optim.SGD",
    "_partial_": True,
    "losses": [{"_target_": "torch.nn.MSELoss"}, {"path": "/a"}],
}


def test_what_a_node_names():
    named = {"torch.optim.SGD", "torch.optim.sgd.SGD", "torch.nn.MSELoss", "torch.nn.modules.loss.MSELoss"}
    assert {*hydra_versions._named(NODE)} == named
    method = {"_target_": "hydra.utils.get_method", "path": "math.sqrt"}
    assert "math.sqrt" in {*hydra_versions._named(method)}
    assert {*hydra_versions._named({"_target_": "no.such.thing"})} == {"no.such.thing"}


def test_hydra_is_told_what_may_be_made(monkeypatch):
    told = {}
    monkeypatch.setattr(hydra_versions, "IS_1_3", False)
    monkeypatch.setattr(hydra_versions.hydra.utils, "instantiate", lambda node, **settings: told.update(settings))
    hydra_versions.instantiate(NODE)
    assert told["_execution_whitelist_"] == sorted({*hydra_versions._named(NODE)})


def test_no_other_file_asks_which_hydra_it_is():
    asks = re.compile(r"hydra\.__version__|IS_1_3|version_base|register_new_resolver|execution_whitelist=")
    files = [
        path for path in SRC.rglob("*.py") if path.name != "hydra_versions.py" and asks.search(path.read_text())
    ]
    assert not files


def test_its_options_are_shown():
    shown = finish(start("--hydra-help", OMP_NUM_THREADS="1"))
    assert "--shell-completion" in shown
    assert "Install or Uninstall shell completion" in shown


def test_a_help_that_is_no_string_yet():
    """As Python 3.14 asks for one: the class is the same on all versions."""

    class Later:
        def __repr__(self):
            return "100%% later"

    parser = hydra_versions._ArgumentParser()
    parser.add_argument("--later", help=Later())
    parser.add_argument("--none")
    assert "100% later" in parser.format_help()
