"""The curves of a sweep, a line a setting: over epochs, and over the number of training images."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn_lab.pictures.style import SMALL, make_figure
from cnn_lab.runs.record import read_rows
from cnn_lab.sweeps.plots import LOG_RATIO, choose_metric, label_metric, scale_metric, use_decades, wrap
from cnn_lab.sweeps.results import REPETITIONS, Record, Setting, describe, name_repetitions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES_SHOWN = 10
WIDTH, HEIGHT, BESIDE = 6.5, 4.4, 1.2  # inches of axes and picture, and of what is above and below the axes
CHARACTER, LINE = 0.07, 0.15  # inches of a small character and its line
SIZE = "data.train_size"
# Okabe and Ito's, and two more that differ from them in lightness.
COLORS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00",
    "#56B4E9", "#000000", "#999999", "#7A4B1E", "#B3B300",
)  # fmt: skip


@dataclass
class Line:
    """What is drawn of a setting.

    Attributes:
        runs: what is drawn of each run, by place on the x axis.
        fewest: runs that must have been measured at a place, so that the mean is drawn there.
    """

    name: str
    runs: list[dict[int, float]]
    fewest: int

    def average(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places, means, and standard deviations, which are 0 of one run."""
        found: dict[int, list[float]] = defaultdict(list)
        for run in self.runs:
            for place, value in run.items():
                found[place].append(value)
        places = sorted(place for place in found if len(found[place]) >= self.fewest) or sorted(found)
        spreads = [np.std(found[place], ddof=1) if len(found[place]) > 1 else 0.0 for place in places]
        return np.array(places), np.array([np.mean(found[place]) for place in places]), np.array(spreads)


def draw_curves(settings: Sequence[Setting], names: Mapping[str, str], title: str) -> "Figure | None":
    """Draw the error of the best settings by epoch, unless no run has measured one.

    With another metric than the accuracy it is that, and not the error; so in `draw_learning_curves`.
    """
    metric = choose_metric(settings)
    lines: list[Line] = []
    for setting in settings:
        runs = [run for record in setting.counted if (run := _read_epochs(record, metric))]
        if runs:
            lines.append(Line(describe(setting, names), runs, fewest=len(runs)))
        if len(lines) == LINES_SHOWN:
            break
    title += f": the best {len(lines)} of {len(settings)} settings" if len(settings) > LINES_SHOWN else ""
    labels = ("epoch", label_metric(metric, as_error=True))
    return _draw(lines, title, labels, name_repetitions(settings, metric))


def draw_learning_curves(
    settings: Sequence[Setting], names: Mapping[str, str], title: str
) -> "Figure | None":
    """Draw the error over the number of training images, unless that does not vary."""
    metric = choose_metric(settings)
    groups: dict[str, dict[Any, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for setting in settings if SIZE in names else ():
        others = {key: value for key, value in setting.values.items() if key != SIZE}
        name = describe(Setting(others, []), names) if others else ""
        for record in setting.counted:
            value, size = record.measured(metric), _count_images(record)
            if value is not None and size:
                repetition = tuple(record.settings.get(key) for key in REPETITIONS)
                groups[name][repetition][size] = scale_metric(metric, value, as_error=True)
    lines = [Line(name, list(runs.values()), fewest=1) for name, runs in groups.items()]
    lines = [line for line in lines if len(line.average()[0]) > 1]
    title += f": the best {LINES_SHOWN} of {len(lines)} settings" if len(lines) > LINES_SHOWN else ""
    labels = ("training images", label_metric(metric, as_error=True))
    return _draw(lines[:LINES_SHOWN], title, labels, name_repetitions(settings, metric), sized=True)


def _read_epochs(record: Record, metric: str) -> dict[int, float]:
    """What is drawn of a run, by epoch."""
    rows = ((row["epoch"], row.get(metric)) for row in read_rows(record.path))
    return {
        epoch: scale_metric(metric, value, as_error=True)
        for epoch, value in rows
        if value is not None and math.isfinite(value)
    }


def _count_images(record: Record) -> int:
    """How many images a run was trained on; 0 where that is not known."""
    sizes = record.result.get("dataset", {}).get("sizes")
    size = record.settings.get(SIZE) or (sizes.get("train") if isinstance(sizes, dict) else 0)
    return size if isinstance(size, int) else 0


def _draw(
    lines: Sequence[Line], title: str, labels: tuple[str, str], over: str, sized: bool = False
) -> "Figure | None":
    """Draw a line a setting with a band of one standard deviation, its single runs thin behind it."""
    if not lines:
        return None
    names = [wrap(line.name) for line in lines]
    margin = 0.4 + CHARACTER * max((len(part) for name in names for part in name), default=0)
    room = [LINE * (len(name) + 0.4) for name in names]  # inches
    height = max(HEIGHT, sum(room) + BESIDE)
    figure, (axes,) = make_figure(title, WIDTH + margin, height, layout=None)
    left, right, bottom = 0.7 / (WIDTH + margin), WIDTH / (WIDTH + margin), 0.75 / height
    figure.subplots_adjust(left, bottom, right, bottom + 1 - BESIDE / height)
    ends = [_draw_line(axes, *item, "o" if sized else "") for item in zip(lines, COLORS, strict=False)]
    axes.set(xlabel=labels[0], ylabel=labels[1])
    if sized:
        use_decades(axes, "x")
    else:
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    values = [value for line in lines for run in line.runs for value in run.values()]
    if min(values) > 0 and (sized or max(values) / min(values) >= LOG_RATIO):
        use_decades(axes, "y")
    note = f"line and band: mean and one standard deviation over {over}" if over else "one run per setting"
    figure.text(0.5, 0.08 / height, note, ha="center", fontsize=SMALL)
    heights = [inches / (height - BESIDE) for inches in room]
    if any(names):
        _name_lines(axes, ends, ["\n".join(name) for name in names], heights)
    return figure


def _draw_line(axes: "Axes", line: Line, color: str, marker: str) -> tuple[float, float]:
    """Draw a setting; returns where its line ends."""
    places, means, spreads = line.average()
    marker = marker or ("o" if len(places) == 1 else "")  # a single place gives no line
    for run in line.runs if len(line.runs) > 1 else ():
        points = sorted(run.items())
        axes.plot(
            *zip(*points, strict=True), color=color, linewidth=0.6, alpha=0.4, marker=marker, markersize=2
        )
    lower = means - spreads
    lower = np.where(means > 0, np.maximum(lower, means / 100), lower)  # a logarithmic axis has no 0
    axes.fill_between(places, lower, means + spreads, color=color, alpha=0.2, linewidth=0)
    axes.plot(places, means, color=color, linewidth=1.8, marker=marker, markersize=4)
    return float(places[-1]), float(means[-1])


def _name_lines(
    axes: "Axes", ends: Sequence[tuple[float, float]], names: Sequence[str], heights: Sequence[float]
) -> None:
    """Write the names beside the ends of the lines, none over another, and join those that were moved."""
    axes.autoscale_view()  # else the axes would not have their limits yet
    to_axes = axes.transData + axes.transAxes.inverted()
    wanted = [float(to_axes.transform(end)[1]) for end in ends]
    for end, name, color, height in zip(ends, names, COLORS, spread_out(wanted, heights), strict=False):
        join = {"arrowstyle": "-", "color": color, "linewidth": 0.6, "linestyle": ":", "relpos": (0, 0.5)}
        axes.annotate(
            name, end, (1.03, height), textcoords="axes fraction", color=color, fontsize=SMALL, va="center",
            arrowprops=join, annotation_clip=False,
        )  # fmt: skip


def spread_out(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Where the middles of texts lie, as near as can be to where they are `wanted`, so that none overlap.

    Args:
        wanted: in [0, 1] as the places between which all texts lie, if there is room for them.
    """
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    placed, edge = list(wanted), 0.0
    for index in order:
        placed[index] = max(wanted[index], edge + heights[index] / 2)
        edge = placed[index] + heights[index] / 2
    edge = max(1.0, sum(heights))
    for index in reversed(order):
        placed[index] = min(placed[index], edge - heights[index] / 2)
        edge = placed[index] - heights[index] / 2
    return placed
