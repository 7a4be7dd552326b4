"""The study of a search: where Optuna keeps its trials, for the search itself and for its runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from optuna.storages.journal import JournalFileBackend, JournalStorage

from cnn_lab.errors import ConfigError
from cnn_lab.runs.record import read_result, read_rows, read_score
from cnn_lab.sweeps.results import find_origin

STUDY_FILE = "study.log"
RUN = "run"  # the trial's attribute that holds its run's directory, as it is where the sweep was begun


def open_study(settings: DictConfig, sweep: Path, sampler: Any = None) -> optuna.Study:
    """The study of a search, which is made if there is none."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if settings.storage:
        storage = settings.storage
        name = settings.study_name or find_origin(sweep).name
    else:
        journal = sweep / STUDY_FILE
        lock: Any = FileLock(journal.with_suffix(".lock"))  # unlike Optuna's own, it ends with its process
        storage = JournalStorage(JournalFileBackend(str(journal), lock))
        names = [*optuna.get_all_study_names(storage), settings.study_name, sweep.name]
        name = next(filter(None, names))  # of a sweep that was renamed the one that is there
    study = optuna.create_study(
        storage=storage, study_name=name, direction="maximize", load_if_exists=True,
        sampler=sampler, pruner=build(settings.pruner),
    )  # fmt: skip
    trials = study.get_trials(deepcopy=False)
    if sampler is not None and settings.sampler.get("seed") is not None and trials:
        seed = settings.sampler.seed + len(trials)
        study.sampler = build({**settings.sampler, "seed": seed})  # the first one would draw the same again
    return study


def build(node: Mapping[str, Any]) -> Any:
    """The sampler or the pruner that a config names.

    Raises:
        ConfigError: for arguments that it does not take.
    """
    try:
        return instantiate(node)
    except InstantiationException as error:
        raise ConfigError(f"hydra.sweeper: {error.__cause__ or error}") from error


def find_trial(study: optuna.Study, run_dir: Path) -> optuna.Trial:
    """The last trial whose `RUN` is `run_dir`, in a process that did not ask for it."""
    trials = reversed(study.get_trials(deepcopy=False))
    frozen = next(trial for trial in trials if trial.user_attrs.get(RUN) == str(run_dir))
    # Optuna offers nothing public to take up a trial that another process has asked for.
    return optuna.Trial(study, frozen._trial_id)


def report_epochs(trial: optuna.Trial, run_dir: Path) -> None:
    """Tell the study how good each epoch was that a run has finished, the larger the better."""
    for row in read_rows(run_dir):
        score = read_score({**read_result(run_dir), "best": row})
        if score is not None:
            trial.report(score, row["epoch"])
