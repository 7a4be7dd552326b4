"""The picture of a report: report.png."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_lab.pictures.style import BLUE, DPI, ORANGE, SMALL, TEXT, make_figure
from cnn_lab.sweeps.results import Setting
from cnn_lab.terminal.screen import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
    validated = any(setting.measure("val/accuracy") for setting in settings)
    split = "val" if validated else "test"
    metric = f"{split}/accuracy"
    shown = [setting for setting in settings if setting.completed and setting.measure(metric)]
    if not shown:
        return
    numbers = all(_is_number(setting.values.get(key)) for setting in shown for key in names)
    height = 3.6 if len(shown) <= 10 else 3.6 + 0.18 * (min(len(shown), BARS_SHOWN) - 10)
    figure, (left, right) = make_figure(title, WIDTH, height, columns=2)
    label = f"{NAMES[split]} accuracy, %"
    if numbers and len(names) == 1:
        _draw_line(left, shown, names, metric, label)
    elif numbers and len(names) == 2:
        _draw_heat_map(figure, left, shown, names, metric, label)
    else:
        _draw_bars(left, shown, names, metric, f"{NAMES[split]} error, %")
    _draw_by_parameters(right, [item for item in shown if item.measure("parameters")], metric, label)
    figure.supxlabel(describe_error_bars(shown, metric), fontsize=SMALL)
    figure.savefig(path, dpi=DPI)


def describe_error_bars(settings: Sequence[Setting], metric: str) -> str:
    """What the error bars of a picture are, and of how many runs; empty where there are none."""
    measured = [setting.measure(metric) for setting in settings]
    counts = sorted(found[2] for found in measured if found and found[2] > 1)
    if not counts:
        return ""
    runs = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    return f"error bars: one standard deviation over {runs} runs, which differ in their seed"


def _draw_line(
    axes: "Axes", settings: Sequence[Setting], names: Mapping[str, str], metric: str, label: str
) -> None:
    ((key, name),) = names.items()
    ordered = sorted(settings, key=lambda setting: setting.values[key])
    x = [setting.values[key] for setting in ordered]
    means, spreads = _percentages(ordered, metric)
    axes.errorbar(x, means, spreads, marker="o", markersize=4, capsize=3, color=BLUE)
    _spread_axis(axes, x)
    axes.set_xlabel(name)
    axes.set_ylabel(label)


def _draw_heat_map(
    figure: "Figure",
    axes: "Axes",
    settings: Sequence[Setting],
    names: Mapping[str, str],
    metric: str,
    label: str,
) -> None:
    import numpy as np

    (x_key, x_name), (y_key, y_name) = names.items()
    columns = sorted({setting.values[x_key] for setting in settings})
    rows = sorted({setting.values[y_key] for setting in settings})
    grid = np.full((len(rows), len(columns)), np.nan)
    for setting, mean in zip(settings, _percentages(settings, metric)[0], strict=True):
        grid[rows.index(setting.values[y_key]), columns.index(setting.values[x_key])] = mean
    image = axes.imshow(grid, origin="lower", aspect="auto", cmap="cividis")
    figure.colorbar(image, ax=axes, label=label)
    middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
    if grid.size <= 64:
        for (row, column), value in np.ndenumerate(grid):
            if not np.isnan(value):
                color = "black" if value > middle else "white"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=color, fontsize=SMALL)
    axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    axes.set_xlabel(x_name)
    axes.set_ylabel(y_name)
    axes.grid(visible=False)


def _draw_bars(
    axes: "Axes", settings: Sequence[Setting], names: Mapping[str, str], metric: str, label: str
) -> None:
    """Bars of the error, which, unlike those of a high accuracy, can be compared and start at 0."""
    best = list(settings[:BARS_SHOWN])[::-1]
    means, spreads = _percentages(best, metric)
    axes.barh(
        [_label(setting, names) for setting in best],
        [100 - mean for mean in means],
        xerr=spreads,
        capsize=3,
        color=BLUE,
        ecolor="black",
        alpha=0.8,
    )
    axes.tick_params(axis="y", labelsize=SMALL)
    if len(names) == 1:
        axes.set_ylabel(next(iter(names.values())))
    axes.set_xlabel(f"{label} (less is better)")
    if len(settings) > BARS_SHOWN:
        axes.set_title(f"the best {BARS_SHOWN} of {len(settings)}", fontsize=TEXT)


def _draw_by_parameters(axes: "Axes", settings: Sequence[Setting], metric: str, label: str) -> None:
    from matplotlib.ticker import EngFormatter

    axes.set_xlabel("parameters")
    axes.set_ylabel(label)
    if not settings:
        return
    means, spreads = _percentages(settings, metric)
    parameters = [setting.measure("parameters")[0] for setting in settings]  # type: ignore[index]
    axes.errorbar(
        parameters, means, spreads, linestyle="", marker="o", markersize=4, capsize=3,
        color=ORANGE,
    )  # fmt: skip
    if len(settings) <= LABELS_SHOWN and len(set(parameters)) > 1:
        for setting, x, y in zip(settings, parameters, means, strict=True):
            text = ", ".join(str(_short(value)) for value in setting.values.values())
            axes.annotate(text, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=SMALL)
    axes.margins(x=0.15)
    _spread_axis(axes, parameters)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _percentages(settings: Sequence[Setting], metric: str) -> tuple[list[float], list[float]]:
    measured = [setting.measure(metric) for setting in settings]
    return [100 * found[0] for found in measured if found], [
        100 * (found[1] or 0.0) for found in measured if found
    ]


def _spread_axis(axes: "Axes", values: Sequence[float]) -> None:
    if min(values) > 0 and max(values) / min(values) >= LOG_RATIO:
        axes.set_xscale("log")


def _label(setting: Setting, names: Mapping[str, str]) -> str:
    if len(names) == 1:
        return ", ".join(str(_short(value)) for value in setting.values.values())
    return ", ".join(f"{names[key]} {_short(value)}" for key, value in setting.values.items())


def _short(value: Any) -> Any:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
