"""Each network, task, dataset and config file of the project, by the contracts of the library."""

from leyden.testing.contracts import *  # noqa: F403
