"""`hydra/sweeper=optuna`: a search that goes on where it stopped. Needs the extra `optuna`.

Hydra imports this file whenever it starts. What the sweeper does is in `fewshot.sweep.search`; its keys are those of
conf/hydra/sweeper/optuna.yaml and of `fewshot.sweep.settings`.
"""

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from fewshot.sweep.settings import SearchSettings, plain


class OptunaSweeper(Sweeper):
    def __init__(self, **keys: Any) -> None:
        self._keys = keys

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._config, self._loader = config, hydra_context.config_loader
        self._task: Any = task_function  # a fewshot.cli.compose.HydraJob
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from fewshot.sweep.search import best, search

        settings = SearchSettings(**plain(self._keys))
        study = search(settings, arguments, self._config, self._launcher, self._loader)
        self._task.closing.append(lambda: print(best(study)))


ConfigStore.instance().store(group="hydra/sweeper", name="optuna_schema", node=SearchSettings)
