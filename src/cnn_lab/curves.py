"""curves.png: loss and accuracy over the epochs, as the article draws them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Okabe and Ito's colours, which colour-blind people can tell apart; the dashes serve in print.
STYLES = {
    "train": {"color": "#0072B2", "linestyle": "-"},
    "val": {"color": "#D55E00", "linestyle": "--"},
    "test": {"color": "#009E73", "linestyle": "-."},
}
NAMES = {"train": "training", "val": "validation", "test": "test"}


def draw_curves(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draw the rows of metrics.csv into a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, style in STYLES.items():
            points = [
                (row["epoch"], row[f"{split}/{quantity}"])
                for row in rows
                if row.get(f"{split}/{quantity}") is not None
            ]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=NAMES[split], **style)
        axes.set_xlabel("epoch")
        axes.set_ylabel(quantity)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        if quantity == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        else:
            axes.set_ylim(bottom=0)
    figure.savefig(path, dpi=150)
