"""TensorBoard and the documentation as a person sees them, in Chromium."""

import functools
import hashlib
import http.server
import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import pytest

from leyden.run.directory import Run
from tests import ENGINE
from tests.conftest import SMALL, finish, start
from tests.forks import TIMEOUT_S
from tests.training.test_start import curves
from tests.training.test_start_exact import kill_at

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT = 60_000  # ms
PAGES = sorted(path.stem for path in (ENGINE / "docs").glob("*.md"))
REFERENCE = ["tasks", "data", "models", "optimizers", "callbacks", "pictures", "loggers", "runs"]
NAMES = [*PAGES, *(f"reference/{name}" for name in REFERENCE)]


MISSING = [name for name in ("playwright", "mkdocs") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium"),
    pytest.mark.skipif(bool(MISSING), reason=f"needs {MISSING}: make -C engine setup installs it"),
]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, tmp_path):
    """A page, wide since columns beyond it have no text; the test's folder has a screenshot of its end."""
    page = browser.new_page(viewport={"width": 3200, "height": 1200})
    page.set_default_timeout(TIMEOUT)
    yield page
    page.screenshot(path=tmp_path / "screenshot.png")
    page.close()


def wait_until(page, condition):
    for _ in range(TIMEOUT // 250):
        if condition():
            return
        page.wait_for_timeout(250)
    raise AssertionError("it did not come in time")


def wait_for_picture(page, picture, width):
    picture.scroll_into_view_if_needed()
    wait_until(
        page, lambda: picture.evaluate(f"image => image.complete && image.naturalWidth > {width}")
    )


@pytest.fixture(scope="module")
def tensorboard(tmp_path_factory, mnist_root):
    """Its address, and the runs that it shows by their paths, with which the names of their curves begin.

    They are a job of a sweep, a second one that fails, and a run that was killed in its second epoch and went on.
    """
    outputs = tmp_path_factory.mktemp("browser")
    few = (*SMALL, "trainer.max_epochs=2", "callbacks.checkpoint.every_n_steps=7", "test=false")
    arguments = (*few, f"outputs={outputs}")
    sweep = start("-m", "sweep_name=s", "sweep.pictures=all", "optimizer.lr=0.01,1e30", *arguments)
    resumed = (f"run_dir={outputs / 'resumed'}", "optimizer.lr=0.003", *arguments)
    for process in (kill_at(18, *resumed), sweep):
        process.communicate(timeout=TIMEOUT_S)
    finish(start("resume=must", *resumed))
    runs = {
        str(path.parent.relative_to(outputs)): Run(path.parent)
        for path in outputs.rglob("config.yaml")
    }
    assert sorted(run.result.status for run in runs.values()) == ["failed", "finished", "finished"]
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--host=localhost",
        "--port=0",
        f"--logdir={outputs}",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            found = next(
                filter(None, (re.search(r"http://localhost:\d+/", line) for line in process.stderr))
            )
            yield found[0], runs
        finally:
            process.terminate()


def test_the_table_of_choices_has_a_row_a_run_with_true_values(page, tensorboard):
    (address, runs), columns, expected = (
        tensorboard,
        ("optimizer.lr", "charts/acc", "charts/loss"),
        {},
    )
    for run in runs.values():
        rate = run.config["optimizer"]["lr"]
        values = (rate, *map(run.result.metrics.get, ("val/acc", "val/loss")))
        name = run.directory.name
        place = run.directory.parent
        if place.name == "s":  # of a sweep the best is the first; the other one has failed
            name = f"{2 if run.result.status == 'failed' else 1} lr={rate:.4g}"
        name += f" ({place.name} {hashlib.sha256(str(place).encode()).hexdigest()[:8]})"
        expected[name] = tuple("" if value is None else format(value, "#.5g") for value in values)

    def cells():
        return [text.strip() for text in page.locator("vaadin-grid-cell-content").all_inner_texts()]

    def rows():
        """The columns of each run, as far as TensorBoard has read them: it shows a table before it has read all."""
        page.goto(f"{address}?again={time.monotonic()}#hparams")
        page.wait_for_timeout(2000)
        texts = cells()
        if not {"Trial ID", *expected} <= {*texts}:
            return {}
        # Empty cells stand at other places of a row than of the head; what a failed run lacks is at its end.
        full = [text for text in texts if text and text != "Show Metrics"]
        starts = [place for place, text in enumerate(full) if text in ("Trial ID", *expected)]
        head, *lines = (full[a:b] for a, b in itertools.pairwise([*starts, len(full)]))
        found = {line[0]: dict(zip(head, line, strict=False)) for line in lines}
        shown = {}
        for name, row in found.items():
            shown[name] = tuple(row.get(column, "") for column in columns)
        return shown

    for _ in range(20):
        if (found := rows()) == expected:
            break
    assert found == expected
    texts = cells()
    shown = [text for text in texts if text in expected]
    assert shown == sorted(expected)  # one row a run, the best of a sweep first
    assert not [text for text in texts if text == "-1" or "hp_metric" in text]


def test_curves_and_pictures_are_there_and_a_resumed_curve_is_unbroken(page, tensorboard):
    address, runs = tensorboard
    finished = {name: run for name, run in runs.items() if run.result.status == "finished"}
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
    for tag in ("confusion/val", "errors/val"):
        page.goto(f"{address}?tagFilter={tag}#timeseries")
        pictures = page.locator("image-card img")
        wait_until(page, lambda found=pictures: found.count() == len(finished))
        for picture in pictures.all():
            wait_for_picture(page, picture, 200)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site that mkdocs builds, strictly, and its address."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(site)]
    subprocess.run(command, check=True, cwd=ENGINE, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    serve = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
    with http.server.ThreadingHTTPServer(("localhost", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield site, f"http://localhost:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize("name", NAMES)
def test_a_page_opens_whole_on_a_screen_and_on_a_phone_and_asks_no_other_host(page, site, name):
    urls = []
    errors = []
    page.on("request", lambda request: urls.append(request.url))
    page.on(
        "console", lambda message: errors.append(message.text) if message.type == "error" else None
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("response", lambda answer: errors.append(answer.url) if answer.status >= 400 else None)
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{site[1]}{name}.html", wait_until="networkidle")
    assert page.locator("h1").first.inner_text().strip()
    for picture in page.locator("article img").all():
        wait_for_picture(page, picture, 100)
    for width, height in ((390, 844), (1280, 800)):  # what slides in or out takes a moment
        page.set_viewport_size({"width": width, "height": height})
        wait_until(page, lambda w=width: page.evaluate("document.documentElement.scrollWidth") <= w)
    assert not errors
    assert {urlsplit(url).hostname for url in urls if not url.startswith("data:")} == {"localhost"}
    if name == "reference/tasks":
        page.get_by_role("heading", name="Outcome").first.wait_for()
        assert "Mean over the samples of the batch" in page.locator("article").inner_text()


@pytest.mark.parametrize("is_served", [True, False])
def test_the_search_finds_a_page_also_of_a_site_that_is_opened_as_a_file(page, site, is_served):
    page.goto(f"{site[1] if is_served else f'{site[0].as_uri()}/'}index.html")
    page.locator("input.md-search__input").click()
    page.keyboard.type("preemption")
    page.locator("a.md-search-result__link[href*='cluster.html']").first.wait_for()
