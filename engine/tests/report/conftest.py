import sys

import pytest


@pytest.fixture
def called(monkeypatch, capsys, tmp_path):
    """Runs a verb in a folder of its own; gives what it prints, or the line that it ends with."""
    monkeypatch.chdir(tmp_path)

    def called(verb, *arguments, code=None):
        monkeypatch.setattr(sys, "argv", [verb.__name__, *map(str, arguments)])
        found = 0
        try:
            verb.main()
        except SystemExit as stop:
            found = stop.code
        out, err = capsys.readouterr()
        assert found == ((2 if err else 0) if code is None else code)
        return err or out

    return called
