"""Sheets of small images with captions: samples, kernels, feature maps, mistakes.

They are drawn with Pillow, since Matplotlib takes twenty times as long for many small panels.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from cnn_lab.errors import ConfigError
from cnn_lab.files import write_file
from cnn_lab.pictures.style import GRAY, load_font, shade

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

MARGIN, GAP = 12, 6  # pixels
CELL = 23  # pixels of a cell of a confusion matrix: its height, and its least width
RIGHT = (225, 225, 225)


class Tile(NamedTuple):
    """A picture (height, width) or (height, width, 3), uint8, and the words below it."""

    pixels: np.ndarray
    caption: str = ""
    color: str = "black"


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture in the format that the file's name ends in.

    Raises:
        ConfigError: when there is no such format.
        WriteError: when it cannot be written.
    """
    content = io.BytesIO()  # Pillow itself does not notice when a disk takes only a part
    try:
        picture.save(content, Image.registered_extensions()[path.suffix.lower()])
    except KeyError as error:  # also of a format that Pillow reads and does not write
        raise ConfigError(f"{path} has no ending of a picture file. Type one, such as {path}.png") from error
    write_file(path, content.getvalue())


def draw_sheet(
    tiles: Sequence[Tile], columns: int, side: int, title: str = "", text_size: int = 15
) -> Image.Image:
    """Tiles row by row on white, each enlarged to `side` pixels without smoothing, so that pixels show.

    A caption that is wider than its tile goes on in a second line; words that are too long are cut.

    Args:
        columns: tiles in a row.
        side: pixels of a tile's longer side.
        title: stands on top; may have several lines.
        text_size: height of the captions in pixels; the title's is a fifth larger.
    """
    font, bold = load_font(text_size), load_font(round(text_size * 1.2), bold=True)
    captions = [wrap(tile.caption, font, side) for tile in tiles]
    lines = max(map(len, captions), default=0)
    caption = lines * (text_size + 4) + 2 if lines else 0
    rows = math.ceil(len(tiles) / columns)
    head = (len(title.splitlines()) * round(text_size * 1.6) + GAP) if title else 0
    width = columns * (side + GAP) - GAP + 2 * MARGIN
    height = head + rows * (side + caption + GAP) - GAP + 2 * MARGIN
    if title:
        width = max(width, math.ceil(max(map(bold.getlength, title.splitlines()))) + 2 * MARGIN)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.multiline_text((MARGIN, MARGIN - 3), title, fill="black", font=bold, spacing=4)
    for index, (tile, words) in enumerate(zip(tiles, captions, strict=True)):
        row, column = divmod(index, columns)
        left = MARGIN + column * (side + GAP)
        top = MARGIN + head + row * (side + caption + GAP)
        picture = enlarge(tile.pixels, side)
        sheet.paste(picture, (left, top))
        draw.rectangle((left - 1, top - 1, left + picture.width, top + picture.height), outline=GRAY)
        for number, line in enumerate(words):
            middle = (left + side / 2, top + side + 3 + number * (text_size + 4))
            draw.text(middle, line, fill=tile.color, font=font, anchor="ma")
    return sheet


def wrap(text: str, font: "FreeTypeFont", width: int) -> list[str]:
    """Lines of whole words that are at most `width` pixels wide; a word that is wider is cut."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        while font.getlength(word) > width and len(word) > 2:
            word = f"{word[:-2]}\N{HORIZONTAL ELLIPSIS}"
        lines.append(word)
    return lines


def number_classes(classes: Sequence[str], longest: int = 4) -> tuple[list[str], list[str]]:
    """Names for the rows of a table of classes, and short ones for its columns.

    Where a name has more than `longest` letters, columns are numbered, and the names of rows say how.
    """
    if max(map(len, classes)) <= longest:
        return list(classes), list(classes)
    numbers = [str(index) for index in range(len(classes))]
    return [f"{number} {name:.20}" for number, name in zip(numbers, classes, strict=True)], numbers


def draw_confusion(counts: np.ndarray, classes: Sequence[str], title: str) -> Image.Image:
    """A confusion matrix (classes, classes): a row for each true class with its accuracy, a column a guess.

    The colour of a mistake is its share of its class, up to 5 %; right answers are gray.
    """
    font, bold, (names, heads) = load_font(11), load_font(14, bold=True), number_classes(classes)
    legend = "columns: prediction; rows: label, with its accuracy"
    totals = np.maximum(counts.sum(axis=1), 1)
    colors = shade(counts / totals[:, None], scale=0.05)
    colors[np.diag_indices(len(counts))] = RIGHT
    left = MARGIN + 60 + math.ceil(max(map(font.getlength, names)))
    top = MARGIN + 30
    width = max(CELL, GAP + math.ceil(font.getlength(str(counts.max()))))
    written = max(bold.getlength(title), font.getlength(legend))
    right = max(left + len(counts) * width, MARGIN + math.ceil(written))
    sheet = Image.new("RGB", (right + MARGIN, top + len(counts) * CELL + 44 + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 3), title, fill="black", font=bold)
    for row, name in enumerate(names):
        middle = top + (row + 0.5) * CELL
        share = f"{name}  {counts[row, row] / totals[row]:6.1%}"
        draw.text((left - 8, middle), share, fill="black", font=font, anchor="rm")
        x = left + (row + 0.5) * width
        draw.text((x, top + len(counts) * CELL + 6), heads[row], fill="black", font=font, anchor="ma")
    for (row, column), count in np.ndenumerate(counts):
        corner = (left + column * width, top + row * CELL)
        end = (corner[0] + width - 1, corner[1] + CELL - 1)
        draw.rectangle((*corner, *end), fill=tuple(colors[row, column]))
        if count:
            middle = (corner[0] + width / 2, corner[1] + CELL / 2)
            draw.text(middle, str(count), fill="black", font=font, anchor="mm")
    draw.rectangle((left - 1, top - 1, end[0] + 1, end[1] + 1), outline=GRAY)
    draw.text((MARGIN, end[1] + 26), legend, fill="black", font=font)
    return sheet


def enlarge(pixels: np.ndarray, side: int) -> Image.Image:
    """A picture with its longer side `side` pixels long, each of its pixels a sharp square."""
    picture = Image.fromarray(pixels).convert("RGB")
    factor = side / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BOX)
