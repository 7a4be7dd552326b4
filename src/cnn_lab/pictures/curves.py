"""The curves of a run: curves.png.

Nothing here imports torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_lab.pictures.style import DPI, STYLES, make_figure
from cnn_lab.terminal.screen import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 9, 3.6  # inches
MARKED_EPOCHS = 30  # more points would run into each other


def draw_curves(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draw the rows of metrics.csv into a PNG file: loss and accuracy, as the article does."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure, panels = make_figure(title, WIDTH, HEIGHT, columns=2, layout=None)  # finding margins takes long
    figure.subplots_adjust(left=0.09, right=0.985, bottom=0.14, top=0.88, wspace=0.22)
    for axes, quantity in zip(panels, ("loss", "accuracy"), strict=True):
        for split, style in STYLES.items():
            points = [
                (row["epoch"], row[f"{split}/{quantity}"])
                for row in rows
                if row.get(f"{split}/{quantity}") is not None
            ]
            if points:
                marker = "o" if len(points) <= MARKED_EPOCHS else ""
                axes.plot(
                    *zip(*points, strict=True), marker=marker, markersize=4, label=NAMES[split], **style
                )
        axes.set_xlabel("epoch")
        axes.set_ylabel(quantity)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if quantity == "accuracy":
            _mark_best(axes, rows)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        else:
            axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=DPI)


def _mark_best(axes: "Axes", rows: Sequence[Mapping[str, Any]]) -> None:
    """A ring around the epoch whose weights are kept as the best."""
    measured = [row for row in rows if row.get("val/accuracy") is not None]
    if measured:
        best = max(measured, key=lambda row: row["val/accuracy"])
        label = f"best: {best['val/accuracy']:.2%}, epoch {best['epoch']}"
        style = {"linestyle": "", "marker": "o", "markersize": 10, "markerfacecolor": "none"}
        axes.plot([best["epoch"]], [best["val/accuracy"]], color="black", label=label, **style)
