"""The callback that writes a run's directory as the run goes: metrics.csv, result.json, TensorBoard."""

import math
import statistics
import time
import warnings
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from cnn_lab.classifier import ImageClassifier
from cnn_lab.errors import CnnLabError
from cnn_lab.pictures.events import EventLogger, flatten_settings
from cnn_lab.runs.record import LAST_CHECKPOINT, Run
from cnn_lab.settings.config import flatten
from cnn_lab.terminal.screen import shorten
from cnn_lab.trainer import count_images, describe_device


class Recorder(Callback):
    """Writes a row an epoch, puts the config into every checkpoint, and ends a run whose loss is no number.

    Attributes:
        best: the best epoch's number, and on validation images the value that chose it, the accuracy and
            metrics of one's own; empty where nothing was validated.
        is_best: whether the epoch that has just ended is the best; until one is validated, each is.
    """

    def __init__(self, run: Run, events: EventLogger, config: Mapping[str, Any], mode: str) -> None:
        """`mode` is "max" or "min": what is better of what chooses the best epoch."""
        self.run = run
        self.events = events
        self.config = dict(config)
        self.by = {"metric": config["best"], "mode": mode}
        self.best: dict[str, float] = {}
        self.is_best = False
        self._measured: dict[str, float] = {}
        self._epoch_start = 0.0
        self._images_seen = 0
        self._lr = 0.0  # of the last step, which a schedule has changed when the epoch ends
        self._seconds_seen = 0.0
        self._random_state: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: ImageClassifier) -> None:  # type: ignore[override]
        """Record what the run trains, on what, and where.

        Raises:
            ConfigError: for parts of an epoch that its batches do not have.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        self.run.update(
            images=count_images(trainer),
            dataset={"name": data.name, "sizes": data.sizes},
            parameters=sum(parameter.numel() for parameter in pl_module.net.parameters()),
            device=describe_device(trainer),
            precision=trainer.precision,
            best_by=self.by,
        )
        if not trainer.ckpt_path:
            self.run.keep_epochs(0)
        for logger in trainer.loggers[1:]:
            is_known = self.run.result.get("logger") == type(logger).__name__
            if not (trainer.ckpt_path and is_known):
                logger.log_hyperparams(flatten(self.config))
            self.run.update(logger=type(logger).__name__, logger_run=str(logger.version))
        self.events.log_start(self.config, pl_module.layers)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Go on after the checkpoint's last step."""
        # Lightning knows of no other way to find the next batch than that of its own stateful loaders.
        warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before")
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        resumed = {"time": now, "after_step": checkpoint["global_step"]}
        self.run.update(resumed=[*self.run.result.get("resumed", []), resumed])
        self.run.keep_epochs(checkpoint["finished_epochs"])
        for row in self.run.rows:
            self._note_best(row)
        states = checkpoint["random_state"]
        states = [states] if isinstance(states, dict) else states  # of the first process, in older ones
        self._random_state = states[trainer.global_rank if len(states) == trainer.world_size else 0]
        self._epoch_start = time.perf_counter() - checkpoint["epoch_seconds"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: ImageClassifier) -> None:  # type: ignore[override]
        """Start the epoch's clock; not called for the rest of an epoch."""
        self._epoch_start = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Note the step's lr, and before the first go on with the random numbers of the checkpoint."""
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]
        if self._random_state:  # not earlier, since making the loaders may draw some
            _set_random_state(self._random_state)
            self._random_state = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: ImageClassifier, outputs: Any, batch: list[Tensor], batch_idx: int
    ) -> None:  # type: ignore[override]
        """Write the training loss every `trainer.log_every_n_steps` batches.

        Raises:
            CnnLabError: when the loss is NaN or infinite. On a GPU, which nothing waits for, it is looked at
                only that often.
        """
        is_logged = (batch_idx + 1) % trainer.log_every_n_steps == 0
        if (is_logged or pl_module.device.type == "cpu") and not pl_module.train_metrics.loss_sum.isfinite():
            raise CnnLabError(self.describe_divergence(trainer, f"the loss is {outputs['loss'].item()}"))
        if is_logged:  # Lightning has divided the loss by the batches of a step
            loss = outputs["loss"] * trainer.accumulate_grad_batches
            self.events.experiment.add_scalar("train/loss_step", loss, trainer.global_step)
        is_last_batch = batch_idx + 1 == trainer.num_training_batches
        is_last_epoch = trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.global_step == trainer.max_steps or (is_last_batch and is_last_epoch):
            trainer.val_check_batch = batch_idx + 1  # Lightning validates where an epoch is due, at its end
            trainer.check_val_every_n_epoch = 1

    def on_validation_end(self, trainer: Trainer, pl_module: ImageClassifier) -> None:  # type: ignore[override]
        """Keep what was measured for the epoch's row."""
        if not trainer.sanity_checking:  # before the first epoch, on a part of the images
            self._measured = pl_module.eval_metrics.read(pl_module.watched)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: ImageClassifier) -> None:  # type: ignore[override]
        """Write the epoch's row."""
        train = pl_module.train_metrics.read("train")  # Lightning calls the module's own hook after this one
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            **train,
            **self._measured,
            "lr": self._lr,
            "seconds": round(time.perf_counter() - self._epoch_start, 3),
        }
        self._measured = {}  # not every epoch need be validated
        self._images_seen += int(pl_module.train_metrics.count) * trainer.world_size
        self._seconds_seen += row["seconds"]
        self.is_best = self._note_best(row) or not self.best
        for name, value in row.items():
            if name.endswith("/loss") and not math.isfinite(value):
                raise CnnLabError(self.describe_divergence(trainer, f"{name} is {value}"))
        self.run.add_epoch(row)
        self.events.log_epoch(row)
        for logger in trainer.loggers[1:]:
            logger.log_metrics({name: row[name] for name in ("lr", "seconds")}, row["step"])
        steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        done = {"epochs": row["epoch"], "steps": row["step"], "steps_per_epoch": steps}
        self.run.update(**done, best=self.best or None, **self._speed())

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Record what ended the training."""
        if any(stopping.stopping_reason_message for stopping in trainer.early_stopping_callbacks):  # type: ignore[attr-defined]
            ended_by = "early_stopping"
        elif trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
            ended_by = "max_steps"
        else:
            reached = trainer.max_epochs not in (None, -1) and len(self.run.rows) >= trainer.max_epochs
            ended_by = "max_epochs" if reached else "max_time"
        self.run.update(ended_by=ended_by)

    def on_test_end(self, trainer: Trainer, pl_module: ImageClassifier) -> None:  # type: ignore[override]
        """Record what the test images say, also for TensorBoard's HPARAMS."""
        self.run.update(**pl_module.eval_metrics.read("test"))
        result, best = self.run.result, self.run.result.get("best")
        metrics = {
            **({"val_accuracy": best["val/accuracy"]} if best else {}),
            "test_accuracy": result["test/accuracy"],
            "test_loss": result["test/loss"],
            "seconds_per_epoch": result.get("seconds_per_epoch", 0.0),
        }
        settings = flatten_settings(self.config, result["parameters"], result["dataset"]["sizes"]["train"])
        if self.run.writes:
            self.events.log_result(settings, metrics, result["overrides"])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Make the checkpoint one that can be used without the run's directory."""
        checkpoint["config"] = self.config
        checkpoint["random_state"] = _gather(trainer, _get_random_state())
        checkpoint["finished_epochs"] = trainer.fit_loop.epoch_progress.current.processed
        checkpoint["epoch_seconds"] = time.perf_counter() - self._epoch_start

    def describe_divergence(self, trainer: Trainer, problem: str) -> str:
        """The message for a run that has left the numbers behind."""
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        last = self.run.path / LAST_CHECKPOINT
        kept = (
            f"The last good checkpoint is {shorten(last)}" if last.exists() else "There is no checkpoint yet"
        )
        return (
            f"the run has diverged: {problem} at step {trainer.global_step} with lr {lr:.3g}. {kept}. "
            "Try a smaller optimizer.lr, or trainer.gradient_clip_val=1"
        )

    def _note_best(self, row: Mapping[str, Any]) -> bool:
        metric, sign = self.by["metric"], 1 if self.by["mode"] == "max" else -1
        value, best = row.get(metric), self.best.get(metric, -math.inf * sign)
        if value is None or not sign * value > sign * best:  # NaN is never the best
            return False
        names = (metric, "val/accuracy", *(f"val/{name}" for name in self.config["metrics"]))
        self.best = {name: row[name] for name in (*dict.fromkeys(names), "epoch")}
        return True

    def _speed(self) -> dict[str, Any]:
        return {
            "seconds_per_epoch": statistics.median(row["seconds"] for row in self.run.rows),
            "samples_per_second": round(self._images_seen / max(self._seconds_seen, 1e-9)),
        }


def _gather(trainer: Trainer, item: Any) -> list[Any]:
    """What each process gives."""
    found = [item] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(found, item)
    return found


def _get_random_state() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_state(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
