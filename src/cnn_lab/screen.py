"""What a run prints, which also goes to its log: a title, the layer table, a line an epoch, the result."""

import io
import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cnn_lab.classifier import ImageClassifier
from cnn_lab.runs import Run
from cnn_lab.shapes import Layer

log = logging.getLogger(__name__)

LOG_WIDTH = 120
REFRESH_SECONDS = 0.25  # reading the loss waits for the device, so it is not read at every step


class Screen:
    """Prints to the terminal, and the same as plain text to the log."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(highlight=False, quiet=quiet)
        if not self.console.is_terminal:
            self.console.width = LOG_WIDTH

    def show(self, renderable: RenderableType, style: str | None = None) -> None:
        """Print a table, or a text as it is: without markup, and never cut to the terminal's width."""
        plain = Console(file=io.StringIO(), width=LOG_WIDTH)
        for console in (self.console, plain):
            console.print(renderable, style=style, markup=False, soft_wrap=isinstance(renderable, str))
        log.info("%s", plain.file.getvalue().rstrip())  # type: ignore[attr-defined]


class Display(Callback):
    """A progress bar with the loss and accuracy so far where there is a terminal, and a line an epoch."""

    def __init__(self, screen: Screen, run: Run) -> None:
        self.screen = screen
        self.run = run
        self.progress: Progress | None = None
        self._splits: list[str] = []
        self._next_refresh = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: ImageClassifier) -> None:  # type: ignore[override]
        """Head the lines to come."""
        self._splits = ["train", *([pl_module.watched] if sum(trainer.num_val_batches) else [])]
        self.screen.show(format_head(self._splits), style="bold")

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
            auto_refresh=False,
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
        self.screen.show(format_epoch(self.run.rows[-1], self._splits, _last_epoch(trainer)))

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def _stop(self) -> None:
        if self.progress:
            self.progress.stop()
            self.progress = None


def format_layers(layers: Iterable[Layer]) -> Table:
    """The layer table, with its sums."""
    layers = list(layers)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer")
    table.add_column("operation")
    for heading in ("output", "parameters", "multiply-adds"):
        table.add_column(heading, justify="right")
    for layer in layers:
        output = " x ".join(str(size) for size in layer.output)
        counts = [f"{count:,}" if count else "" for count in (layer.parameters, layer.multiply_adds)]
        table.add_row(layer.name, layer.operation, output, *counts)
    sums = (sum(layer.parameters for layer in layers), sum(layer.multiply_adds for layer in layers))
    table.add_row("total", "", "", *(f"{value:,}" for value in sums), style="bold")
    return table


def format_head(splits: Iterable[str]) -> str:
    """What stands above the lines of `format_epoch`."""
    columns = "".join(f"{split + ' loss':>12}{'accuracy':>10}" for split in splits)
    return f"{'epoch':>7}{columns}{'lr':>10}{'seconds':>10}"


def format_epoch(row: Mapping[str, Any], splits: Iterable[str], last: str) -> str:
    """One line for a row of metrics.csv."""
    columns = ""
    for split in splits:
        measured = row.get(f"{split}/loss") is not None
        columns += f"{row[f'{split}/loss']:12.4f}{row[f'{split}/accuracy']:10.2%}" if measured else " " * 22
    epoch = f"{row['epoch']}/{last}"
    return f"{epoch:>7}{columns}{row['lr']:>10.3g}{row['seconds']:>10.1f}"


def format_result(result: Mapping[str, Any]) -> Table:
    """The table that ends a run."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column()
    if result.get("best"):
        best = result["best"]
        table.add_row("validation accuracy", f"{best['val/accuracy']:.2%} (best, epoch {best['epoch']})")
    if result.get("test/accuracy") is not None:
        table.add_row("test accuracy", f"{result['test/accuracy']:.2%}, loss {result['test/loss']:.4f}")
    table.add_row("data", result["dataset"]["name"])
    if result.get("epochs"):
        speed = (
            f"{result['seconds_per_epoch']:.1f} s an epoch, {result['samples_per_second']:,} images a second"
        )
        table.add_row("time", f"{result['seconds']:.1f} s in all, {speed}")
    return table


def shorten(path: Path) -> str:
    """The path as the user would type it from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _last_epoch(trainer: Trainer) -> str:
    return "?" if trainer.max_epochs in (None, -1) else str(trainer.max_epochs)
