"""Write the page that tells what a trained CNN does with one digit, and its pictures."""

import re
from collections.abc import Mapping
from pathlib import Path

from cnn_lab.errors import ConfigError
from cnn_lab.explain.drawings import draw_pictures
from cnn_lab.explain.page import fill_page
from cnn_lab.explain.story import Example, Story, tell_story
from cnn_lab.files import make_folder, write_file
from cnn_lab.pictures.digits import read_picture
from cnn_lab.runs.trained import Trained
from cnn_lab.sources.decode import ignore_odd_metadata

PURPOSE = "explain"
VARYING = re.compile(r"6-channels\.png|8-block-\d+\.png")  # pictures that not every network has
LONGEST_NAME = 40  # letters of a picture's name in the page's


def explain(
    trained: Trained, run: Path, folder: Path, image: Path | None = None, index: int | None = None
) -> tuple[Path, Story]:
    """Write `folder`/explain.html and its pictures in `folder`/explain.

    The page of another digit than the first is named after it: explain-8.html, explain-photo.html.

    Args:
        run: directory that the network comes from, which the page names.
        image: file with a picture, of a digit for data of strokes.
        index: of a test image of the run's data, where no file is given; by default the first.

    Raises:
        ConfigError: when the network is no CNN of gray images, the picture has no digit or there is no such
            test image.
        CnnLabError: when the page's arithmetic and PyTorch differ, or the folder cannot be written.
        DataError: when the test images cannot be had.
    """
    trained.require_cnn(PURPOSE)
    trained.require_gray(PURPOSE)
    example = read_own_image(image, trained) if image else find_test_image(trained, index or 0)
    story = tell_story(trained, run.resolve().name, example)
    pictures = draw_pictures(story)
    name = name_page(image, index)
    write_page(folder, name, fill_page(story, pictures, name), pictures)
    return folder / f"{name}.html", story


def name_page(image: Path | None, index: int | None) -> str:
    """The name of a page and of its folder: another for each digit."""
    digit = re.sub(r"[^\w-]+", "-", image.stem)[:LONGEST_NAME] if image else index
    return f"explain-{digit}" if digit else "explain"


def read_own_image(path: Path, trained: Trained) -> Example:
    """Read a picture as `predict` does, into (side, side) pixels.

    Raises:
        ConfigError: for a file that is no picture, and, for data of strokes, a picture without a digit.
    """
    with ignore_odd_metadata():
        digit = read_picture(path, trained.data, trained.max_value)
    if digit.problem:
        raise ConfigError(f"--image {path}: {digit.problem}; give a picture of one digit")
    return Example(digit.pixels, f"the picture {path.name}", given=digit.given)


def find_test_image(trained: Trained, index: int) -> Example:
    """A test image of the run's data.

    Raises:
        ConfigError: when there is no such image.
        DataError: when the images cannot be had, or are damaged.
    """
    images, labels = trained.read_test_images()
    name = trained.data.name
    if not 0 <= index < len(labels):
        raise ConfigError(
            f"--index {index} is out of range: {name} has {len(labels):,} test images, 0 to {len(labels) - 1}"
        )
    return Example(images[index, 0], f"test image {index} of {name}", int(labels[index]))


def write_page(folder: Path, name: str, page: str, pictures: Mapping[str, bytes]) -> None:
    """Write the pictures, then the page.

    Pictures of an earlier page of this name that this network does not have are removed.

    Raises:
        WriteError: when the folder cannot be written.
    """
    files = folder / name
    make_folder(files)
    for file, content in pictures.items():
        write_file(files / file, content)
    write_file(folder / f"{name}.html", page)
    for path in files.iterdir():
        if VARYING.fullmatch(path.name) and path.name not in pictures:
            path.unlink()
