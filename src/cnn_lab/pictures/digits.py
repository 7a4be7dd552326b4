"""Pictures of any kind, brought to the convention of MNIST: a light digit in the middle of a dark square.

The last steps are those of MNIST itself (http://yann.lecun.com/exdb/mnist): the digit scaled with its
proportions to 5/7 of the square's side, and moved so that its centre of mass is the square's centre.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from scipy import ndimage

from cnn_lab.errors import ConfigError, printable
from cnn_lab.pictures.ink import find_ink
from cnn_lab.sources.decode import check_depths, decode, describe_problem, load_picture

Source = str | Path | BinaryIO

SURE = 0.5  # the least probability of a guess; less is unsure
DIGIT_SHARE = 5 / 7  # a digit's longer side, of the square's
WORKING_SIDE = 400  # pixels that larger pictures are reduced to before anything is searched
LEAST_INK, MOST_INK = 0.0002, 0.7  # share of a picture's pixels that a digit covers
WIDEST_STROKE = 0.45  # width of strokes, of the digit's longer side
LEAST_AT_EDGE = 0.4  # length of what touches the picture's edge, of the picture's
NEAR = 0.25  # how far a digit's pieces are apart, of the longer side of the largest
LONGEST = 9  # a digit's strokes, of its longer side
THIN, PEN = 0.1, 0.13  # width of strokes, of the digit's longer side: those below get the other, as MNIST's
SMALLEST_PIECE, LARGE_PIECE = 0.06, 0.3  # of the largest one; less is dust, more is another digit
WIDEST = 1.8  # a digit's width, of its height


@dataclass
class Digit:
    """A picture that was given and what the network sees of it.

    Attributes:
        name: of the file.
        given: the picture, at most 400 pixels a side.
        pixels: (height, width), or (height, width, 3) in colour, uint8; a digit is light on dark, and where
            none was found all is zero.
        problem: why there is no digit, in words; empty where there is one.
    """

    name: str
    given: Image.Image
    pixels: np.ndarray
    problem: str = ""


def fit_picture(source: Source, shape: Sequence[int], max_value: float | None) -> Digit:
    """Read a picture exactly as those of `data=folder` are read: scaled and cropped, and no ink is searched.

    Args:
        shape: channels (1 or 3), height and width that the network takes.
        max_value: what is white in pictures of more than 8 bits, if the network was trained with such.

    Raises:
        Exception: as `cnn_lab.sources.decode.load_picture`, and as `check_depths`.
    """
    pixels, given, depth = decode(source, shape, max_value)
    check_depths([depth] if depth else [], max_value)
    given.thumbnail((WORKING_SIDE, WORKING_SIDE))
    return Digit("", given, pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def read_picture(source: Source, data: Any, max_value: float | None, name: str = "") -> Digit:
    """Read a picture for a network, and bring it to the convention of the network's images.

    Args:
        data: the network's data module; with its `ink`, the digit on the picture is searched.
        max_value: as `fit_picture` takes it.

    Raises:
        ConfigError: naming a file that cannot be read, or is not a picture that is read.
    """
    name = printable(name or str(source))
    if isinstance(source, str | Path) and Path(source).exists() and not Path(source).is_file():
        raise ConfigError(f"{name}: not a file. Give a picture, or - for standard input")  # a pipe may wait
    try:
        if data.ink:
            picture, _ = load_picture(source, None, 2 * WORKING_SIDE)
            digit = find_digit(picture, data.input_shape[-1])
        else:
            digit = fit_picture(source, data.input_shape, max_value)
    except Exception as error:  # Pillow's readers raise whatever they meet in a damaged file
        raise ConfigError(f"{name} cannot be read: {describe_problem(error)}") from error
    return replace(digit, name=name)


def find_digit(picture: Image.Image, side: int, name: str = "") -> Digit:
    """Find the digit in an opened picture: dark on light or light on dark, of any size, anywhere in it.

    Args:
        side: pixels of the square that the digit is brought into.
    """
    gray = _to_gray(picture)
    digit = Digit(name, gray, np.zeros((side, side), np.uint8))
    darkness, ink = find_ink(np.asarray(gray, dtype=np.float32) / 255)
    kept, is_one = _choose_pieces(ink)
    if not kept.any():
        digit.problem = "the picture is empty"
        return digit
    rows, columns = np.flatnonzero(kept.any(axis=1)), np.flatnonzero(kept.any(axis=0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    longer, width = max(kept[box].shape), _measure_strokes(kept[box])
    least = LEAST_INK * min(kept.size, 16 * longer**2)
    is_long = kept.sum() > LONGEST * width * longer
    if kept.sum() < least or kept.mean() > MOST_INK or width > WIDEST_STROKE * longer or is_long:
        digit.problem = "nothing on it looks like a digit"
        return digit
    if not is_one or kept[box].shape[1] > WIDEST * kept[box].shape[0] or _has_gap(kept[box]):
        digit.problem = "there are several digits on it, or none: give pictures of one digit each"
        return digit
    near = ndimage.binary_dilation(kept, iterations=2)  # the soft edges of the strokes
    strength = np.where(near, darkness, 0) / np.percentile(darkness[kept], 75)
    strokes, factor = strength[box].clip(0, 1), min(1.0, 6 * side / longer)
    if factor < 1:  # thickening takes long on many pixels
        size = [max(1, round(length * factor)) for length in strokes.shape[::-1]]
        strokes = np.asarray(Image.fromarray(strokes).resize(size, Image.Resampling.BOX))
    digit.pixels = _place(_thicken(strokes, width * factor), side)
    return digit


def _to_gray(picture: Image.Image) -> Image.Image:
    """Gray levels of 8 bits; what is transparent becomes white below dark ink, and black below light."""
    has_more_bits = picture.mode.startswith(("I", "F"))
    gray = picture.convert("F" if has_more_bits else "LA" if picture.has_transparency_data else "L")
    gray.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX)
    if gray.mode == "L":
        return gray
    values = np.asarray(gray, dtype=np.float32)
    if gray.mode == "F":
        values = (values - values.min()) / max(np.ptp(values), 1e-9)
    else:
        ink, opacity = values[..., 0] / 255, values[..., 1] / 255
        background = 1.0 if (ink * opacity).sum() < 0.5 * opacity.sum() else 0.0
        values = ink * opacity + background * (1 - opacity)
    return Image.fromarray((values * 255).round().astype(np.uint8))


def _choose_pieces(ink: np.ndarray) -> tuple[np.ndarray, bool]:
    """The pieces of ink that make the largest digit, and whether no others are about as large.

    What touches the picture's edge is left out if it is small, or if there is something that does not.
    """
    labels, _ = ndimage.label(ink, np.ones((3, 3)))
    boxes = ndimage.find_objects(labels)
    lengths = np.array([0, *(max(side.stop - side.start for side in box) for box in boxes)])
    sizes = np.bincount(labels.ravel())
    at_edge = np.zeros(len(sizes), dtype=bool)
    at_edge[np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = True
    sizes[at_edge & (lengths < LEAST_AT_EDGE * max(ink.shape))] = 0
    sizes[0] = 0
    if sizes[~at_edge].max(initial=0) > LEAST_INK * ink.size:
        sizes[at_edge] = 0
    if not sizes.any():
        return np.zeros_like(ink), True
    box = boxes[sizes.argmax() - 1]
    reach = round(NEAR * max(side.stop - side.start for side in box))
    around = tuple(slice(max(0, side.start - reach), side.stop + reach) for side in box)
    is_near = np.zeros(len(sizes), dtype=bool)
    is_near[labels[around]] = True
    chosen = is_near & (sizes >= SMALLEST_PIECE * sizes.max())
    return chosen[labels], not (~is_near & (sizes > LARGE_PIECE * sizes.max())).any()


def _measure_strokes(mask: np.ndarray) -> float:
    """The mean width of strokes in pixels: four times the mean distance of their pixels to the edge."""
    padded = np.pad(mask, 1)
    return float(4 * ndimage.distance_transform_edt(padded)[padded].mean() - 1)


def _has_gap(mask: np.ndarray) -> bool:
    """Whether empty columns part what is there into two pieces of about the same size."""
    ink = np.cumsum(mask.sum(axis=0))
    before = ink[~mask.any(axis=0)] / ink[-1]
    return bool(((before > 0.25) & (before < 0.75)).any())


def _thicken(strength: np.ndarray, width: float) -> np.ndarray:
    """Strokes, `width` pixels wide, at least as wide as a pen's in MNIST, of the digit's size."""
    longer = max(strength.shape)
    missing = round(PEN * longer - width)
    if width >= THIN * longer or missing < 1:
        return strength
    y, x = np.mgrid[-missing : missing + 1, -missing : missing + 1] / (missing / 2 + 0.5)
    return ndimage.grey_dilation(np.pad(strength, missing), footprint=x**2 + y**2 <= 1)


def _place(strength: np.ndarray, side: int) -> np.ndarray:
    """MNIST's own recipe: to its share of the square, then the centre of mass into the square's middle."""
    factor = round(DIGIT_SHARE * side) / max(strength.shape)
    size = [max(1, round(length * factor)) for length in strength.shape[::-1]]
    small = np.asarray(
        Image.fromarray(strength.astype(np.float32)).resize(
            size, Image.Resampling.BOX if factor < 1 else Image.Resampling.BICUBIC
        )
    )
    canvas = np.zeros((side, side), np.float32)
    middle = ndimage.center_of_mass(small)
    top, left = (
        int(np.clip(round(side / 2 - centre), 0, side - length))
        for centre, length in zip(middle, small.shape, strict=True)
    )
    canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
    return (canvas / max(canvas.max(), 1e-9) * 255).clip(0, 255).round().astype(np.uint8)
