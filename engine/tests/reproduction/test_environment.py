"""The versions of a run are printed as requirements, and what a stranger has written down is no option of pip."""

import pytest

from leyden.config.errors import UserError
from leyden.reproduction import environment
from leyden.run.directory import Run
from tests.reproduction.conftest import start


@pytest.mark.parametrize("version", ["1.0 ; evil", "1.0\nevil", "@ file:///x", "-r x", 1.0, ""])
def test_what_is_no_version_is_refused(make, commit, version):
    run = Run(make(starts=[start(commit[1], versions={"torch": version})]))
    with pytest.raises(UserError, match="is not a version"):
        environment.warn_of_other_versions(run)


def test_other_versions_are_told_as_requirements(make, commit, capsys):
    told = start(commit[1])
    environment.warn_of_other_versions(Run(make("a", starts=[told])))
    assert not capsys.readouterr().err
    versions = {**told["versions"], "torch": "1.0+cpu", "evil": "1.0"}
    environment.warn_of_other_versions(Run(make("b", starts=[{**told, "versions": versions, "python": "3.9.1"}])))
    assert "than the run had: python==3.9.1 torch==1.0\n" in capsys.readouterr().err
