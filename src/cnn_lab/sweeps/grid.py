"""A sweep over a grid: a run for every combination of values.

Importing this does not import torch.
"""

import itertools
from collections.abc import Sequence

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from cnn_lab.errors import ConfigError
from cnn_lab.settings.config import list_typed
from cnn_lab.settings.typed import parse
from cnn_lab.sweeps.launchers import check_launcher
from cnn_lab.sweeps.sweep import Sweep


def sweep_grid(
    typed: Sequence[str], config: DictConfig, context: HydraContext, task_function: TaskFunction
) -> None:
    """Run a job for every combination of the values in `typed`, Hydra's overrides, and report.

    Combinations that set up the same run are run once.

    Raises:
        ConfigError: when every job's settings are refused, before anything is written.
        CnnLabError: when a run failed.
    """
    choices = expand(typed, context)
    swept = {key: None for key, values in choices.items() if len(values) > 1}
    sweep = Sweep("grid", swept, list_typed(config.hydra.overrides.task), config, context, task_function)
    with sweep.screen.console.status("checking the settings of all runs"):
        checked = [sweep.check(overrides) for overrides in itertools.product(*choices.values())]
    jobs = list({job.fingerprint: job for job in reversed(checked)}.values())[::-1]
    good = [job for job in jobs if not job.error]
    if not good:
        raise ConfigError(jobs[0].error)
    check_launcher(config.hydra.launcher, good[0].config)
    with sweep.open():
        if len(jobs) < len(checked):
            sweep.screen.show(f"{len(checked)} combinations set up {len(jobs)} different runs")
        for job in jobs:
            sweep.add(job)
        sweep.total = len(jobs)
        sweep.run_to_end(lambda: sweep.run(jobs))


def expand(typed: Sequence[str], context: HydraContext) -> dict[str, list[str]]:
    """The overrides of each key, one for each value of it.

    Raises:
        ConfigError: for an interval, of which there are no single values.
    """
    choices: dict[str, list[str]] = {}
    for override in parse(typed, context.config_loader):
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise ConfigError(
                f"{override.input_line} has no single values to go through; type a list of them, or search "
                "with hydra/sweeper=optuna"
            )
    return choices
