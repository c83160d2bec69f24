"""`hydra/sweeper=optuna`: a search that goes on where it stopped. Needs the extra `optuna`.

Hydra imports this file whenever it starts; what the sweeper does is in `fewshot.sweep.search`.
"""

from collections.abc import Mapping
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """trials: how many in all, those of earlier starts included. batch: trials started together; null: as many as
    the local launcher has slots, elsewhere 4. direction: maximize | minimize the launcher's `objective`.
    seed: trial k is drawn from (seed, k) and the results before it. params: what varies, in Hydra's grammar."""

    def __init__(
        self, *, trials: int, batch: int | None, direction: str, seed: int, params: Mapping[str, str]
    ) -> None:  # fmt: skip
        from fewshot.sweep.search import Settings

        self._settings = Settings(trials=trials, batch=batch, direction=direction, seed=seed)
        self._params = dict(params)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._config, self._loader = config, hydra_context.config_loader
        self._task: Any = task_function  # a fewshot.cli.compose.Task
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from fewshot.sweep.search import best, search

        words = [*(f"{key}={value}" for key, value in self._params.items()), *arguments]
        study = search(self._settings, words, self._config, self._launcher, self._loader)
        self._task.closing.append(lambda: print(best(study)))
