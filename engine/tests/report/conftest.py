import pytest

from tests.conftest import here


@pytest.fixture
def called(monkeypatch, capsys, tmp_path):
    """Runs a verb in a folder of its own; gives what it prints, or the line that it ends with."""
    monkeypatch.chdir(tmp_path)

    def called(verb, *arguments, code=None):
        name = verb.__name__.rpartition(".")[2]
        found = here(name, *map(str, arguments))
        out, err = capsys.readouterr()
        if code is None:
            code = 2 if err else 0
        assert found == code
        return err or out

    return called
