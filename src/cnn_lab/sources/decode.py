"""A picture file becomes the bytes of an image: the same for training, predictions and explanations."""

import contextlib
import functools
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from cnn_lab.errors import printable

# Pillow opens three times as many, some by starting other programs (EPS), and most have seen little use.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000")
UNREAD = {".heic", ".heif", ".svg", ".dng", ".cr2", ".nef"}  # pictures that Pillow does not know
WHITE = {"I": 65_535, "F": 255}  # in modes of more than 8 bits, unless something else is stated
STEPS = (1, 255, 1_023, 4_095, 16_383, 65_535)  # what is white in most files
SIDEWAYS = (5, 6, 7, 8)  # of EXIF's orientations
ORIENTATION = 0x0112
GRAY = ("1", "L", "I", "F")  # how the names of gray modes start; "LAB" starts so, too
CUT = re.compile("(RGB[AXa]?|CMYK|LA);16")  # what Pillow calls 16 bits that it cuts to 8


class Depth(NamedTuple):
    """The lowest and the highest value of a picture of more than 8 bits, and the value that is white."""

    low: float
    high: float
    white: float


class Decoded(NamedTuple):
    """What `decode` makes of a file.

    Attributes:
        pixels: (channels, height, width), uint8.
        picture: the whole picture, upright, in mode "L" or "RGB"; a large JPEG at a fraction of its size.
        depth: None for a picture of 8 bits or fewer.
    """

    pixels: np.ndarray
    picture: Image.Image
    depth: Depth | None


@functools.cache
def list_suffixes() -> frozenset[str]:
    """The endings, in small letters, of picture files; some are of formats that are not read."""
    Image.init()
    known = Image.registered_extensions().items()
    return frozenset(UNREAD | {suffix for suffix, name in known if name in Image.OPEN})


@contextlib.contextmanager
def ignore_odd_metadata() -> Iterator[None]:
    """Keep Pillow's warnings from the screen. Enter it once, outside of the threads that read pictures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def look(path: str) -> tuple[tuple[int, int], bool] | None:
    """Height and width, and whether there is colour; None for what cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as picture:
            # A TIFF file is turned by Pillow itself.
            is_sideways = picture.format != "TIFF" and picture.getexif().get(ORIENTATION) in SIDEWAYS
            size = picture.size if is_sideways else picture.size[::-1]
            return size, picture.mode == "LAB" or not picture.mode.startswith(GRAY)
    except Exception:
        return None


def load_picture(source: str | Path | BinaryIO, mode: str | None, least: int) -> tuple[Image.Image, bool]:
    """An upright picture as it is stored, and whether Pillow has cut its 16 bits to 8.

    A large JPEG is read at a fraction of its size, with `least` pixels a side or more.

    Raises:
        Exception: of any kind for what cannot be read; `describe_problem` has words for it.
    """
    with Image.open(source, formats=FORMATS) as opened:
        opened.draft(mode, (least, least))
        is_cut = bool(CUT.search(str(opened.tile)))
        picture = ImageOps.exif_transpose(opened)
    if picture.mode == "LAB":  # which Pillow does not convert itself
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        picture = ImageCms.profileToProfile(picture, lab, srgb, outputMode="RGB")
    return picture, is_cut


def decode(source: str | Path | BinaryIO, shape: Sequence[int], max_value: float | None = None) -> Decoded:
    """Read a picture, scale it to cover the wanted size, and crop what is too long on both sides.

    What is transparent becomes white. Values of more than 8 bits are divided by what is white, and not yet
    checked: see `check_depths`.

    Args:
        shape: channels (1 for gray, 3 for colour), height and width.
        max_value: what is white in a picture of more than 8 bits; None for that of its kind, `WHITE`.

    Raises:
        Exception: as `load_picture`.
    """
    channels, height, width = shape
    mode = "L" if channels == 1 else "RGB"
    picture, is_cut = load_picture(source, mode, 2 * max(height, width))
    depth = None
    if picture.mode.startswith(tuple(WHITE)):
        values = np.asarray(picture)
        depth = Depth(float(values.min()), float(values.max()), max_value or WHITE[picture.mode[0]])
        picture = Image.fromarray(_scale(values, depth.white))
    if picture.has_transparency_data:
        paper = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(paper, picture.convert("RGBA"))
    picture = picture.convert(mode)
    if is_cut:
        depth = Depth(0, 257 * float(np.asarray(picture).max()), WHITE["I"])
    fitted = picture
    if picture.size != (width, height):
        fitted = ImageOps.fit(picture, (width, height))
    pixels = np.atleast_3d(np.asarray(fitted)).transpose(2, 0, 1)
    return Decoded(pixels, picture, depth)


def _scale(values: np.ndarray, white: float) -> np.ndarray:
    """Bytes; 16 bits lose their lower eight."""
    with np.errstate(invalid="ignore"):  # NaN, which `check_depths` rejects
        if white < 255:
            return (values * (255.0 / white)).round().clip(0, 255).astype(np.uint8)
        return (values * 256.0 // (white + 1)).clip(0, 255).astype(np.uint8)


def check_depths(depths: Iterable[Depth], max_value: float | None) -> float | None:
    """What is white in all these pictures of more than 8 bits; None where there are none.

    Without a `max_value`, values that fill less than half of their range, such as 12 bits in 16, are
    rejected; with one, values that would all be black.

    Raises:
        ValueError: for these, for values outside of their range, and for several ranges.
    """
    found = list(depths)
    if not found:
        return None
    low, high = min(depth.low for depth in found), max(depth.high for depth in found)
    whites = {depth.white for depth in found}
    white = max_value or max(whites)
    least = white / 256 if max_value else white / 2
    if whites == {white} and low >= 0 and (least <= high <= white or high == 0):
        return float(white)
    step = next((step for step in STEPS if high <= step), high)
    step = math.ceil(step) if math.isfinite(step) else 1
    ranges = " or ".join(f"{value:,.10g}" for value in sorted(whites))
    raise ValueError(
        f"values of more than 8 bits go from {low:,.10g} to {high:,.10g}, where {ranges} is white. Convert "
        f"to 8 bits, or, if all such pictures are gray, train with data.max_value={step}"
    )


def describe_problem(error: Exception) -> str:
    """Why a picture could not be read."""
    if isinstance(error, UnidentifiedImageError):
        return f"it is not a picture in one of these formats: {', '.join(FORMATS)}"
    if isinstance(error, Image.DecompressionBombError):
        return "it has too many pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return printable(str(error)) or type(error).__name__
