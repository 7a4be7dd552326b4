"""A sweep over a grid: a run for every combination of values.

Importing this does not import torch.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, read_write

from cnn_lab.errors import ConfigError, count
from cnn_lab.settings.typed import parse
from cnn_lab.sweeps.advice import REPEATED
from cnn_lab.sweeps.launchers import check_launcher
from cnn_lab.sweeps.results import REPETITIONS, collect, compare, find_sweep, read_record
from cnn_lab.sweeps.sweep import Sweep


def sweep_grid(
    typed: Sequence[str], config: DictConfig, context: HydraContext, task_function: TaskFunction
) -> None:
    """Run a job for every combination of the values in `typed`, Hydra's overrides, and report.

    Combinations that set up the same run are run once. With `sweep.repeat`, what varies besides the seed and
    the fold comes from the best settings of an earlier sweep or search.

    Raises:
        ConfigError: when every job's settings are refused, before anything is written.
        CnnLabError: when a run failed.
    """
    repeated, settings = _find_repeated(typed, config, context) if config.sweep.repeat else ([], [[]])
    choices = expand([item for item in typed if item.partition("=")[0] not in repeated], context)
    swept = [*repeated, *(key for key, values in choices.items() if len(values) > 1)]
    sweep = Sweep("grid", dict.fromkeys(swept), config, context, task_function)
    combinations = itertools.product(*choices.values())
    with sweep.screen.console.status("checking the settings of all runs"):
        checked = [sweep.check([*a, *b]) for a, b in itertools.product(settings, combinations)]
    jobs = list({job.fingerprint: job for job in reversed(checked)}.values())[::-1]
    good = [job for job in jobs if not job.error]
    if not good:
        raise ConfigError(jobs[0].error)
    check_launcher(config.hydra.launcher, good[0].config)
    with sweep.open():
        if len(jobs) < len(checked):
            sweep.screen.show(f"{len(checked)} combinations make {count(len(jobs), 'different run')}")
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
                f"{override.input_line} is a range without single values; type a list of values, or search "
                "with hydra/sweeper=optuna"
            )
    return choices


def _find_repeated(
    typed: Sequence[str], config: DictConfig, context: HydraContext
) -> tuple[list[str], list[list[str]]]:
    """The keys that vary but for repetitions, and the overrides of them in the best settings of a sweep.

    Raises:
        ConfigError: when that is none, has no completed run, or other keys vary in it.
    """
    path = config.sweep.repeat
    if path == "latest" and config.sweep.resume:
        raise ConfigError("sweep.repeat=latest is another sweep now: type the one that was repeated")
    source = find_sweep(None if path == "latest" else path, Path(config.output_dir).expanduser().absolute())
    with read_write(config):
        config.sweep.repeat = str(source)  # for the command that continues, when another one is the latest
    varied = {
        item.get_key_element() for item in parse(typed, context.config_loader) if item.is_sweep_override()
    }
    keys, earlier = (
        sorted(set(names) - set(REPETITIONS)) for names in (varied, read_record(source)["swept"])
    )
    if keys != earlier or not keys:
        over = ", ".join(earlier) or "nothing but seeds"
        raise ConfigError(f"sweep.repeat={source} is a sweep over {over}: type what was typed for it, too")
    best = [setting for setting in compare(collect([source]))[1] if setting.completed][:REPEATED]
    if not best:
        raise ConfigError(f"sweep.repeat={source} has no completed run")
    chosen = [map(str, setting.counted[0].result.get("overrides", ())) for setting in best]
    return keys, [[item for item in items if item.partition("=")[0] in keys] for items in chosen]
