"""A search with Optuna for the settings with the highest validation accuracy.

Importing this does not import torch.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from optuna import Study, Trial, create_study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from cnn_lab.errors import CnnLabError, ConfigError
from cnn_lab.runs.record import read_score
from cnn_lab.settings.config import list_gaps
from cnn_lab.settings.typed import parse
from cnn_lab.sweeps.job import Job
from cnn_lab.sweeps.launchers import check_launcher
from cnn_lab.sweeps.study import RUN, build, open_study, report_epochs
from cnn_lab.sweeps.sweep import Sweep

# In a simulated search over five keys the share of the one that mattered most was, from search to search,
# 49 ± 31 % after 10 trials, 74 ± 19 % after 20, 81 ± 11 % after 40.
IMPORTANCE_TRIALS, HALVES = 40, 20


def search(
    typed: Sequence[str], config: DictConfig, context: HydraContext, task_function: TaskFunction
) -> None:
    """Run trials of the search space in `typed`, Hydra's overrides, and report.

    A trial whose run fails is a failed trial, and the search goes on.

    Raises:
        ConfigError: for a search space, sampler or pruner that is none, a number of trials below 1, and runs
            without validation, before anything is written.
        CnnLabError: when no trial was completed with a value to choose by.
    """
    overrides = parse(typed, context.config_loader)
    space, fixed = read_space(overrides)
    drawn = {
        item.get_key_element(): item.get_value_string() for item in overrides if item.is_sweep_override()
    }
    settings = config.hydra.sweeper
    _check_numbers(settings)
    build(settings.pruner)
    sampler = build(settings.sampler)
    sweep = Sweep("search", drawn, config, context, task_function)
    sweep.total = settings.n_trials
    corners = [sweep.check([*fixed, *_overrides(params)]) for params in _find_corners(space)]
    good = [job.config for job in corners if not job.error]
    if not good:
        raise ConfigError(corners[0].error)
    _check_choice(good)
    check_launcher(config.hydra.launcher, good[0])
    with sweep.open():
        study = open_study(settings, sweep.path, sampler)
        _requeue_interrupted(study, sweep)
        sweep.ended_earlier = _count_finished(study, sweep)
        sweep.run_to_end(lambda: _run_trials(study, space, fixed, sweep), lambda: _summarize(study))
        if not study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
            raise CnnLabError(
                f"The search has found nothing: none of its {sweep.total} trials was completed with a "
                f"{good[0]['best']} to choose by"
            )


def _check_numbers(settings: DictConfig) -> None:
    for name in ("n_trials", "n_jobs"):
        value = settings[name]
        if not isinstance(value, int) or value < 1:
            raise ConfigError(
                f"hydra.sweeper.{name}={value} is out of range: it must be an integer of at least 1"
            )


def _check_choice(configs: Sequence[Mapping[str, Any]]) -> None:
    gaps = [next(list_gaps(config), None) for config in configs]
    if all(gaps):
        raise ConfigError(
            f"A search chooses by {configs[0]['best']}, which needs validation images, and {gaps[0]} leaves "
            "them out"
        )


def read_space(overrides: Sequence[Override]) -> tuple[dict[str, BaseDistribution], list[str]]:
    """The keys that vary with their distributions, and the overrides that are the same for all trials.

    Raises:
        ConfigError: when nothing varies, or an interval is empty.
    """
    space: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    for override in overrides:
        key = override.get_key_element()
        space.pop(key, None)
        fixed.pop(key, None)
        if override.is_sweep_override():
            space[key] = _make_distribution(override)
        else:
            fixed[key] = f"{key}={override.get_value_element_as_str()}"
    if not space:
        raise ConfigError(
            "nothing varies, so a search has nothing to choose: give a search space, such as "
            "'optimizer.lr=tag(log,interval(1e-4,1e-2))' or 'model.dropout=choice(0,0.25,0.5)'"
        )
    return space, list(fixed.values())


def _make_distribution(override: Override) -> BaseDistribution:
    value = override.value()
    try:
        if isinstance(value, IntervalSweep):
            numbers = (value.start, value.end)
            make = IntDistribution if all(isinstance(item, int) for item in numbers) else FloatDistribution
            return make(*numbers, log="log" in value.tags)
        if isinstance(value, RangeSweep) and not value.shuffle:
            start, stop, step = value.start, value.stop, value.step
            last = start + step * (math.ceil((stop - start) / step) - 1)  # Hydra's ranges leave out their end
            make = IntDistribution if isinstance(last, int) else FloatDistribution
            return make(min(start, last), max(start, last), step=abs(step))
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    except ValueError as error:
        raise ConfigError(f"{override.input_line} is not a search space: {error}") from error


def _find_corners(space: Mapping[str, BaseDistribution]) -> list[dict[str, Any]]:
    """Two examples of a trial: the first, or lowest, value of each key, and the last, or highest."""
    ends = [
        (item.choices[0], item.choices[-1]) if hasattr(item, "choices") else (item.low, item.high)
        for item in space.values()
    ]
    return [dict(zip(space, values, strict=True)) for values in zip(*ends, strict=True)]


def _overrides(params: Mapping[str, Any]) -> list[str]:
    """What the run is given: of a drawn number the digits that can matter, so that people can read it."""
    return [
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in params.items()
    ]


def _requeue_interrupted(study: Study, sweep: Sweep) -> None:
    """Let the trials of this sweep that were interrupted, which no process is running, be run again."""
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        if _is_own(trial, sweep):
            study.tell(trial.number, state=TrialState.FAIL)
            study.set_user_attr(f"again {trial.number}", True)
            study.enqueue_trial(trial.params)


def _run_trials(
    study: Study, space: Mapping[str, BaseDistribution], fixed: Sequence[str], sweep: Sweep
) -> None:
    """Run trials until there are as many as asked for, so many at once as asked for."""
    settings = sweep.config.hydra.sweeper
    while remaining := settings.n_trials - _count_finished(study, sweep):
        trials = [study.ask(dict(space)) for _ in range(min(settings.n_jobs, remaining))]
        jobs = [sweep.check([*fixed, *_overrides(trial.params)]) for trial in trials]
        for trial, job in zip(trials, jobs, strict=True):
            sweep.add(job)
            trial.set_user_attr(RUN, str(sweep.origin / job.path.name))
        sweep.run(jobs)
        for trial, job in zip(trials, jobs, strict=True):
            _tell(study, trial, job)


def _count_finished(study: Study, sweep: Sweep) -> int:
    finished = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished()
        and _is_own(trial, sweep)
        and f"again {trial.number}" not in study.user_attrs
    ]
    return min(len(finished), sweep.config.hydra.sweeper.n_trials)


def _is_own(trial: FrozenTrial, sweep: Sweep) -> bool:
    """Whether a trial is one of this sweep: in a file, which lies in its directory, all are."""
    run = trial.user_attrs.get(RUN, "")
    return bool(run) and (not sweep.config.hydra.sweeper.storage or Path(run).parent == sweep.origin)


def _tell(study: Study, trial: Trial, job: Job) -> None:
    if job.done:  # its run was not started for this trial, so that nothing has told its epochs
        report_epochs(trial, job.path)
    result = job.result()
    score = read_score(result)
    if result["status"] == "pruned":
        study.tell(trial, state=TrialState.PRUNED)
    elif result["status"] == "completed" and score is not None:
        study.tell(trial, score)
    else:
        study.tell(trial, state=TrialState.FAIL)


def _summarize(study: Study) -> list[str]:
    """How much each key matters (PED-ANOVA, Watanabe et al. 2023), if there are enough trials to tell."""
    done = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if not done:
        return []
    if len(done) < IMPORTANCE_TRIALS:
        found = f"{len(done)} of {IMPORTANCE_TRIALS}"
        return [f"Too few complete trials ({found}) to say how much each key matters."]
    if len({trial.value for trial in done}) == 1:
        return []
    shares = measure_importance(done)
    text = ", ".join(
        f"{key} {100 * mean:.0f} ± {100 * spread:.0f} %" for key, (mean, spread) in shares.items()
    )
    return [f"Importance over {len(done)} trials, ± its standard deviation: {text}"]


def measure_importance(trials: Sequence[FrozenTrial]) -> dict[str, tuple[float, float]]:
    """The share of each key, the largest first, and its standard deviation.

    That is the one over random halves of the trials, drawn without replacement: of means it would be the
    standard error of the mean of all.
    """
    generator = np.random.default_rng(0)
    halves = [generator.permutation(len(trials))[: len(trials) // 2] for _ in range(HALVES)]
    shares = [_share([trials[index] for index in half]) for half in halves]
    spreads = {key: float(np.std([share.get(key, 0.0) for share in shares], ddof=1)) for key in shares[0]}
    return {key: (share, spreads.get(key, 0.0)) for key, share in _share(trials).items()}


def _share(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    study = create_study(direction="maximize")
    study.add_trials(trials)
    # What sets the best quarter apart from all; the default tenth is a trial or two of a short search.
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=0.25))
