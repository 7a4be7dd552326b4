"""What a run prints, which also goes to its log: a title, the layer table, a line an epoch, the result.

Nothing here imports torch.
"""

import io
import json
import logging
import math
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table

from cnn_lab.errors import first_line, printable
from cnn_lab.settings.places import IS_CHECKOUT, PROJECT
from cnn_lab.settings.typed import quote
from cnn_lab.shapes import Layer
from cnn_lab.terminal.waiting import hush, say

log = logging.getLogger(__name__)

LOG_WIDTH, WIDEST = 120, 1_000  # characters
NAMES = {"train": "training", "val": "validation", "test": "test"}  # of splits, in sentences


class Terminal(Console):
    """A terminal that may go away: what is printed then is lost, and the run continues."""

    def on_broken_pipe(self) -> None:
        """Called by rich when nobody reads any more, as behind `| head`."""
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
        self.quiet = True
        log.warning("nobody reads what is printed any more")


class Screen:
    """Prints to the terminal, and the same as plain text to the log."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = self._make_console()
        if not self.console.is_terminal:
            self.console.width = LOG_WIDTH

    def _make_console(self, width: int | None = None) -> Console:
        colors = None if os.environ.get("NO_COLOR") else "auto"  # rich would still print in bold
        return Terminal(highlight=False, quiet=self.quiet, color_system=colors, width=width)

    def wait_for(self, text: str) -> None:
        """Tell what the user waits for until something is shown."""
        if not self.quiet:
            say(text)

    def show(self, renderable: RenderableType, style: str | None = None) -> None:
        """Print a table, or a text as it is: without markup, and never cut to the terminal's width."""
        hush()
        if isinstance(renderable, str):
            text = printable(renderable)
            self.console.print(text, style=style, markup=False, soft_wrap=True)
        else:
            plain = Console(file=io.StringIO(), width=WIDEST)
            plain.print(renderable, markup=False)
            text = plain.file.getvalue().rstrip()  # type: ignore[attr-defined]
            width = max(map(len, text.splitlines()), default=0)
            console = self.console if width <= self.console.width else self._make_console(width)
            console.print(renderable, style=style, markup=False)
        log.info("%s", text)


def format_json(value: Any) -> str:
    """Plain data as JSON, which has no NaN and no infinity: they become null."""
    return json.dumps(_make_finite(value), indent=2, allow_nan=False)


def _make_finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _make_finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_make_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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


def format_head(splits: Iterable[str], metrics: Sequence[str] = ()) -> str:
    """What stands above the lines of `format_epoch`."""
    more = "".join(f"{name:>{_width(name)}}" for name in metrics)
    columns = "".join(f"{split + ' loss':>12}{'accuracy':>10}{more}" for split in splits)
    return f"{'epoch':>7}{columns}{'lr':>10}{'seconds':>10}"


def format_epoch(
    row: Mapping[str, Any], splits: Iterable[str], last: str, metrics: Sequence[str] = ()
) -> str:
    """One line for a row of metrics.csv, with your own `metrics` besides loss and accuracy."""
    columns = ""
    for split in splits:
        if row.get(f"{split}/loss") is None:
            columns += " " * (22 + sum(map(_width, metrics)))
            continue
        columns += f"{row[f'{split}/loss']:12.4f}{row[f'{split}/accuracy']:10.2%}"
        columns += "".join(f"{row[f'{split}/{name}']:#{_width(name)}.4g}" for name in metrics)
    epoch = f"{row['epoch']}/{last}"
    return f"{epoch:>7}{columns}{row['lr']:>10.3g}{row['seconds']:>10.1f}"


def _width(name: str) -> int:
    return max(10, len(name) + 2)


def format_result(result: Mapping[str, Any]) -> Table:
    """The table that ends a run."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column()
    best = result.get("best") or {}
    by = f" (best, epoch {best.get('epoch')})"
    for name, value in [*best.items(), *result.items()]:
        split, _, quantity = name.partition("/")
        chosen = by if name == result.get("best_by", {}).get("metric") else ""
        if quantity == "accuracy":
            loss = f", loss {result['test/loss']:.4f}" if split == "test" else ""
            table.add_row(f"{NAMES[split]} accuracy", f"{value:.2%}{loss}{chosen}")
        elif quantity and name != "test/loss":
            table.add_row(f"{NAMES[split]} {quantity}", f"{value:#.4g}{chosen}")
    measured, available = result["images"]["test"], result["dataset"]["sizes"]["test"]
    part = f", {measured:,} of {available:,} test images" if measured < available else ""
    table.add_row("data", f"{result['dataset']['name']}{part}")
    if result.get("epochs"):
        per_epoch, images = result["seconds_per_epoch"], result["samples_per_second"]
        speed = f"{per_epoch:.1f} s per epoch, {images:,} images per second"
        table.add_row("time", f"{result['seconds']:.1f} s in all, {speed}")
    return table


def format_outcome(name: str, result: Mapping[str, Any]) -> str:
    """One line for a run of a sweep that has ended."""
    words = [f"{name:<40}", f"{result['status']:<11}"]
    if result["status"] == "failed":
        return "  ".join([*words, first_line(result.get("error", ""))])
    if result.get("best"):
        words.append(f"val {result['best']['val/accuracy']:7.2%}")
    if result.get("test/accuracy") is not None:
        words.append(f"test {result['test/accuracy']:7.2%}")
    return "  ".join([*words, f"{result['seconds']:8.1f} s"])


def type_command(name: str) -> str:
    """One of this project's commands as it is typed in a shell."""
    script = PROJECT / "scripts" / f"{name}.py"
    return f"python {type_path(script)}" if IS_CHECKOUT else f"cnn-lab {name}"


def type_path(path: Path) -> str:
    """The path as it is typed in a shell."""
    return shlex.quote(shorten(path))


def type_override(key: str, path: Path) -> str:
    """`key=path` as it is typed in a shell, with the quotes that Hydra's grammar needs."""
    return shlex.quote(f"{key}={quote(shorten(path))}")


def shorten(path: Path) -> str:
    """The path as the user would type it from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
