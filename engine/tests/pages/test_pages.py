"""Every command and file of README.md and docs/*.md: each page is done from its beginning to its end, and trains, shortly.

`tests/pages/stands_for.py` has what stands for something else, and what is not run.
"""

import re

import pytest

from tests.pages.commands import PAGES, steps
from tests.pages.stands_for import NOT_HERE, NOT_RUN, SHORTER, STANDS_FOR

# tests/test_distribution.py takes a project through that page, with an installed library.
WITH_STEPS = [page for page in PAGES if steps(page) and page != "adopt"]
# Those of other pages are done at night.
BY_DAY = ("README",)
DONE = [pytest.param(page, marks=() if page in BY_DAY else pytest.mark.nightly) for page in WITH_STEPS]
TYPED = "\n".join(path.read_text() for path in PAGES.values())


def do(copy, page):
    """Do a page; what fails is named by its line."""
    for step in steps(page):
        try:
            output = copy.do(step)
        except AssertionError as error:
            raise AssertionError(f"{PAGES[page].name}:{step.line}: {step.typed or step.path}\n{error}") from None
        jobs = re.search(r"  # (\d+) jobs", step.typed)
        if jobs:
            output = copy.dry([*step.words[2:]])
            assert len(re.findall(r"^\d+: ", output, re.MULTILINE)) == int(jobs[1]), step.typed


@pytest.mark.slow
@pytest.mark.parametrize("page", DONE)
def test_each_command_of_a_page_does_what_it_should(project, page):
    do(project(pictures=page == "tensorboard"), page)


def test_nothing_stands_for_what_no_page_has():
    words = [word for page in PAGES for step in steps(page) for word in step.typed.split()]
    assert [typed for typed in SHORTER if typed not in words] == []
    assert [typed for typed in NOT_HERE if typed not in TYPED] == []
    assert [typed for typed in NOT_RUN if typed not in TYPED] == []
    assert [pattern for pattern in STANDS_FOR if not any(re.search(pattern, word) for word in words)] == []
