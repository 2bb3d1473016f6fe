import pytest

from tests.conftest import here


@pytest.fixture
def called(monkeypatch, capsys, tmp_path):
    """Runs a verb in a folder of its own; gives what it prints, or the line that it ends with."""
    monkeypatch.chdir(tmp_path)

    def called(verb, *arguments, code=None):
        found = here(verb.__name__.rpartition(".")[2], *map(str, arguments))
        out, err = capsys.readouterr()
        assert found == ((2 if err else 0) if code is None else code)
        return err or out

    return called
