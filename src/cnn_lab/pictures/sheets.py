"""Sheets of small images with captions: samples, kernels, feature maps, mistakes.

They are drawn with Pillow, since Matplotlib takes twenty times as long for many small panels.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from cnn_lab.pictures.style import GRAY, load_font, shade

MARGIN, GAP = 12, 6  # pixels
CELL = (25, 23)  # pixels of a confusion matrix's cell
RIGHT = (225, 225, 225)


class Tile(NamedTuple):
    """A picture (height, width) or (height, width, 3), uint8, and the line below it."""

    pixels: np.ndarray
    caption: str = ""
    color: str = "black"


def draw_sheet(
    tiles: Sequence[Tile], columns: int, side: int, title: str = "", text_size: int = 15
) -> Image.Image:
    """Tiles row by row on white, each enlarged to `side` pixels without smoothing, so that pixels show.

    Args:
        columns: tiles in a row.
        side: pixels of a tile's longer side.
        title: stands on top; may have several lines.
        text_size: height of the captions in pixels; the title's is a fifth larger.
    """
    font, bold = load_font(text_size), load_font(round(text_size * 1.2), bold=True)
    caption = text_size + 6 if any(tile.caption for tile in tiles) else 0
    rows = math.ceil(len(tiles) / columns)
    head = (len(title.splitlines()) * round(text_size * 1.6) + GAP) if title else 0
    width = columns * (side + GAP) - GAP + 2 * MARGIN
    height = head + rows * (side + caption + GAP) - GAP + 2 * MARGIN
    if title:
        width = max(width, math.ceil(max(map(bold.getlength, title.splitlines()))) + 2 * MARGIN)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.multiline_text((MARGIN, MARGIN - 3), title, fill="black", font=bold, spacing=4)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        left = MARGIN + column * (side + GAP)
        top = MARGIN + head + row * (side + caption + GAP)
        picture = enlarge(tile.pixels, side)
        sheet.paste(picture, (left, top))
        draw.rectangle((left - 1, top - 1, left + picture.width, top + picture.height), outline=GRAY)
        if tile.caption:
            middle = (left + side / 2, top + side + 3)
            draw.text(middle, tile.caption, fill=tile.color, font=font, anchor="ma")
    return sheet


def draw_confusion(counts: np.ndarray, classes: Sequence[str], title: str) -> Image.Image:
    """A confusion matrix (classes, classes): a row for each true class with its accuracy, a column a guess.

    The colour of a mistake is its share of its class, up to 5 %; right answers are gray.
    """
    font = load_font(11)
    totals = np.maximum(counts.sum(axis=1), 1)
    colors = shade(counts / totals[:, None], scale=0.05)
    colors[np.diag_indices(len(counts))] = RIGHT
    left = MARGIN + 60 + math.ceil(max(map(font.getlength, classes)))
    top = MARGIN + 30
    size = (left + len(counts) * CELL[0] + MARGIN, top + len(counts) * CELL[1] + 44 + MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 3), title, fill="black", font=load_font(14, bold=True))
    for row, name in enumerate(classes):
        middle = top + (row + 0.5) * CELL[1]
        share = f"{name}  {counts[row, row] / totals[row]:6.1%}"
        draw.text((left - 8, middle), share, fill="black", font=font, anchor="rm")
        x = left + (row + 0.5) * CELL[0]
        draw.text((x, top + len(counts) * CELL[1] + 6), name, fill="black", font=font, anchor="ma")
    for (row, column), count in np.ndenumerate(counts):
        corner = (left + column * CELL[0], top + row * CELL[1])
        end = (corner[0] + CELL[0] - 1, corner[1] + CELL[1] - 1)
        draw.rectangle((*corner, *end), fill=tuple(colors[row, column]))
        if count:
            middle = (corner[0] + CELL[0] / 2, corner[1] + CELL[1] / 2)
            draw.text(middle, str(count), fill="black", font=font, anchor="mm")
    draw.rectangle((left - 1, top - 1, end[0] + 1, end[1] + 1), outline=GRAY)
    draw.text((left, end[1] + 26), "guess; on the left the label and its accuracy", fill="black", font=font)
    return sheet


def enlarge(pixels: np.ndarray, side: int) -> Image.Image:
    """A picture with its longer side `side` pixels long, each of its pixels a sharp square."""
    picture = Image.fromarray(pixels).convert("RGB")
    factor = side / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BOX)
