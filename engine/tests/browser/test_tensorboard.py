"""TensorBoard as a person sees it: a sweep of two runs and a resumed run, in Chromium."""

import importlib.util
import itertools
import re
import shutil
import subprocess
import sys
import time

import pytest
from tensorboard.plugins.hparams import metadata

from leyden.run.directory import Run
from tests.callbacks.events import read
from tests.conftest import finish, start
from tests.forks import TIMEOUT_S
from tests.training.test_start import curves
from tests.training.test_start_exact import kill_at

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
TIMEOUT = 60_000  # ms

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium"),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="needs Playwright"),
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, mnist_root):
    """Two jobs of a sweep, a third one that fails, and a run that was killed in its second epoch and went on."""
    directory = tmp_path_factory.mktemp("browser")
    few = ("data.val_size=59000", "data.batch_size=100", "trainer.log_every_n_steps=3", "trainer.max_epochs=2")
    arguments = (*few, "callbacks.checkpoint.every_n_steps=7", f"outputs={directory}", "test=false")
    sweep = start("-m", "sweep_name=s", "sweep.pictures=all", "optimizer.lr=0.001,0.01,1e30", *arguments)
    sweep.communicate(timeout=TIMEOUT_S)
    resumed = (f"run_dir={directory / 'resumed'}", "optimizer.lr=0.003", *arguments)
    kill_at(18, *resumed).communicate(timeout=TIMEOUT_S)
    finish(start("resume=must", *resumed))
    return directory


@pytest.fixture(scope="module")
def runs(outputs):
    """The runs by their paths below the folder that is looked at, with which TensorBoard's names of their curves begin."""
    found = {str(p.parent.relative_to(outputs)): Run(p.parent) for p in outputs.rglob("config.yaml")}
    assert sorted(run.result.status for run in found.values()) == ["failed", "finished", "finished", "finished"]
    return found


@pytest.fixture
def finished(runs):
    return {name: run for name, run in runs.items() if run.result.status == "finished"}


@pytest.fixture(scope="module")
def address(outputs):
    command = [sys.executable, "-m", "tensorboard.main", "--host=localhost", "--port=0", f"--logdir={outputs}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr:
                if found := re.search(r"http://localhost:\d+/", line):
                    break
            yield found[0]
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, tmp_path, request):
    """A page, wide since columns beyond it have no text; the test's folder has a screenshot of its end."""
    page = browser.new_page(viewport={"width": 3200, "height": 1200})
    page.set_default_timeout(TIMEOUT)
    yield page
    page.screenshot(path=tmp_path / "screenshot.png")
    page.close()


def wait_until(page, condition, seconds=60):
    for _ in range(seconds * 4):
        if condition():
            return
        page.wait_for_timeout(250)
    raise AssertionError("it did not come in time")


def trial(run):
    """The name of a run's row."""
    content = read(run, "best").summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    return metadata.parse_session_start_info_plugin_data(content).group_name


def test_the_table_of_choices_has_a_row_a_run_with_true_values(page, address, runs):
    columns = ("optimizer.lr", "charts/acc", "charts/loss")
    expected = {}
    for run in runs.values():
        values = (run.config["optimizer"]["lr"], *map(run.result.metrics.get, ("val/acc", "val/loss")))
        expected[trial(run)] = tuple("" if value is None else format(value, "#.5g") for value in values)

    def cells():
        return [text.strip() for text in page.locator("vaadin-grid-cell-content").all_inner_texts()]

    def rows():
        """The columns of each run, as far as TensorBoard has read them: it shows a table before it has read all."""
        page.goto(f"{address}?again={time.monotonic()}#hparams")
        page.wait_for_timeout(2000)
        texts = cells()
        if "Trial ID" not in texts or not all(name in texts for name in expected):
            return {}
        # Empty cells stand at other places of a row than of the head; what a failed run lacks is at its end.
        full = [text for text in texts if text and text != "Show Metrics"]
        starts = [place for place, text in enumerate(full) if text in ("Trial ID", *expected)]
        head, *lines = (full[a:b] for a, b in itertools.pairwise([*starts, len(full)]))
        found = {line[0]: dict(zip(head, line, strict=False)) for line in lines}
        return {name: tuple(row.get(column, "") for column in columns) for name, row in found.items()}

    for _ in range(20):
        if (found := rows()) == expected:
            break
    assert found == expected
    texts = cells()
    assert len([text for text in texts if text in expected]) == len(runs)
    assert "-1" not in texts
    assert not any("hp_metric" in text for text in texts)


def test_curves_are_there_and_a_resumed_one_is_unbroken(page, address, finished):
    page.goto(f"{address}?tagFilter=%5Echarts%2Facc%24&smoothing=0#timeseries")
    card = page.locator("scalar-card")

    def text():
        return card.inner_text().replace("\n", "")

    # A chart, and below it each run's last value and step.
    wait_until(page, lambda: card.count() == 1 and all(name in text() for name in finished))
    assert text().startswith("charts/acc")
    for run in finished.values():
        (*_, last) = (value for _, metric, value in curves(run) if metric == "val/acc")
        assert f"{last:.4g}" in text()


@pytest.mark.parametrize("tag", ["confusion/val", "errors/val"])
def test_pictures_are_there(page, address, finished, tag):
    page.goto(f"{address}?tagFilter={tag}#timeseries")
    pictures = page.locator("image-card img")
    num = len(finished)
    wait_until(page, lambda: pictures.count() == num)
    for number in range(num):
        picture = pictures.nth(number)
        picture.scroll_into_view_if_needed()
        wait_until(page, lambda p=picture: p.evaluate("image => image.complete && image.naturalWidth > 200"))
