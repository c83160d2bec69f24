"""`--config-dir DIR`: YAML files of the user's own, which win over ours of the same name. Hydra would let ours win."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class ConfigDir(SearchPathPlugin):
    """Puts the user's folder before the project's own files, whenever Hydra makes its search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        from fewshot.cli import compose  # Hydra runs this file anew whenever it starts: it keeps nothing here

        if compose.own_folder is not None:
            search_path.prepend(provider="command-line", path=f"file://{compose.own_folder}", anchor="main")
