"""Hydra's command line: options may stand anywhere among overrides."""

import pytest
from hydra._internal.hydra import Hydra

from leyden.config import hydra
from leyden.config.paths import CONF
from tests.conftest import finish, start


def test_its_options_are_shown():
    shown = finish(start("--hydra-help", OMP_NUM_THREADS="1"))
    assert "--shell-completion" in shown
    assert "Install or Uninstall shell completion" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ("seed=1", "-m", "optimizer.lr=0.1,0.2"),
        ("seed=1", "optimizer.lr=0.1,0.2", "--multirun"),
        ("seed=1", "-cn", "train", "optimizer.lr=0.1,0.2", "-m", "--config-dir", str(CONF)),
    ],
)
def test_an_option_can_stand_between_overrides_and_after_them(cli, arguments):
    code, out, err = cli("train", *arguments, "dry_run=true", "optimizer=adam")
    assert code == 0, err
    jobs = [line.split() for line in out.splitlines()]
    assert [("optimizer.lr=0.1" in job, "optimizer.lr=0.2" in job) for job in jobs] == [
        (True, False),
        (False, True),
    ]
    assert all("seed=1" in job and "optimizer=adam" in job for job in jobs)


def test_a_mistyped_key_is_composed_once(cli, monkeypatch):
    composed = []
    compose = Hydra.compose_config

    def counted(self, config_name, overrides, *arguments, **options):
        composed.append(overrides)
        return compose(self, config_name, overrides, *arguments, **options)

    monkeypatch.setattr(Hydra, "compose_config", counted)
    code, _, err = cli("train", "optimizer.lrr=1", by_hydra=True)
    assert code == 2
    assert "did you mean optimizer.lr?" in err
    assert len(composed) == 1


def test_a_mode_that_is_set_is_obeyed(cli):
    code, out, err = cli("train", "hydra.mode=MULTIRUN", "optimizer.lr=0.1,0.2", "dry_run=true")
    assert code == 0, err
    assert len(out.splitlines()) == 2


def test_an_option_with_a_value_keeps_it_among_overrides(cli):
    code, out, err = cli("train", "optimizer.lr=0.5", "--cfg", "job", "seed=1", "-p", "optimizer")
    assert code == 0, err
    assert "lr: 0.5" in out
    assert "seed" not in out
    code, _, err = cli("train", "optimizer.lr=0.5", "--cfg", "everything", "seed=1")
    assert code == 2
    assert "invalid choice: 'everything'" in err


def test_a_help_that_is_no_string_yet():
    """As Python 3.14 asks for one: the class is the same on all versions."""

    class Later:
        def __repr__(self):
            return "100%% later"

    parser = hydra._ArgumentParser()
    parser.add_argument("--later", help=Later())
    parser.add_argument("--none")
    assert "100% later" in parser.format_help()


@pytest.mark.matrix
@pytest.mark.parametrize("arguments", [("train", "optimizer=adam"), ("predict",), ("train", "--resolve")])
def test_help_is_that_of_hydra_which_lists_all_groups(cli, monkeypatch, arguments):
    called = []
    original = Hydra.format_config_groups
    monkeypatch.setattr(Hydra, "format_config_groups", lambda *a, **k: called.append(1) or original(*a, **k))
    code, found, err = cli(*arguments, "--help")
    assert code == 0, err
    assert bool(called) == ("--resolve" in arguments)
    monkeypatch.setattr("leyden.run.command.help_text", lambda options, name: None)
    assert cli(*arguments, "--help") == (0, found, "")
    assert called


def test_a_help_of_the_projects_own_can_list_all_groups(cli):
    code, found, err = cli("predict", "--help", "hydra.help.template='have $APP_CONFIG_GROUPS'")
    assert code == 0, err
    assert found.startswith("have ")
    assert "optimizer: " in found
