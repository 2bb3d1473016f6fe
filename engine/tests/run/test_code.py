"""A run knows the files that define its classes, and is not used without a word when they change."""

import importlib
import subprocess
import sys

from leyden.run import directory, provenance
from tests import records
from tests.run.conftest import use

FILES = {
    "__init__.py": "",
    "net.py": "from torch import nn\n\nfrom .parts import act\n",
    "parts.py": "import given.deep.er as deeper\nfrom torch import nn\nact = nn.ReLU\n",
    "deep/__init__.py": "",
    "deep/er.py": "from .. import net  # a circle\ndef later():\n    import given.none\n",
    "other.py": "",
}


def forget():
    """As in a new process."""
    provenance._digest.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "given"]:
        del sys.modules[name]


def test_the_files_are_those_of_ones_own_code_wherever_it_lies(tmp_path, monkeypatch, request):
    request.addfinalizer(forget)
    package = tmp_path / "code" / "given"
    (package / "deep").mkdir(parents=True)
    for name, text in FILES.items():
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "code")
    importlib.import_module("given.net")
    every = provenance.code_of()
    assert not [name for name in every if name.startswith(("torch/", "leyden/"))]
    found = {name: each for name, each in every.items() if name.startswith("given/")}
    assert [*found] == sorted(f"given/{name}" for name in FILES if name != "other.py")
    # A copy elsewhere, with Windows' ends of lines.
    package.rename(tmp_path / "given")
    (tmp_path / "given" / "net.py").write_bytes(FILES["net.py"].replace("\n", "\r\n").encode())
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    starts = [
        {"code": found},
        {"code": {}},
    ]  # a job is submitted by a process that has imported nothing
    assert provenance.changed_code(starts) == []
    (tmp_path / "given" / "parts.py").write_text("act = None")
    assert provenance.changed_code(starts) == []  # this process has imported what was there
    forget()
    assert provenance.changed_code(starts) == ["given/parts.py"]
    importlib.import_module("given.net")
    provenance._digest.cache_clear()
    (tmp_path / "given" / "net.py").unlink()
    assert "given/net.py" not in provenance.code_of()


def test_a_run_has_the_code_of_its_network_and_is_used_with_a_line_if_it_has_changed(
    own, command, monkeypatch
):
    (name,) = [each for each in records.starts(own)[-1]["code"] if "mlp" in each]
    monkeypatch.setattr(
        directory, "changed_code", lambda starts: [name] if name in starts[-1]["code"] else []
    )
    for verb in ("train", "evaluate"):
        out, err = command(*use(verb, own))
        assert (out + err).count(f"leyden: {own}: {name} changed since the run was trained; ") == 1
        assert (
            ("the result of the code before" in err)
            == ("nothing was trained" in out)
            == (verb == "train")
        )


def test_what_is_imported_is_no_garbage_but_for_those_who_call_that_a_leak():
    code = "import atexit, gc, sys\natexit.register(lambda: print(gc.get_freeze_count() > 0))\n"
    code += "from leyden.run.process import importing\nwith importing():\n    import wave; "
    for first, printed in (("pass", "True\n"), ("sys.modules['triton'] = None", "False\n")):
        assert subprocess.check_output([sys.executable, "-c", code + first], text=True) == printed
