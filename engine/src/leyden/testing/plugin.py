"""The pytest plugin: it finds the files that the contracts are about."""

from pathlib import Path

import pytest

pytest.register_assert_rewrite("leyden.testing.contracts", "leyden.testing.strict")

PARTS = ("model", "task", "optimizer", "scheduler", "trainer", "callbacks", "logger")
# Parameters of the tests in `contracts`, and the config files that they stand for.
PARAMETERS = {
    "model_file": ("model/*.yaml",),
    "task_file": ("task/*.yaml",),
    "data_file": ("data/*.yaml",),
    "root_file": ("*.yaml",),
    "choice_file": ("[!h]*/**/*.yaml", "h[!y]*/**/*.yaml"),  # without hydra/
    "part_file": tuple(f"{part}/**/*.yaml" for part in PARTS),
}
NO_CLASS = ("own", "none", "module", "run_defaults")  # files by these names say what to instantiate nowhere


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option in pytest's configuration."""
    parser.addini(
        "leyden_library",
        "test the library's own config files by the contracts, too",
        type="bool",
        default=False,
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize a contract by the project's config files, as paths relative to `conf/`."""
    for parameter in {*PARAMETERS} & {*metafunc.fixturenames}:
        excluded = () if parameter == "choice_file" else NO_CLASS
        with_library = metafunc.config.getini("leyden_library")
        files = _files(*PARAMETERS[parameter], excluded=excluded, with_library=with_library)
        metafunc.parametrize(parameter, files, ids=str)


def _files(*patterns: str, excluded: tuple[str, ...], with_library: bool) -> list[Path]:
    from leyden.config.paths import CONF, conf_files  # in sessions without contracts, nothing of Leyden is imported

    found = (each for pattern in patterns for each in conf_files(pattern))
    names = (name for name, path in found if with_library or path.is_relative_to(CONF))
    return sorted(name for name in names if name.stem not in excluded)
