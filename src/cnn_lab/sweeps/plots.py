"""The picture of a report: report.png."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn_lab.pictures.style import BLUE, DPI, ORANGE, SMALL, TEXT, make_figure
from cnn_lab.sweeps.results import Setting, describe, show
from cnn_lab.terminal.screen import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 9  # inches
BARS_SHOWN = 20
LABELS_SHOWN = 10
LOG_RATIO = 20  # from which on numbers are spread over a logarithmic axis


def draw_report(settings: Sequence[Setting], names: Mapping[str, str], path: Path, title: str) -> None:
    """Draw the settings of a sweep into a PNG file: accuracy by what varies, and by parameters.

    One number that varies gives a line, two a heat map, anything else bars. Without validation images it is
    the accuracy on test images that is drawn.

    Args:
        names: what to call each key that varies.
    """
    split = "val" if any(setting.measure("val/accuracy") for setting in settings) else "test"
    metric = f"{split}/accuracy"
    shown = [setting for setting in settings if setting.completed and setting.measure(metric)]
    if not shown:
        return
    numbers = all(_is_number(setting.values.get(key)) for setting in shown for key in names)
    height = 3.6 if len(shown) <= 10 else 3.6 + 0.18 * (min(len(shown), BARS_SHOWN) - 10)
    figure, (left, right) = make_figure(title, WIDTH, height, columns=2)
    label = f"{NAMES[split]} accuracy, %"
    if numbers and len(names) == 1:
        ((key, name),) = names.items()
        shown.sort(key=lambda setting: setting.values[key])
        left.set(xlabel=name, ylabel=label)
        _draw_points(left, [setting.values[key] for setting in shown], shown, metric, fmt="o-", color=BLUE)
    elif numbers and len(names) == 2:
        _draw_heat_map(left, shown, names, metric, label)
    else:
        _draw_bars(left, shown, names, metric, f"{NAMES[split]} error, % (less is better)")
    right.set(xlabel="parameters", ylabel=label)
    _draw_by_parameters(right, [item for item in shown if item.measure("parameters")], metric)
    figure.supxlabel(describe_error_bars(shown, metric), fontsize=SMALL)
    figure.savefig(path, dpi=DPI)


def describe_error_bars(settings: Sequence[Setting], metric: str) -> str:
    """What the error bars of a picture are, and of how many runs; empty where there are none."""
    measured = [setting.measure(metric) for setting in settings]
    counts = sorted({found[2] for found in measured if found and found[2] > 1})
    runs = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else ""
    return runs and f"error bars: one standard deviation over {runs} runs, which differ in their seed"


def _draw_points(
    axes: "Axes", x: Sequence[float], settings: Sequence[Setting], metric: str, **style: str
) -> None:
    axes.errorbar(x, *_percentages(settings, metric), markersize=4, capsize=3, **style)
    if min(x) > 0 and max(x) / min(x) >= LOG_RATIO:
        from matplotlib.ticker import EngFormatter, NullFormatter

        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # Matplotlib's own would be a formula
        axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_heat_map(
    axes: "Axes", settings: Sequence[Setting], names: Mapping[str, str], metric: str, label: str
) -> None:
    (columns, x), (rows, y) = (
        np.unique([setting.values[key] for setting in settings], return_inverse=True) for key in names
    )
    grid = np.full((len(rows), len(columns)), np.nan)
    grid[y, x] = _percentages(settings, metric)[0]
    image = axes.imshow(grid, origin="lower", aspect="auto", cmap="cividis")
    axes.figure.colorbar(image, ax=axes, label=label)
    axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    axes.set(**dict(zip(("xlabel", "ylabel"), names.values(), strict=True)))
    axes.grid(visible=False)


def _draw_bars(
    axes: "Axes", settings: Sequence[Setting], names: Mapping[str, str], metric: str, label: str
) -> None:
    """Bars of the error, which, unlike those of a high accuracy, can be compared and start at 0."""
    best = settings[BARS_SHOWN - 1 :: -1]
    means, spreads = _percentages(best, metric)
    labels = [describe(setting, names) for setting in best]
    axes.barh(labels, 100 - means, xerr=spreads, capsize=3, color=BLUE, ecolor="black", alpha=0.8)
    axes.tick_params(axis="y", labelsize=SMALL)
    axes.set_xlabel(label)
    if len(settings) > BARS_SHOWN:
        axes.set_title(f"the best {BARS_SHOWN} of {len(settings)}", fontsize=TEXT)


def _draw_by_parameters(axes: "Axes", settings: Sequence[Setting], metric: str) -> None:
    from matplotlib.ticker import EngFormatter

    parameters = [found[0] for setting in settings if (found := setting.measure("parameters"))]
    if not parameters:
        return
    _draw_points(axes, parameters, settings, metric, fmt="o", color=ORANGE)
    if len(settings) <= LABELS_SHOWN and len(set(parameters)) > 1:
        for setting, *place in zip(settings, parameters, _percentages(settings, metric)[0], strict=True):
            text = ", ".join(map(show, setting.values.values()))
            axes.annotate(text, place, xytext=(5, 4), textcoords="offset points", fontsize=SMALL)
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _percentages(settings: Sequence[Setting], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations, which are NaN where there is one run."""
    means, spreads, _ = 100 * np.array([setting.measure(metric) for setting in settings], dtype=float).T
    return means, spreads


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
