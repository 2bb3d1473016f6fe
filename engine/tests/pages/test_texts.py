"""Pages and files that are read, and not done: what they name is there, and what they show is as it is."""

import importlib.util
import re
import shutil
import subprocess
from html import unescape

import pytest
import yaml

import leyden
from leyden.base.errors import Exit
from tests import ENGINE, ROOT
from tests.example import OWN, script
from tests.pages.commands import PAGES

AGENTS, NOTE = (PAGES[name].read_text() for name in ("AGENTS", "note"))
MADE = (
    "run.json",
    "starts.json",
    "outputs/",
    "data/",
    "outputs/test_evaluations.csv",
)  # by the commands


def test_agents_md_is_short_and_its_paths_and_exit_codes_are_there():
    assert len(AGENTS.splitlines()) <= 60
    paths = {*re.findall(r"`([\w./]+/|[\w/]+\.(?:py|txt|yaml|json|csv|md))`", AGENTS)} - {*MADE}
    assert len(paths) > 10
    places = (ROOT, ROOT / "src" / OWN, ROOT / "conf", ROOT / "tests")
    for path in paths:
        assert any((place / path).exists() for place in places), path
    assert {*map(int, re.findall(r"^\| (\d+)", AGENTS, re.MULTILINE))} < {*Exit}


def test_each_file_that_the_note_names_is_there_and_has_the_name_in_it():
    for path in re.findall(r"`([\w/]+/\w+\.(?:py|yaml))`", NOTE):
        assert (ROOT / path).is_file(), path
    named = re.findall(r"`([\w.]+)` in\s+`([\w/]+\.(?:py|yaml))`", NOTE)
    for name, path in named:
        text, last = (ROOT / path).read_text(), name.rpartition(".")[2]
        assert re.search(rf"^ *(?:def|class) {last}\b|^ *{last}:", text, re.M), f"{name} in {path}"
    rows = [line for line in NOTE.partition("**Why")[0].splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 10 < len(named)
    places = [f"`{name}` in `{path}`" for name, path in named]
    for row in rows:
        assert "not needed" in row or any(place in row for place in places), row


@pytest.mark.parametrize(
    "path", [PAGES["README"], PAGES["AGENTS"], PAGES["CONTRIBUTING"], ENGINE / "CHANGELOG.md"]
)
def test_no_link_is_dead(path):
    """Those of docs/ are checked by mkdocs, which is strict."""
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_llms_txt_has_each_page_once():
    """What a language model is given first; the site has it, too."""
    text = (ENGINE / "docs" / "llms.txt").read_text()
    pages = {path.name for path in (ENGINE / "docs").glob("*.md")} - {"index.md"}
    assert sorted(re.findall(r"\((\S+\.md)\)", text)) == sorted(pages)


SHORT = (
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=120",
    "data.val_size=40000",
    "callbacks=bare",
)


def shape(text):
    """Lines of a terminal without what differs between two recordings: numbers, and overrides that make one short."""
    left_out = (*SHORT, "outputs=outputs")
    text = " ".join(word for word in text.split() if word not in left_out)
    return re.sub(r"\d+(\.\d+)?", "1", re.sub(r"\b[0-9a-f]{32}\b", "HASH", text))


@pytest.mark.slow(minutes=0.4)
@pytest.mark.nightly  # it changes with what a command prints, which others check, and kills are in each suite
def test_a_new_recording_has_the_lines_of_the_picture_in_the_readme(tmp_path):
    lines = script(ENGINE / "scripts" / "recording.py").record(
        tmp_path, (*SHORT, f"outputs={tmp_path}"), killed_at=119
    )
    picture = (ENGINE / "docs" / "images" / "killed.svg").read_text()
    shown = re.findall(r'<text class="killed-r\d+"[^>]*>(.*?)</text>', picture)
    drawn = {shape(unescape(line).replace("\xa0", " ")) for line in shown}
    assert {shape(line) for line in lines} - {""} == drawn - {""}
    hashes = [line for line in lines if re.fullmatch(r"\d+,[0-9a-f]{32}", line)]
    assert (len(hashes), len({*hashes})) == (2, 1)
    assert (
        "http" not in re.sub(r'xmlns="\S+"', "", picture).partition("<style>")[2]
    )  # it asks no other host


def test_what_is_cited_is_this_version_and_data_and_results_are_not_copied_into_an_image():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version"} <= {*cited}
    assert (cited["version"], cited["license"]) == (leyden.__version__, "MIT")
    changelog = (ENGINE / "CHANGELOG.md").read_text()
    coming = leyden.__version__.removesuffix(".dev0")
    is_released = coming == leyden.__version__
    expected = f"## [{coming}] - 20" if is_released else f"This will be {coming},"
    assert expected in changelog
    assert f"Leyden {leyden.__version__}" in PAGES["README"].read_text()


def test_a_release_has_its_notes_and_what_it_runs_exists(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("release", ENGINE / "scripts" / "release.py")
    release = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(release)
    tag = f"v{leyden.__version__}"
    with pytest.raises(SystemExit, match=r"v9.9"):  # another version
        release.notes_of("v9.9")
    changelog = tmp_path / "CHANGELOG.md"
    section = f"## [{leyden.__version__}] - 2026-12-03"
    changelog.write_text(f"## [Unreleased]\n\n{section}\n\n### Added\n\n- A.\n\n## [0.2.0]\n")
    monkeypatch.setattr(release, "CHANGELOG", changelog)
    assert release.notes_of(tag) == "### Added\n\n- A."
    changelog.write_text("## [Unreleased]\n\n### Added\n\n- A.\n")
    with pytest.raises(SystemExit, match=f"{tag}: .* has no section"):
        release.notes_of(tag)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    runs = [step["run"] for step in workflow["jobs"]["release"]["steps"] if "run" in step]
    targets = re.findall("^([a-z-]+):", (ENGINE / "Makefile").read_text(), re.MULTILINE)
    (made,) = [run.split()[3:] for run in runs if run.startswith("make -C engine")]
    assert {*made} <= {*targets}
    assert any("engine/scripts/release.py" in run for run in runs)


def test_no_page_installs_what_is_not_released():
    for path in (*PAGES.values(), ENGINE / "README.md"):
        assert not re.search(r"pip install (-U )?leyden\b|leyden==", path.read_text()), path
    assert {".venv", "data", "outputs"} <= {*(ROOT / ".dockerignore").read_text().split()}


@pytest.mark.system
def test_the_image_is_built_and_starts():
    if (
        not shutil.which("docker")
        or subprocess.run(["docker", "info"], capture_output=True).returncode
    ):
        pytest.skip("needs a Docker daemon")
    subprocess.run(["docker", "build", "--tag", "leyden-test", "."], cwd=ROOT, check=True)
    command = ["docker", "run", "--rm", "leyden-test", "leyden", "--version"]
    assert leyden.__version__ in subprocess.check_output(command, text=True)
