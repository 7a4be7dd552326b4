"""The callback that writes a run's directory as the run goes: metrics.csv, result.json, TensorBoard."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from cnn_lab.classifier import ImageClassifier
from cnn_lab.events import EventLogger
from cnn_lab.runs import Run


class Recorder(Callback):
    """Writes a row an epoch, and puts the config into every checkpoint."""

    def __init__(self, run: Run, events: EventLogger, config: Mapping[str, Any]) -> None:
        self.run = run
        self.events = events
        self.config = dict(config)
        self.best: dict[str, float] = {}
        self._measured: dict[str, float] = {}
        self._epoch_start = 0.0
        self._images_seen = 0
        self._seconds_seen = 0.0
        self._random_state: Tensor | None = None

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Go on after the checkpoint's epoch."""
        self.run.keep_epochs(checkpoint["epoch"] + 1)
        for row in self.run.rows:
            self._note_best(row)
        self._random_state = checkpoint["random_state"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: ImageClassifier) -> None:  # type: ignore[override]
        """Start the epoch's clock."""
        if self._random_state is not None:  # now, since making the loaders has drawn numbers
            torch.set_rng_state(self._random_state)
            self._random_state = None
        self._measured = {}
        self._epoch_start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: list[Tensor], batch_idx: int
    ) -> None:  # type: ignore[override]
        """Write the training loss every `trainer.log_every_n_steps` batches."""
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:
            self.events.experiment.add_scalar("train/loss_step", outputs["loss"], trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: ImageClassifier) -> None:  # type: ignore[override]
        """Keep what was measured for the epoch's row."""
        self._measured = pl_module.eval_metrics.read(pl_module.watched)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: ImageClassifier) -> None:  # type: ignore[override]
        """Write the epoch's row."""
        train = pl_module.train_metrics.read("train")  # Lightning calls the module's own hook after this one
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            **train,
            **self._measured,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "seconds": round(time.perf_counter() - self._epoch_start, 3),
        }
        self._images_seen += int(pl_module.train_metrics.count)
        self._seconds_seen += row["seconds"]
        self._note_best(row)
        self.run.add_epoch(row)
        self.events.log_epoch(row)
        self.run.update(epochs=row["epoch"], steps=row["step"], best=self.best or None, **self._speed())

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Make the checkpoint one that can be used without the run's directory."""
        checkpoint["config"] = self.config
        checkpoint["random_state"] = torch.get_rng_state()

    def _note_best(self, row: Mapping[str, Any]) -> None:
        accuracy = row.get("val/accuracy")
        if accuracy is not None and accuracy > self.best.get("val/accuracy", -1.0):
            self.best = {"val/accuracy": accuracy, "epoch": row["epoch"]}

    def _speed(self) -> dict[str, Any]:
        return {
            "seconds_per_epoch": statistics.median(row["seconds"] for row in self.run.rows),
            "samples_per_second": round(self._images_seen / max(self._seconds_seen, 1e-9)),
        }
