"""How numbers are written: as text, as colours, and as colours with the numbers in them."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from cnn_lab.pictures.sheets import enlarge
from cnn_lab.pictures.style import GRAY, load_font, shade
from cnn_lab.shapes import output_size

EMPTY = (232, 232, 232)  # of what is not computed yet
MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"


def number(value: float, digits: int = 2) -> str:
    """A number with a real minus sign, and none before zero."""
    return f"{round(float(value), digits) + 0.0:.{digits}f}".replace("-", MINUS)


def small(value: float) -> str:
    """A number of at least 0, which may be very small, as HTML."""
    if value >= 0.001 or value == 0:
        return f"{value:.4f}"
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits} · 10<sup>{MINUS}{abs(int(exponent))}</sup>"


def percent(share: float, more: str = ">") -> str:
    """A probability, which is never said to be all or nothing."""
    if share >= 0.99995:
        return f"{more} 99.99 %"
    return "< 0.01 %" if share < 0.00005 else f"{100 * share:.2f} %"


def write_shape(shape: Sequence[int]) -> str:
    return f" {TIMES} ".join(f"{size:,}" for size in shape)


def write_formula(n: int, f: int, p: float, s: int) -> str:
    """The size formula, filled in."""
    return f"floor(({n} + 2·{p:g} {MINUS} {f}) / {s}) + 1 = {output_size(n, f, p, s)}"


def draw_map(
    values: np.ndarray, side: int, scale: float | None = None, box: tuple[int, int, int] | None = None
) -> Image.Image:
    """Numbers as colours, NaN in gray, with a frame around the square `box`: top, left, size."""
    colors = shade(np.nan_to_num(values), scale)
    colors[np.isnan(values)] = EMPTY
    cell = max(1, side // max(values.shape))
    picture = enlarge(colors, cell * max(values.shape))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, picture.width - 1, picture.height - 1), outline=GRAY)
    if box:
        top, left, size = (value * cell for value in box)
        draw.rectangle((left - 1, top - 1, left + size, top + size), outline="black", width=2)
    return picture


def draw_grid(values: np.ndarray, side: int, scale: float | None = None) -> Image.Image:
    """Numbers as colours with the numbers written in, where there is room for them."""
    cell = side / len(values)
    colors = shade(values, scale)
    picture = enlarge(colors, side)
    draw = ImageDraw.Draw(picture)
    size = min(16, int(cell / 3.5))
    for (row, column), value in np.ndenumerate(values):
        left, top = round(column * cell), round(row * cell)
        draw.rectangle((left, top, left + round(cell), top + round(cell)), outline="#cccccc")
        if size >= 9:
            color = "white" if colors[row, column, 0] < 90 else "black"  # on dark blue
            middle = ((column + 0.5) * cell, (row + 0.5) * cell)
            draw.text(middle, number(value), fill=color, font=load_font(size), anchor="mm")
    return picture
