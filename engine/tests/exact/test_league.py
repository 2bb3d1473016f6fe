"""The league's page and picture are those of its results, each cell that parts has a cause, and one is found again."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

LEAGUE = Path(__file__).parents[2] / "league"
MODULES = ("table", "causes")

pytestmark = pytest.mark.skipif(not LEAGUE.exists(), reason="the sdist has no league")


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(LEAGUE))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    spec = importlib.util.spec_from_file_location("league_page", LEAGUE / "page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in MODULES:
        sys.modules.pop(name, None)


def test_page_picture_and_results_agree(page):
    cells = page.read_cells()
    assert page.PAGE.read_text() == page.page(cells)
    assert page.PICTURE.read_text() == page.picture(cells)


def test_each_cell_that_parts_has_a_cause_and_ours_have_none(page):
    for (framework, scenario), cell in page.read_cells().items():
        is_parted = cell["outcome"] not in ("same", "cannot", "stops")
        assert not is_parted or framework not in ("exact", "leyden"), (framework, scenario)
        assert not is_parted or page.cause_of(framework, scenario), (framework, scenario)


def test_scripts_are_short_and_causes_have_reproducers(page):
    for path in (LEAGUE / "frameworks").glob("with_*.py"):
        assert len(path.read_text().splitlines()) <= 60, path.name
    recorded = json.loads((LEAGUE / "reproducers.json").read_text())
    paths = {path.stem: path for path in (LEAGUE / "reproducers").glob("*.py")}
    named = {cause.reproducer for cause in page.CAUSES if cause.reproducer}
    assert named <= paths.keys() == recorded.keys()
    for name, path in paths.items():
        text = path.read_text()
        assert len(text.splitlines()) <= 30, name
        assert "leyden" not in text, name


def run(*arguments):
    command = [sys.executable, str(LEAGUE / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow(minutes=2)
@pytest.mark.parametrize(
    "framework",
    [
        "lightning",
        pytest.param("exact", marks=pytest.mark.nightly),
        pytest.param("keras", marks=pytest.mark.nightly),
    ],
)
def test_a_cell_is_found_again(framework, page):
    cell = page.read_cells()[framework, "shuffle"]
    assert f"  {cell['outcome']}: " in run(f"framework={framework}", "scenario=shuffle")


@pytest.mark.slow(minutes=1)
@pytest.mark.nightly
def test_a_reproducer_prints_what_is_recorded():
    assert "not what" not in run("reproducer=lightning_plateau")
