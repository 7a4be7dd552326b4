"""What a trained network says of pictures that are not its data set's."""

import io
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import track

from cnn_lab.errors import CnnLabError, ConfigError
from cnn_lab.pictures.digits import SURE, Digit, read_picture
from cnn_lab.pictures.sheets import MARGIN, enlarge, save_picture
from cnn_lab.pictures.style import BLUE, GRAY, load_font
from cnn_lab.runs.trained import Trained
from cnn_lab.sources.decode import ignore_odd_metadata, list_suffixes
from cnn_lab.use.likeness import HELD_OUT, REFERENCES, Likeness

PICTURE, BARS, HEAD = 200, 320, 66  # pixels
SHOWN = 100  # rows of a picture
READERS = 4  # threads, each with one picture in memory


@dataclass
class Prediction:
    """What was found on a picture, and the probability of each class by its name; none where nothing was.

    Attributes:
        problem: why there is no guess, in words; empty where there may be one.
    """

    digit: Digit
    shares: dict[str, float]
    problem: str = ""

    @property
    def ranking(self) -> list[tuple[str, float]]:
        """The classes with their probabilities, the likeliest first."""
        return sorted(self.shares.items(), key=lambda pair: -pair[1])

    @property
    def guess(self) -> str | None:
        """The likeliest class, or None where there is a problem or no class has half the probability."""
        best = self.ranking[:1]
        return best[0][0] if best and not self.problem and best[0][1] >= SURE else None

    def as_dict(self) -> dict[str, Any]:
        """Plain data: `image`, `prediction`, `probabilities` by class, `problem`."""
        return {
            "image": self.digit.name,
            "prediction": self.guess,
            "probabilities": {name: round(share, 6) for name, share in self.shares.items()},
            "problem": self.problem or None,
        }


def read_pictures(sources: Sequence[str], trained: Trained) -> list[Digit]:
    """Read the pictures that are named: files, folders of them, `-` for standard input.

    For data of strokes the digit on each is found; for others the whole picture is read as those of
    `data=folder` are. A bar on stderr shows how far it is.

    Raises:
        ConfigError: for what does not exist, a file that is no picture, a folder without pictures, and a
            network of other images than pictures become. A file of a folder that cannot be read is a `Digit`
            with this problem.
    """
    trained.require_pictures("predict")
    files = [(file, Path(source).is_dir()) for source in sources for file in list_files(source)]
    channels, *size = trained.data.input_shape
    blank = np.zeros(size if channels == 1 else (*size, channels), np.uint8)

    def read(file: str | Path, explain: bool) -> Digit:
        try:
            if file == "-":
                content = io.BytesIO(sys.stdin.buffer.read())
                return read_picture(content, trained.data, trained.max_value, "standard input")
            return read_picture(file, trained.data, trained.max_value)
        except ConfigError as error:
            if not explain:
                raise
            return Digit(str(file), Image.fromarray(blank), blank, str(error).removeprefix(f"{file} "))

    console = Console(stderr=True)
    with ignore_odd_metadata(), ThreadPoolExecutor(READERS) as pool:
        digits = pool.map(read, *zip(*files, strict=True))
        hidden = not console.is_terminal
        return list(track(digits, "reading", len(files), console=console, transient=True, disable=hidden))


def list_files(source: str) -> list[str | Path]:
    """The pictures of a folder, or the file itself.

    Raises:
        ConfigError: for a folder without pictures.
    """
    path = Path(source)
    if source == "-" or not path.is_dir():
        return [source]
    files: list[str | Path] = sorted(
        file
        for file in path.iterdir()
        if file.suffix.lower() in list_suffixes() and not file.name.startswith(".")
    )
    if not files:
        raise ConfigError(f"the folder {path} has no pictures, such as files ending in .png or .jpg")
    return files


def learn_likeness(trained: Trained) -> Likeness | None:
    """What tells strokes that are unlike a network's training images; None where there are no strokes.

    It is None too where the images are not on this machine, or are damaged, and a line on stderr says so.
    """
    if not trained.data.ink:
        return None
    try:
        loader = trained.load_data(download=False).train_dataloader()
    except CnnLabError as error:
        said = f"Pictures without a digit may not be noticed: {error}"
        Console(stderr=True).print(said, markup=False, highlight=False, soft_wrap=True)
        return None
    batches, wanted = [], REFERENCES + HELD_OUT
    for images, _ in loader:
        batches.append(images[:, 0])
        if len(batches) * len(images) >= wanted:
            break
    return Likeness(torch.cat(batches).numpy())


def predict(trained: Trained, digits: Sequence[Digit], likeness: Likeness | None = None) -> list[Prediction]:
    """What a network says of each picture; with `likeness`, nothing of those that are unlike its images."""
    pixels = np.stack([digit.pixels for digit in digits])
    images = pixels[:, None] if pixels.ndim == 3 else np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    like = likeness.is_like(pixels) if likeness else np.ones(len(digits), dtype=bool)
    unlike = f"it does not look like the images of {trained.data.name}"
    return [
        Prediction(digit, {}, digit.problem)
        if digit.problem
        else Prediction(digit, dict(zip(trained.classes, shares, strict=True)), "" if is_like else unlike)
        for digit, shares, is_like in zip(digits, trained.predict(images).tolist(), like, strict=True)
    ]


def draw_predictions(predictions: Sequence[Prediction], path: Path) -> None:
    """Draw a row an image: what was given, what the network saw, and the probabilities.

    At most the first `SHOWN` are drawn.

    Raises:
        ConfigError: when the file's name ends in no format of pictures.
        WriteError: when it cannot be written.
    """
    rows = [np.asarray(_draw_row(prediction)) for prediction in predictions[:SHOWN]]
    save_picture(Image.fromarray(np.concatenate(rows)), path)


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
    if prediction.problem:
        draw.multiline_text(
            (left, HEAD if digit.problem else HEAD - 42),
            fill(prediction.problem, 32),
            fill="black",
            font=font,
        )
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
