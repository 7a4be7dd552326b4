"""What a trained network says of pictures that are not its data set's."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from cnn_lab.errors import ConfigError
from cnn_lab.pictures.digits import SURE, Digit, read_digit
from cnn_lab.pictures.sheets import MARGIN, enlarge
from cnn_lab.pictures.style import BLUE, GRAY, load_font
from cnn_lab.runs.trained import Trained

PICTURE, BARS, HEAD = 200, 320, 66  # pixels
SHOWN = 100  # rows of a picture
SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


@dataclass
class Prediction:
    """What was found on a picture, and the probability of each class by its name; none where nothing was."""

    digit: Digit
    shares: dict[str, float]

    @property
    def ranking(self) -> list[tuple[str, float]]:
        """The classes with their probabilities, the likeliest first."""
        return sorted(self.shares.items(), key=lambda pair: -pair[1])

    @property
    def guess(self) -> str | None:
        """The likeliest class, or None where there is no digit or no class has half the probability."""
        best = self.ranking[:1]
        return best[0][0] if best and best[0][1] >= SURE else None

    def as_dict(self) -> dict[str, Any]:
        """Plain data: `image`, `guess`, `probabilities` by class, `problem`."""
        return {
            "image": self.digit.name,
            "guess": self.guess,
            "probabilities": {name: round(share, 6) for name, share in self.shares.items()},
            "problem": self.digit.problem or None,
        }


def read_pictures(sources: Sequence[str], side: int) -> list[Digit]:
    """Read the pictures that are named: files, folders of them, `-` for standard input.

    Args:
        side: pixels of the square that each digit is brought into.

    Raises:
        ConfigError: for what does not exist, a file that is no picture and a folder without pictures.
            A file of a folder that is none is a `Digit` with this problem.
    """
    digits = []
    for source in sources:
        path = Path(source)
        if source == "-":
            digits.append(read_digit(sys.stdin.buffer, side, "standard input"))
        elif path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
            if not files:
                raise ConfigError(
                    f"the folder {path} has no pictures: files ending in one of {', '.join(SUFFIXES)}"
                )
            digits += [_read_or_explain(file, side) for file in files]
        else:
            digits.append(read_digit(path, side))
    return digits


def _read_or_explain(path: Path, side: int) -> Digit:
    try:
        return read_digit(path, side)
    except ConfigError as error:
        blank = np.zeros((side, side), np.uint8)
        return Digit(str(path), Image.fromarray(blank), blank, str(error).removeprefix(f"{path} is "))


def predict(trained: Trained, digits: Sequence[Digit]) -> list[Prediction]:
    """What a network of gray images says of each picture."""
    answers = trained.predict(np.stack([digit.pixels[None] for digit in digits])).tolist()
    return [
        Prediction(digit, {} if digit.problem else dict(zip(trained.classes, shares, strict=True)))
        for digit, shares in zip(digits, answers, strict=True)
    ]


def draw_predictions(predictions: Sequence[Prediction], path: Path) -> None:
    """Draw a row an image: what was given, what the network saw, and the probabilities.

    At most the first `SHOWN` are drawn.

    Raises:
        ConfigError: when the file cannot be written, or its ending names no format.
    """
    rows = [np.asarray(_draw_row(prediction)) for prediction in predictions[:SHOWN]]
    try:
        Image.fromarray(np.concatenate(rows)).save(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--show {path} cannot be written: {error}; give a file such as guess.png"
        ) from error


def _draw_row(prediction: Prediction) -> Image.Image:
    digit, font = prediction.digit, load_font(15)
    row = Image.new("RGB", (2 * (PICTURE + MARGIN) + BARS + 2 * MARGIN, HEAD + PICTURE + MARGIN), "white")
    draw = ImageDraw.Draw(row)
    title = f"{prediction.guess or 'unsure'}   {Path(digit.name).name}"
    draw.text((MARGIN, MARGIN), title, fill="black", font=load_font(18, bold=True))
    pictures = {"given": enlarge(np.asarray(digit.given), PICTURE)}
    if not digit.problem:
        pictures["seen by the network"] = enlarge(digit.pixels, PICTURE)
    for number, (caption, picture) in enumerate(pictures.items()):
        left = MARGIN + number * (PICTURE + MARGIN)
        draw.text((left, HEAD - 22), caption, fill="black", font=font)
        row.paste(picture, (left, HEAD))
        draw.rectangle((left - 1, HEAD - 1, left + picture.width, HEAD + picture.height), outline=GRAY)
    left = 2 * (PICTURE + MARGIN) + 2 * MARGIN
    if digit.problem:
        draw.multiline_text((left, HEAD), fill(digit.problem, 32), fill="black", font=font)
    bars = left + 10 + math.ceil(max(map(font.getlength, prediction.shares), default=0))
    most = row.width - bars - 70  # pixels of a bar, with room for its number
    for index, (name, share) in enumerate(prediction.shares.items()):
        height = PICTURE / len(prediction.shares)
        top = HEAD + index * height
        draw.text((left, top), name, fill="black", font=font)
        color = BLUE if name == prediction.guess else GRAY
        draw.rectangle((bars, top + 1, bars + share * most, top + height - 3), fill=color)
        if share >= 0.0005:
            draw.text((bars + 6 + share * most, top), f"{share:.1%}", fill="black", font=font)
    return row
