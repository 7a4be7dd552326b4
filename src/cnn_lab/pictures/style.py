"""How pictures look: one place for colours, fonts and sizes."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnn_lab.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.ImageFont import FreeTypeFont

# Okabe and Ito's colours, which colour-blind people can tell apart; the dashes serve in print.
BLUE, ORANGE, GREEN, GRAY = "#0072B2", "#D55E00", "#009E73", "#999999"
STYLES = {
    "train": {"color": BLUE, "linestyle": "-"},
    "val": {"color": ORANGE, "linestyle": "--"},
    "test": {"color": GREEN, "linestyle": "-."},
}
DPI = 150
TITLE, TEXT, SMALL = 11, 10, 8  # points


def make_figure(
    title: str,
    width: float,
    height: float,
    columns: int = 1,
    rows: Sequence[float] = (1,),
    layout: str | None = "constrained",
) -> "tuple[Figure, Sequence[Axes]]":
    """Panels row by row, `width` by `height` inches in all, drawn without a screen.

    Args:
        rows: the height of each row of panels, in relation to the others.
    """
    from matplotlib import rcParams
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rcParams["text.parse_math"] = False  # a setting with a $ is no formula
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=TITLE)
    panels = figure.subplots(len(rows), columns, squeeze=False, height_ratios=rows).ravel()
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=TEXT - 1)
    return figure, panels


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure into a PNG file.

    Raises:
        WriteError: when it cannot be written.
    """
    with replacing(path) as aside:
        figure.savefig(aside, dpi=DPI)


def shade(values: np.ndarray, scale: float | None = None) -> np.ndarray:
    """Colours (..., 3), uint8, of numbers: blue below zero, white at zero, orange above.

    Args:
        scale: the number that gets the full colour; None for the largest size among `values`.
    """
    scale = scale or float(np.abs(values).max(initial=0.0)) or 1.0
    share = np.clip(values / scale, -1, 1)[..., None]
    full = np.where(share < 0, _rgb(BLUE), _rgb(ORANGE))
    return np.round(255 + np.abs(share) * (full - 255)).astype(np.uint8)


def _rgb(color: str) -> np.ndarray:
    return np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)], dtype=float)


@lru_cache
def load_font(size: int, bold: bool = False) -> "FreeTypeFont":
    """The font of Matplotlib's figures, `size` pixels high, for what Pillow draws."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", name), size)
