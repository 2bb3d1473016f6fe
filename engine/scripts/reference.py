"""Hooks of mkdocs: each page has the version, the first one the README's head; the reference is written from docstrings.

A page has what a researcher derives from, calls or configures: some modules of the engine, and all that the packages
beside it have in the folder of the same name.
"""

import re
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import leyden
from leyden.base.paths import own_packages, root, src

HEAD = re.compile(r"<!-- The head of README.md .*?-->")
PAGES = {
    "tasks": ("Tasks", "leyden.tasks"),
    "data": ("Data", "contract splits in_memory streamed table text folder transforms"),
    "models": ("Networks", ""),
    "optimizers": ("Optimizers", ""),
    "callbacks": ("Callbacks", "display checkpoint averaging"),
    "pictures": ("Pictures", "leyden.pictures"),
    "loggers": ("Loggers", "leyden.loggers"),
    "exact": ("Exact resume", "fit loop resumption marks checkpoint stop"),
    "verdict": ("Verdicts", "tables groups planning"),
    "runs": (
        "Runs",
        "leyden.run.directory leyden.run.result leyden.trained.loading leyden.trained.predict",
    ),
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the version at the foot of each page."""
    config.copyright = f"Leyden {leyden.__version__}"
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page per kind."""
    for kind, (title, names) in PAGES.items():
        modules = [
            name if name.startswith("leyden.") else f"leyden.{kind}.{name}"
            for name in names.split()
        ]
        for own in own_packages(kind):
            modules += [
                f"{own}.{kind}.{path.stem}"
                for path in sorted((src() / own / kind).glob("[!_]*.py"))
            ]
        text = "\n\n".join([f"# {title}", *(f"::: {module}" for module in modules)])
        files.append(File.generated(config, f"reference/{kind}.md", content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, **kwargs: Any) -> str:
    """Put what the README says before its first heading into the first page."""
    head = (
        (root() / "README.md")
        .read_text()
        .partition("\n## ")[0]
        .partition("\n")[2]
        .replace("engine/docs/", "")
    )
    return HEAD.sub(lambda _: head, markdown) if page.file.src_uri == "index.md" else markdown


class Examples(griffe.Extension):
    """`Example:` is a heading of Google's style, but mkdocstrings reads code below `Examples:` only."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Read it so."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )
