"""The callback that ends a trial of a search early when others do better."""

from pathlib import Path
from typing import Any

import optuna
from lightning.pytorch import Callback, Trainer
from omegaconf import DictConfig

from cnn_lab.errors import RunPruned
from cnn_lab.runs.record import read_result, read_score
from cnn_lab.sweeps.results import find_origin
from cnn_lab.sweeps.study import find_trial, open_study, report_epochs


class Pruning(Callback):
    """Tells Optuna after each epoch how good it was, and ends the run if its pruner says so."""

    def __init__(self, trial: optuna.Trial, run_dir: Path) -> None:
        self.trial = trial
        self.run_dir = run_dir

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Report, and raise `RunPruned` for a trial that is to end.

        Raises:
            RunPruned: when the pruner ends the trial.
        """
        score = read_score({**read_result(self.run_dir), "best": trainer.callback_metrics})
        if score is None:
            return
        epoch = trainer.current_epoch + 1
        self.trial.report(float(score), epoch)
        if self.trial.should_prune():
            raise RunPruned(f"pruned after epoch {epoch}: other trials were better at that point")


def make_pruning(sweeper: DictConfig, run_dir: Path) -> Pruning:
    """The callback for the trial whose run goes into `run_dir`."""
    sweep = run_dir.parent
    trial = find_trial(open_study(sweeper, sweep), find_origin(sweep) / run_dir.name)
    report_epochs(trial, run_dir)  # of a run that goes on
    return Pruning(trial, run_dir)
