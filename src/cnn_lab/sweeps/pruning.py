"""The callback that ends a trial of a search early when others do better."""

from pathlib import Path
from typing import Any

import optuna
from lightning.pytorch import Callback, Trainer
from omegaconf import DictConfig

from cnn_lab.errors import RunPruned
from cnn_lab.sweeps.study import find_trial, open_study, report_epochs


class Pruning(Callback):
    """Tells Optuna the validation accuracy after each epoch, and ends the run if its pruner says so."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Report, and raise `RunPruned` for a trial that is to end.

        Raises:
            RunPruned: when the pruner ends the trial.
        """
        accuracy = trainer.callback_metrics.get("val/accuracy")
        if accuracy is None:
            return
        epoch = trainer.current_epoch + 1
        self.trial.report(float(accuracy), epoch)
        if self.trial.should_prune():
            raise RunPruned(f"pruned after epoch {epoch}: other trials had done better by then")


def make_pruning(sweeper: DictConfig, run_dir: Path) -> Pruning:
    """The callback for the trial whose run goes into `run_dir`."""
    trial = find_trial(open_study(sweeper, run_dir.parent), run_dir)
    report_epochs(trial, run_dir)  # of a run that goes on
    return Pruning(trial)
