"""The curves of a run: curves.png.

Nothing here imports torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_lab.pictures.style import STYLES, make_figure, save_figure
from cnn_lab.terminal.screen import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 4.5, 3.6  # inches of a panel
MARKED_EPOCHS = 30  # more points would run into each other


def draw_curves(
    rows: Sequence[Mapping[str, Any]], path: Path, title: str, best: Mapping[str, Any] | None = None
) -> None:
    """Draw the rows of metrics.csv into a PNG file: loss and accuracy, as the article does, and the rest.

    Args:
        best: what result.json holds of the best epoch, first what chose it; None where nothing did.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    names = dict.fromkeys(name.partition("/")[2] for row in rows for name in row if "/" in name)
    width = WIDTH * len(names)  # finding margins takes long
    figure, panels = make_figure(title, width, HEIGHT, columns=len(names), layout=None)
    figure.subplots_adjust(left=0.81 / width, right=1 - 0.135 / width, bottom=0.14, top=0.88, wspace=0.22)
    for axes, quantity in zip(panels, names, strict=True):
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
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if best and next(iter(best)) == f"val/{quantity}":  # it chose the checkpoint
            _mark_best(axes, quantity, best)
        if quantity == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        elif quantity == "loss":
            axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
    save_figure(figure, path)


def _mark_best(axes: "Axes", quantity: str, best: Mapping[str, Any]) -> None:
    """A ring around the epoch whose weights are kept as the best."""
    value = best[f"val/{quantity}"]
    shown = f"{value:.2%}" if quantity == "accuracy" else f"{value:#.4g}"
    style = {"linestyle": "", "marker": "o", "markersize": 10, "markerfacecolor": "none"}
    label = f"best: {shown}, epoch {best['epoch']}"
    axes.plot([best["epoch"]], [value], color="black", label=label, **style)
