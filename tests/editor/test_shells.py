"""TAB in real shells."""

import fcntl
import os
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

BIN = str(Path(sys.executable).parent)
LINES = [
    ("leyden tr", "leyden train "),
    ("leyden evaluate checkp", "leyden evaluate checkpoint="),
    ("leyden train trainer.max_ep", "leyden train trainer.max_epochs="),
    ("leyden train logger=tens", "leyden train logger=tensorboard "),
    ("leyden train seed=1 +callbacks/stopping=e", "leyden train seed=1 +callbacks/stopping=early "),
    ("leyden train -m logger=csv,tens", "leyden train -m logger=csv,tensorboard "),
    ("cd . && leyden train dry_run=t", "cd . && leyden train dry_run=true "),
    ("python -m leyden.ev", "python -m leyden.evaluate "),
    ("X=1 python -m leyden.train logger=tens", "X=1 python -m leyden.train logger=tensorboard "),
    (f"{sys.executable} -m leyden.train logger=tens", f"{sys.executable} -m leyden.train logger=tensorboard "),
    ("leyden evaluate run=outp", "leyden evaluate run=outputs/"),
    ("python outp", "python outputs/"),  # what is not Leyden's is completed as before
]


def need(shell):
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")


@pytest.fixture
def place(tmp_path):
    """A folder with a run, and an environment in which a shell finds `leyden`."""
    (tmp_path / "outputs" / "mine").mkdir(parents=True)
    names = {"PATH": f"{BIN}:{os.environ['PATH']}", "TERM": "dumb", "PS1": "$ ", "HOME": str(tmp_path)}
    return {"cwd": tmp_path, "env": {**os.environ, **names}}


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_tab(shell, place):
    need(shell)
    terminal, inside = os.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 500, 0, 0))
    command = [shell, "--norc", "--noprofile", "-i"] if shell == "bash" else [shell, "-f", "-i"]
    process = subprocess.Popen(command, stdin=inside, stdout=inside, stderr=inside, start_new_session=True, **place)
    os.close(inside)
    seen = ""

    def until(pattern):
        nonlocal seen
        end = time.monotonic() + 60
        while not (found := re.search(pattern, seen)) and time.monotonic() < end:
            if select.select([terminal], [], [], 1)[0]:
                seen += os.read(terminal, 4096).decode(errors="replace")
        assert found, seen
        seen = seen[found.end() :]
        return found

    try:
        os.write(terminal, f'eval "$(leyden completion {shell})"; echo READY\n'.encode())
        until(r"\nREADY")
        for line, completed in LINES:
            # X is typed on. Ctrl-A goes to the beginning of the line, Ctrl-E to its end: it becomes a text.
            os.write(terminal, f"{line}\tX\x01echo 'GOT[\x05]'\n".encode())
            assert until(r"\nGOT\[(.*?)\]")[1] == f"{completed}X"
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def test_tab_in_fish(place):
    need("fish")
    place["env"]["LEYDEN_LINES"] = "\n".join(line for line, _ in LINES)
    script = "leyden completion fish | source; for line in (string split \\n $LEYDEN_LINES); complete -C $line; echo END; end"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], capture_output=True, text=True, timeout=120, **place
    )
    found = [part.split("\n") for part in done.stdout.split("END\n")]
    for (line, completed), words in zip(LINES, found, strict=False):
        assert completed.removeprefix(line.rpartition(" ")[0] + " ").rstrip() in [
            word.split("\t")[0] for word in words
        ], line
    assert len(found) == len(LINES) + 1, done.stderr
