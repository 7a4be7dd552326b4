"""Where Hydra looks for plugins: this project's sweepers, which `cnn_lab.sweeps` runs."""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridSweeper(Sweeper):
    """A run for every combination of values, then a report.

    Args:
        params: values by key, in Hydra's grammar; what is typed on the command line comes on top.
        settings: those of a search, which reads them from the config.
    """

    def __init__(self, params: Mapping[str, Any] | None, **settings: Any) -> None:
        self.params = [f"{key}={value}" for key, value in (params or {}).items()]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `sweep`."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def sweep(self, arguments: Sequence[str]) -> None:
        """Run what `arguments`, the overrides that were typed, ask for."""
        from cnn_lab.sweeps.grid import sweep_grid

        sweep_grid([*self.params, *arguments], self.config, self.hydra_context, self.task_function)


class OptunaSweeper(GridSweeper):
    """A search for the highest validation accuracy, then a report.

    Args:
        params: the search space by key, in Hydra's grammar: `choice(...)`, `range(...)`, `interval(...)`, and
            `tag(log, ...)` around an interval for a logarithmic scale. Single values are the same for all.
        sampler, pruner: configs of one of Optuna's.
        n_trials: trials in all, also after the search was interrupted and resumed.
        n_jobs: trials that are handed to the launcher at once.
        storage: URL of a database that several processes share; None for a file in the sweep's directory.
        study_name: of the study in that database; None names it after the sweep.
    """

    def sweep(self, arguments: Sequence[str]) -> None:
        """Run the search, or repeat one; its settings are in the config.

        Raises:
            ConfigError: when Optuna is not installed.
        """
        if self.config.sweep.repeat:
            super().sweep(arguments)
            return
        from cnn_lab.errors import ConfigError
        from cnn_lab.settings.extras import install_hint

        if importlib.util.find_spec("optuna") is None:
            raise ConfigError(f"Optuna is not installed; {install_hint('search')}")
        from cnn_lab.sweeps.search import search

        search([*self.params, *arguments], self.config, self.hydra_context, self.task_function)
