"""The picture of a report: report.png."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn_lab.pictures.style import BLUE, GRAY, ORANGE, SMALL, make_figure
from cnn_lab.settings.groups import show
from cnn_lab.sweeps.results import Setting, describe, find_choice, find_unit, name_repetitions
from cnn_lab.terminal.screen import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL, HEIGHT = 4.6, 3.6  # inches, of a panel
BARS_SHOWN = 20
LABELS_SHOWN = 10
LOG_RATIO = 20  # from which on numbers are spread over a logarithmic axis
LOG_ERRORS = 4  # the same for errors
MOST_TICKS = 4  # beside numbers of many digits, which nearly equal ones have
NAME_WIDTH = 32  # characters in a line of a setting's name
COSTS = {"parameters": "parameters", "seconds": "seconds per run"}
COLORS = {"best": BLUE, "no difference visible": "#56B4E9", "undecided": ORANGE, "worse": GRAY}


def draw_report(settings: Sequence[Setting], names: Mapping[str, str], title: str) -> "Figure | None":
    """Draw the settings of a sweep: the metric by what varies, by cost, and the verdict.

    One number that varies gives a line, two a heat map, anything else bars. What does not differ, or is not
    known, has no panel; None where no setting has a result.

    Args:
        names: what to call each key that varies.
    """
    metric = choose_metric(settings)
    shown = [setting for setting in settings if setting.completed and setting.measure(metric)]
    if not shown:
        return None
    sized = [setting for setting in shown if setting.measure("parameters") and setting.measure("seconds")]
    sizes = {found[0] for setting in sized if (found := setting.measure("parameters"))}
    costs = ("parameters", "seconds") if len(sizes) > 1 else ()
    judged = any(setting.verdict for setting in shown)
    numbers = all(_is_number(setting.values.get(key)) for setting in shown for key in names)
    is_bars = not (numbers and len(names) in (1, 2))
    rows = shown[:BARS_SHOWN]
    labels = ["\n".join(wrap(describe(setting, names))) for setting in rows]
    lines = sum(label.count("\n") + 1.3 for label in labels)
    has_rows = is_bars or judged
    heights = [max(HEIGHT, 0.16 * lines + 1.2) if has_rows else HEIGHT]
    columns = 1 + len(costs) + judged
    if columns == 4:
        columns, heights = 2, [*heights, HEIGHT]
    width = PANEL * max(columns, 1.5)
    figure, (left, *others) = make_figure(title, width, sum(heights), columns, heights)
    if is_bars:
        _draw_bars(left, rows, labels, metric)
    elif len(names) == 1:
        _draw_line(left, shown, names, metric)
    else:
        _draw_heat_map(left, shown, names, metric)
    if judged:
        chosen, _ = find_choice(run for setting in shown for run in setting.runs)
        unit, scale = find_unit(chosen)
        others[0].set_xlabel(f"worse than the best by, {unit} (95 % interval)")
        _draw_intervals(others.pop(0), scale, rows, [""] * len(rows) if is_bars else labels)
    for axes, cost in zip(others, costs, strict=True):
        axes.set_xlabel(COSTS[cost])
        _draw_by_cost(axes, sized, cost, metric)
    left_out = f"rows: the best {BARS_SHOWN} of {len(shown)} settings" if len(shown) > len(rows) else ""
    has_bars = is_bars or len(names) == 1 or costs
    notes = [describe_error_bars(shown, metric) if has_bars else "", left_out if has_rows else ""]
    figure.supxlabel("; ".join(filter(None, notes)), fontsize=SMALL)
    return figure


def choose_metric(settings: Sequence[Setting]) -> str:
    """What is drawn: what chose the best checkpoints, on validation images, if there are any."""
    metric, _ = find_choice(run for setting in settings for run in setting.runs)
    has_any = any(setting.list_values(metric) for setting in settings)
    return metric if has_any else metric.replace("val/", "test/")


def label_metric(metric: str, as_error: bool = False) -> str:
    """What an axis is called that shows `scale_metric` of a metric."""
    split, _, name = metric.partition("/")
    return (
        f"{NAMES[split]} {'error' if as_error else name}, %"
        if name == "accuracy"
        else f"{NAMES[split]} {name}"
    )


def scale_metric(metric: str, values: Any, as_error: bool = False) -> Any:
    """Accuracies as percentages, or as percentages of errors; other metrics as they are."""
    if not metric.endswith("/accuracy"):
        return values
    return 100 * (1 - values) if as_error else 100 * values


def describe_error_bars(settings: Sequence[Setting], metric: str) -> str:
    """What the error bars of a picture are, and over how many runs; empty where there are none."""
    over = name_repetitions(settings, metric)
    return over and f"error bars: one standard deviation over {over}"


def use_decades(axes: "Axes", direction: str) -> None:
    """Spread numbers over a logarithmic x or y axis, with plain numbers beside it."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    getattr(axes, f"set_{direction}scale")("log")
    axis = getattr(axes, f"{direction}axis")
    axis.set_minor_formatter(NullFormatter())
    if direction == "x":
        axis.set_major_formatter(EngFormatter(sep=""))  # Matplotlib's own would be a formula
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")


def wrap(name: str) -> list[str]:
    """A setting's description in lines, of which none ends between a key and its value."""
    joined = name.replace(" ", "\xa0").replace(",\xa0", ", ")
    return textwrap.wrap(joined, NAME_WIDTH, break_on_hyphens=False)


def color_of(setting: Setting) -> str:
    """The colour of the word that is said of a setting."""
    return COLORS[setting.verdict.word] if setting.verdict else BLUE


def _draw_line(axes: "Axes", settings: Sequence[Setting], names: Mapping[str, str], metric: str) -> None:
    ((key, name),) = names.items()
    ordered = sorted(settings, key=lambda setting: setting.values[key])
    x = [setting.values[key] for setting in ordered]
    means, spreads = _measure(ordered, metric)
    axes.plot(x, means, color=BLUE, linewidth=1)
    _draw_points(axes, x, means, spreads, ordered)
    axes.set(xlabel=name, ylabel=label_metric(metric))


def _draw_points(
    axes: "Axes", x: Sequence[float], y: np.ndarray, spreads: np.ndarray, settings: Sequence[Setting]
) -> None:
    points = np.array([x, y, spreads], dtype=float)
    drawn = np.array([color_of(setting) for setting in settings])
    for color in set(drawn):
        axes.errorbar(*points[:, drawn == color], fmt="o", color=color, markersize=5, capsize=3)
    if min(x) > 0 and max(x) / min(x) >= LOG_RATIO:
        use_decades(axes, "x")
    else:
        axes.locator_params(axis="x", nbins=MOST_TICKS)


def _draw_heat_map(axes: "Axes", settings: Sequence[Setting], names: Mapping[str, str], metric: str) -> None:
    (columns, x), (rows, y) = (
        np.unique([setting.values[key] for setting in settings], return_inverse=True) for key in names
    )
    grid = np.full((len(rows), len(columns)), np.nan)
    grid[y, x] = _measure(settings, metric)[0]
    image = axes.imshow(grid, origin="lower", aspect="auto", cmap="cividis")
    axes.figure.colorbar(image, ax=axes, label=label_metric(metric))
    axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    axes.set(**dict(zip(("xlabel", "ylabel"), names.values(), strict=True)))
    axes.grid(visible=False)


def _draw_bars(axes: "Axes", rows: Sequence[Setting], labels: Sequence[str], metric: str) -> None:
    """Bars of the error, which, unlike those of a high accuracy, can be compared and start at 0."""
    means, spreads = _measure(rows, metric, as_error=True)
    colors = [color_of(setting) for setting in rows]
    axes.barh(range(len(rows)), means, xerr=spreads, capsize=3, color=colors, ecolor="black", alpha=0.8)
    axes.set_yticks(range(len(rows)), labels, fontsize=SMALL)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    _, sign = find_choice(run for setting in rows for run in setting.runs)
    is_less = metric.endswith("/accuracy") or sign < 0
    axes.set_xlabel(f"{label_metric(metric, as_error=True)} ({'less' if is_less else 'more'} is better)")


def _draw_intervals(axes: "Axes", scale: float, rows: Sequence[Setting], labels: Sequence[str]) -> None:
    """How much worse each setting is than the best, best first, with its interval and the word for it."""
    axes.axvline(0, color="black", linewidth=0.8)
    for row, setting in enumerate(rows):
        if not (verdict := setting.verdict):
            continue
        half = scale * (verdict.high - verdict.worse_by)
        bar = [half] if math.isfinite(half) else None
        style = {"fmt": "o", "color": color_of(setting), "markersize": 5, "capsize": 3}
        axes.errorbar([scale * verdict.worse_by], [row], xerr=bar, **style)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), labels, fontsize=SMALL)
    words = axes.secondary_yaxis("right")
    said = [setting.verdict.word if setting.verdict else "one run" for setting in rows]
    words.set_yticks(range(len(rows)), said, fontsize=SMALL)
    words.spines["right"].set_visible(False)
    words.tick_params(length=0)


def _draw_by_cost(axes: "Axes", settings: Sequence[Setting], cost: str, metric: str) -> None:
    from matplotlib.ticker import EngFormatter

    costs = [found[0] for setting in settings if (found := setting.measure(cost))]
    errors, spreads = _measure(settings, metric, as_error=True)
    axes.set_ylabel(label_metric(metric, as_error=True))
    _draw_points(axes, costs, errors, spreads, settings)
    if (errors > spreads).all() and errors.max() / errors.min() >= LOG_ERRORS:
        use_decades(axes, "y")
    if len(settings) <= LABELS_SHOWN:
        ordered = sorted(zip(costs, errors, settings, strict=True), key=itemgetter(0))
        for number, (*place, setting) in enumerate(ordered):
            text = "\n".join(wrap(", ".join(map(show, setting.values.values()))))
            above = {"xytext": (5, 4), "va": "bottom"}  # and below in turn, so that neighbours keep apart
            style = {"xytext": (5, -4), "va": "top"} if number % 2 else above
            axes.annotate(text, place, textcoords="offset points", fontsize=SMALL, **style)
    axes.margins(x=0.15, y=0.12)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _measure(
    settings: Sequence[Setting], metric: str, as_error: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations as they are drawn; the latter are NaN where there is one run."""
    means, spreads, _ = np.array([setting.measure(metric) for setting in settings], dtype=float).T
    return scale_metric(metric, means, as_error), scale_metric(metric, spreads)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
