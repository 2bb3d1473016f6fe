"""Search path of Hydra: the project's `conf/`, then the library's."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class LeydenSearchPath(SearchPathPlugin):
    """Adds the settings of the library behind those of the project, whose files come first."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append `leyden/conf/`."""
        search_path.append("leyden", "pkg://leyden.conf")
