"""The documentation as a site, as a person sees it in Chromium: nothing is missing, nothing is asked of another host."""

import functools
import http.server
import importlib.util
import os
import subprocess
import sys
import threading
from urllib.parse import urlsplit

import pytest

from tests import ENGINE
from tests.browser.test_tensorboard import browser, page, pytestmark, wait_until  # noqa: F401 - fixtures, marks

is_missing = importlib.util.find_spec("mkdocs") is None
pytestmark = [*pytestmark, pytest.mark.skipif(is_missing, reason="needs mkdocs: make docs installs it")]
PAGES = sorted(path.stem for path in (ENGINE / "docs").glob("*.md"))
REFERENCE = ["tasks", "data", "models", "optimizers", "callbacks", "pictures", "loggers", "runs"]
NAMES = [*PAGES, *(f"reference/{name}" for name in REFERENCE)]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site that mkdocs builds, strictly."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(site)]
    subprocess.run(command, check=True, cwd=ENGINE, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    return site


@pytest.fixture(scope="module")
def address(site):
    with http.server.ThreadingHTTPServer(("localhost", 0), functools.partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def asked(page):  # noqa: F811
    """All that the page asks for, and what it complains of."""
    urls, errors = [], []
    page.on("request", lambda request: urls.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("response", lambda answer: errors.append(answer.url) if answer.status >= 400 else None)
    return urls, errors


@pytest.mark.parametrize("name", NAMES)
def test_a_page_opens_whole_on_a_screen_and_on_a_phone(page, address, asked, name):  # noqa: F811
    urls, errors = asked
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{address}{name}.html", wait_until="networkidle")
    assert page.locator("h1").first.inner_text().strip()
    for picture in page.locator("article img").all():
        picture.scroll_into_view_if_needed()
        wait_until(page, lambda p=picture: p.evaluate("image => image.complete && image.naturalWidth > 100"))
    for width, height in ((390, 844), (1280, 800)):  # what slides in or out takes a moment
        page.set_viewport_size({"width": width, "height": height})
        wait_until(page, lambda w=width: page.evaluate("document.documentElement.scrollWidth") <= w)
    assert not errors
    assert {urlsplit(url).hostname for url in urls if not url.startswith("data:")} == {"localhost"}


def test_the_reference_has_what_docstrings_say(page, address):  # noqa: F811
    page.goto(f"{address}reference/tasks.html")
    page.get_by_role("heading", name="Outcome").first.wait_for()
    assert "Mean over the samples of the batch" in page.locator("article").inner_text()


@pytest.mark.parametrize("served", [True, False], ids=["served", "opened as a file"])
def test_the_search_finds_a_page(page, site, address, served):  # noqa: F811
    page.goto(f"{address if served else f'{site.as_uri()}/'}index.html")
    page.locator("input.md-search__input").click()
    page.keyboard.type("preemption")
    page.locator("a.md-search-result__link[href*='cluster.html']").first.wait_for()
