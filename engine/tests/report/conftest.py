import sys

import pytest


@pytest.fixture
def called(monkeypatch, capsys, tmp_path):
    """Runs a verb in a folder of its own; gives what it prints, or the line that it ends with."""
    monkeypatch.chdir(tmp_path)

    def called(verb, *arguments):
        monkeypatch.setattr(sys, "argv", [verb.__name__, *map(str, arguments)])
        code = 0
        try:
            verb.main()
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        assert code == (2 if err else 0)
        return err or out

    return called
