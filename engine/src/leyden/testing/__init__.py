"""Contracts of networks, tasks, data and config files, as tests for pytest.

A project's test file imports them, and each file that the project adds is tested from then on:

    from leyden.testing.contracts import *
"""

import pytest

pytest.register_assert_rewrite("leyden.testing.contracts")

# Parameters of the tests in `contracts`, and the config files that they stand for.
PARAMETERS = {
    "model_file": "model/*.yaml",
    "task_file": "task/*.yaml",
    "data_file": "data/*.yaml",
    "choice_file": "*/**/*.yaml",
}
# Files by these names say what to instantiate nowhere.
NO_CLASS = ("own", "none", "module", "run_defaults")


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
    for parameter, pattern in PARAMETERS.items():
        if parameter not in metafunc.fixturenames:
            continue
        # In sessions without contracts, nothing of Leyden is imported.
        from leyden.base.paths import conf, conf_files

        with_library = metafunc.config.getini("leyden_library")
        excluded = () if parameter == "choice_file" else NO_CLASS
        files = []
        for name, path in conf_files(pattern):
            is_tested = with_library or path.is_relative_to(conf())
            if is_tested and name.stem not in excluded and name.parts[0] != "hydra":
                files.append(name)
        metafunc.parametrize(parameter, sorted(files), ids=str)
