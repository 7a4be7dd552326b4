"""The callback that shows a run as it trains."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, Trainer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from cnn_lab.classifier import ImageClassifier
from cnn_lab.errors import count
from cnn_lab.terminal.screen import (
    NAMES,
    Screen,
    format_epoch,
    format_head,
    format_layers,
    format_result,
    shorten,
    type_command,
    type_path,
)

if TYPE_CHECKING:
    from cnn_lab.runs.record import Run

REFRESH_SECONDS = 0.25  # reading the loss waits for the device, so it is not read at every step


class Display(Callback):
    """A progress bar with the loss and accuracy so far where there is a terminal, and a line an epoch."""

    def __init__(self, screen: Screen, run: "Run", metrics: Sequence[str] = ()) -> None:
        """`metrics` are shown besides loss and accuracy."""
        self.screen = screen
        self.run = run
        self.metrics = list(metrics)
        self.progress: Progress | None = None
        self._splits: list[str] = []
        self._next_refresh = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: ImageClassifier) -> None:  # type: ignore[override]
        """Say what is trained, on what and where, with the layer table."""
        result = self.run.result
        sizes = ", ".join(
            f"{size:,} {name}{_name_part(name, result['images'][name], size)}"
            for name, size in result["dataset"]["sizes"].items()
            if size
        )
        title = [
            f"{type(pl_module.net).__name__}, {result['parameters']:,} parameters",
            f"{result['dataset']['name']}: {sizes}",
            f"{result['device']}, {result['precision']}",
        ]
        self.screen.show(" | ".join(title), style="bold")
        self.screen.show(f"{shorten(self.run.path)}\n")
        for resumed in self.run.result.get("resumed", [])[-1:] if trainer.ckpt_path else ():
            step, epochs = resumed["after_step"], len(self.run.rows)
            self.screen.show(f"Continuing after step {step:,}, with {count(epochs, 'epoch')} complete\n")
        self.screen.show(format_layers(pl_module.layers))
        self.screen.show("")

    def on_train_start(self, trainer: Trainer, pl_module: ImageClassifier) -> None:  # type: ignore[override]
        """Head the lines to come."""
        self._splits = ["train", *([pl_module.watched] if self.run.result["images"]["val"] else [])]
        self.screen.show(format_head(self._splits, self.metrics), style="bold")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the epoch's bar."""
        if not self.screen.console.is_terminal or self.screen.console.quiet:
            return
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(),
            console=self.screen.console,
            refresh_per_second=2,
            transient=True,
        )
        self.progress.start()
        description = f"epoch {trainer.current_epoch + 1}/{_last_epoch(trainer)}"
        self.progress.add_task(description, total=trainer.num_training_batches, metrics="")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: ImageClassifier, outputs: Any, batch: Any, batch_idx: int
    ) -> None:  # type: ignore[override]
        """Move the bar, a few times a second."""
        if self.progress and time.monotonic() >= self._next_refresh:
            metrics = pl_module.train_metrics.peek()
            text = f"loss {metrics['loss'].item():.4f}  accuracy {metrics['accuracy'].item():.2%}"
            self.progress.update(self.progress.task_ids[0], completed=batch_idx + 1, metrics=text)
            self.progress.refresh()
            self._next_refresh = time.monotonic() + REFRESH_SECONDS

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Replace the bar by the epoch's line."""
        self._stop()
        row = self.run.rows[-1]
        self.screen.show(format_epoch(row, self._splits, _last_epoch(trainer), self.metrics))
        if pl_module.answers is not None:
            self._point_out_one_answer(pl_module.answers, NAMES[pl_module.watched])

    def _point_out_one_answer(self, answers: Tensor, split: str) -> None:
        labels, predictions = answers.sum(dim=1), answers.sum(dim=0)
        if predictions.count_nonzero() == 1 and labels.count_nonzero() > 1:
            predicted, images = int(predictions.argmax()), int(labels.sum())
            text = f"The network predicts class {predicted} for all {images:,} {split} images"
            advice = "if this goes on, try a smaller optimizer.lr or more epochs"
            self.screen.show(f"{text}; {advice}", style="bold yellow")

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Say why a run has ended before its last epoch."""
        for stopping in trainer.early_stopping_callbacks:
            if stopping.stopping_reason_message:  # type: ignore[attr-defined]
                best = f"the best was {stopping.best_score.item():.4f}"  # type: ignore[attr-defined]
                epochs = count(stopping.wait_count, "epoch")  # type: ignore[attr-defined]
                self.screen.show(f"Early stopping: {stopping.monitor} did not improve for {epochs}; {best}")

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Show the result, and what can be done with the run."""
        self.screen.show("")
        self.screen.show(format_result(self.run.result))
        flag = " --trust" if self.run.needs_trust() else ""
        self.screen.show(f"\nEvaluate it again: {type_command('evaluate')} {type_path(self.run.path)}{flag}")
        self.screen.show(f"See its curves:    tensorboard --logdir {type_path(self.run.path.parents[1])}")

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def _stop(self) -> None:
        if self.progress:
            self.progress.stop()
            self.progress = None


def _name_part(split: str, used: int, size: int) -> str:
    if used >= size:
        return ""
    return f" ({used:,} per epoch)" if split == "train" else f" ({used:,} used)"


def _last_epoch(trainer: Trainer) -> str:
    return "?" if trainer.max_epochs in (None, -1) else str(trainer.max_epochs)
