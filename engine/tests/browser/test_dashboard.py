"""A search in optuna-dashboard, opened by the line that its summary prints, in Chromium."""

import importlib.util
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.browser.test_tensorboard import browser, page, pytestmark, wait_until  # noqa: F401 - fixtures, marks
from tests.conftest import SMALL, finish, start

pytestmark = [
    *pytestmark,
    pytest.mark.skipif(importlib.util.find_spec("optuna_dashboard") is None, reason="needs optuna-dashboard"),
]


@pytest.fixture(scope="module")
def printed(tmp_path_factory, mnist_root):
    """What a search of two trials prints; blanks in its path must not disturb what is typed."""
    directory = tmp_path_factory.mktemp("a search")
    search = ("-m", "sweep=random", "sweep_name=s", "hydra.sweeper.num_trials=2", "trainer.max_epochs=1")
    return finish(start(*search, *SMALL, f"outputs={directory}", "callbacks=bare"))


@pytest.fixture(scope="module")
def address(printed):
    """Where the dashboard serves it."""
    (line,) = re.findall("optuna-dashboard .*", printed)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    program, *arguments = shlex.split(line)
    command = [shutil.which(program, path=Path(sys.executable).parent), *arguments, f"--port={port}"]
    before = (study := Path(arguments[0])).read_bytes()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            next(text for text in process.stderr if "Listening" in text)
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()
    assert study.read_bytes() == before  # who only looks writes nothing


def test_the_study_is_there_with_its_trials(page, address):  # noqa: F811
    page.goto(address)
    page.get_by_text("0. study").click()
    page.get_by_text("optimizer.lr").first.wait_for()
    with urllib.request.urlopen(f"{address}api/studies/0") as answer:
        trials = json.load(answer)["trials"]
    assert [trial["state"] for trial in trials] == ["Complete", "Complete"]
    page.goto(f"{address}dashboard/studies/0/trials")
    wait_until(page, lambda: all(page.get_by_text(f"Trial {number}").count() for number in (0, 1)))
