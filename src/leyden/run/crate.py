"""The manifest of a bundle: an RO-Crate 1.1 (https://w3id.org/ro/crate/1.1), which archives and programs of others read."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from leyden.config.mistakes import UserError
from leyden.run.directory import Run

NAME = "ro-crate-metadata.json"
PROFILE = "https://w3id.org/ro/crate/1.1"
FORMATS = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".png": "image/png",
    ".yaml": "application/yaml",
}
CHOICES = ("config.yaml", "provenance.json")  # what the training was made of; the other files came of it


class Content(NamedTuple):
    """What a manifest says of a file: the number of its bytes, and their SHA-256 in hexadecimal digits."""

    size: int
    sha256: str


def manifest(run: Run, files: Mapping[str, Content], license_url: str | None) -> str:
    """The text of the manifest.

    Args:
        run: The run.
        files: What the bundle holds, by name.
        license_url: Under which it is handed on, as a URL; None: not known.

    Raises:
        UserError: The run does not tell when and by what it was made.
    """
    path = run.directory / "provenance.json"
    try:
        start = run.starts[-1]
        date = datetime.fromisoformat(start["time"]).date().isoformat()
        versions = {"python": start["python"], **start["versions"]}
        git = dict(start["git"])
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path}: does not tell when, and by which versions, the run was made") from error
    reached = ", ".join(f"{name} {value:.6g}" for name, value in (run.result.metrics if run.result else {}).items())
    software = [
        {"@id": f"#{name}", "@type": "SoftwareApplication", "name": name, "version": str(version)}
        for name, version in versions.items()
    ]
    code = {
        "@id": "#code",
        "@type": "SoftwareSourceCode",
        "name": "the code of the run",
        "version": str(git.get("sha") or "not known"),
        "description": "A commit in git, with changes, which provenance.json holds"
        if git.get("dirty")
        else "A commit in git",
    }
    action = {
        "@id": "#training",
        "@type": "CreateAction",
        "name": "Training",
        "endTime": start["time"],
        "instrument": _references(["#code", *(each["@id"] for each in software)]),
        "object": _references([name for name in files if name in CHOICES]),
        "result": _references([name for name in files if name not in CHOICES]),
    }
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"A training run of {run.config.get('name', 'a network')}",
        "description": f"Configuration, provenance, curves, result and best weights of a run of Leyden. {reached}".strip(),
        "datePublished": date,
        **({"license": {"@id": license_url}} if license_url else {}),
        "hasPart": _references(files),
        "mentions": {"@id": "#training"},
    }
    about = {"@id": NAME, "@type": "CreativeWork", "conformsTo": {"@id": PROFILE}, "about": {"@id": "./"}}
    terms = [{"@id": license_url, "@type": "CreativeWork", "name": license_url}] if license_url else []
    graph = [
        about,
        root,
        *(_file(name, content) for name, content in files.items()),
        action,
        code,
        *software,
        *terms,
    ]
    # Version 1.1 does not know the word for a hash, which is one of schema.org.
    context = [f"{PROFILE}/context", {"sha256": "http://schema.org/sha256"}]
    return json.dumps({"@context": context, "@graph": graph}, indent=2) + "\n"


def _references(names: Any) -> list[dict[str, str]]:
    return [{"@id": name} for name in names]


def _file(name: str, content: Content) -> dict[str, str]:
    return {
        "@id": name,
        "@type": "File",
        "name": name,
        "encodingFormat": FORMATS.get(name[name.rfind(".") :], "application/octet-stream"),
        "contentSize": str(content.size),
        "sha256": content.sha256,
    }


def contents(text: bytes) -> dict[str, Content]:
    """What a manifest says of the files, by name.

    Raises:
        ValueError: It is none.
    """
    try:
        graph = json.loads(text)["@graph"]
        files = [entity for entity in graph if entity["@type"] == "File"]
        return {str(file["@id"]): Content(int(file["contentSize"]), str(file["sha256"])) for file in files}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{NAME} is no manifest of a bundle") from error
