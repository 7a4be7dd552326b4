"""explain.html: what a trained CNN does with one digit, from its pixels to the probabilities.

Every number about the network comes from `cnn_lab.explain.arithmetic`; PyTorch's own logits only check them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from torch import nn

from cnn_lab.errors import CnnLabError, ConfigError
from cnn_lab.explain import arithmetic
from cnn_lab.explain.drawings import PATCH, Slide, draw_pictures
from cnn_lab.explain.page import fill_page
from cnn_lab.model import CNN
from cnn_lab.pictures.digits import read_digit
from cnn_lab.runs.record import replace_file
from cnn_lab.runs.trained import Trained
from cnn_lab.shapes import POOL_SIZE

PAGE, PICTURES = "explain.html", "explain"
VARYING = re.compile(r"6-channels\.png|8-block-\d+\.png")  # pictures that not every network has
LARGEST_DIFFERENCE = 1e-3  # between the logits of the page and of the network


@dataclass
class Example:
    """A digit to explain.

    Attributes:
        pixels: (28, 28), uint8.
        source: what it is, in words.
        label: None where it is not known.
        given: the picture that `pixels` were made from, if they were.
        note: why it is another one than was asked for.
    """

    pixels: np.ndarray
    source: str
    label: int | None = None
    given: Image.Image | None = None
    note: str = ""


@dataclass
class Story:
    """What the page tells.

    Attributes:
        run: the run's name.
        image: (1, 28, 28), as the network takes it.
        difference: the largest between a logit of `steps` and PyTorch's.
    """

    trained: Trained
    net: CNN
    run: str
    example: Example
    image: np.ndarray
    steps: list[arithmetic.Step]
    difference: float

    @property
    def logits(self) -> np.ndarray:
        return self.steps[-1].output

    @cached_property
    def probabilities(self) -> np.ndarray:
        return arithmetic.softmax(self.logits)

    @property
    def guess(self) -> int:
        return int(self.probabilities.argmax())

    @property
    def answer(self) -> str:
        """The guessed class's name."""
        return self.trained.classes[self.guess]

    @property
    def truth(self) -> str:
        """The end of a sentence that tells the guess: what the label says, if there is one."""
        label = self.example.label
        if label is None:
            return ""
        return (
            ", which is right"
            if label == self.guess
            else f", which is wrong: it is {self.trained.classes[label]}"
        )

    @property
    def first(self) -> nn.Conv2d:
        """The first convolution."""
        return self.net.blocks[0].conv  # type: ignore[union-attr,return-value]

    @cached_property
    def order(self) -> np.ndarray:
        """The first layer's kernels, the one with the largest number in its map first."""
        return np.argsort(-self.steps[0].output.max(axis=(1, 2)), kind="stable")

    @property
    def slides(self) -> tuple[Slide, Slide]:
        """The strongest kernel as the first layer slides it, and with another stride and padding."""
        index, image = int(self.order[0]), self.image[0]
        kernel = arithmetic.to_array(self.first.weight)[index, 0]
        bias = float(arithmetic.to_array(self.first.bias)[index])
        stride, padding = self.first.stride[0], arithmetic.padding_of(self.first)
        own = Slide(f"learned kernel {index + 1}", image, kernel, bias, stride, padding)
        other = max(1, len(kernel) // 2) if not sum(padding) or len(kernel) > len(image) else 0
        return own, own._replace(stride=2 if stride == 1 else 1, padding=(other, other))

    @property
    def pooled(self) -> tuple[str, np.ndarray, tuple[int, int]]:
        """Name and numbers of a map to pool, and top and left of the patch of it whose numbers differ most.

        The map is one that the network's first pool takes, else one of the first block.
        """
        kinds = [step.kind for step in self.steps]
        step = self.steps[kinds.index("pool") - 1] if "pool" in kinds else self.block_steps(1)[-1]
        name, values = "the image", self.image[0]
        if min(step.output.shape[1:]) >= PATCH:
            index = int(step.output.max(axis=(1, 2)).argmax())
            name, values = f"map {index + 1} of {step.name.rpartition(' ')[0]}", step.output[index]
        patches = sliding_window_view(values, (PATCH, PATCH))[::POOL_SIZE, ::POOL_SIZE]
        row, column = divmod(int(patches.std(axis=(2, 3)).argmax()), patches.shape[1])
        return name, values, (row * POOL_SIZE, column * POOL_SIZE)

    @property
    def linear_rows(self) -> list[tuple[str, np.ndarray]]:
        """Name and numbers of flatten, of each hidden layer after its activation, and of the logits."""
        steps = [step for step in self.steps if step.output.ndim == 1]
        return list({step.name.removesuffix(" activation"): step.output for step in steps}.items())

    def block_steps(self, number: int) -> list[arithmetic.Step]:
        """The steps of a block, numbered from 1."""
        return [step for step in self.steps if step.name.startswith(f"block {number} ")]


def explain(
    trained: Trained, run: Path, folder: Path, image: Path | None = None, index: int | None = None
) -> tuple[Path, Story]:
    """Write `folder`/explain.html and its pictures in `folder`/explain.

    Args:
        run: directory that the network comes from, which the page names.
        image: file with a picture of a digit.
        index: of a test image of the run's data, where no file is given.

    Raises:
        ConfigError: when the network is no CNN, the picture has no digit or there is no such test image.
        CnnLabError: when the page's arithmetic and PyTorch differ, or the folder cannot be written.
    """
    trained.require_cnn("explain.py")
    example = read_own_image(image) if image else find_test_image(trained, index or 0)
    story = tell_story(trained, run.resolve().name, example)
    pictures = draw_pictures(story)
    write_page(folder, fill_page(story, pictures), pictures)
    return folder / PAGE, story


def read_own_image(path: Path) -> Example:
    """Read a picture of a digit.

    Raises:
        ConfigError: for a file that is no picture, and a picture without a digit.
    """
    digit = read_digit(path)
    if digit.problem:
        raise ConfigError(f"--image {path}: {digit.problem}; give a picture of one digit")
    return Example(digit.pixels, f"the picture {path.name}", given=digit.given)


def find_test_image(trained: Trained, index: int) -> Example:
    """A test image of the run's data; of the embedded sample where MNIST is not on this machine.

    Raises:
        ConfigError: when there is no such image.
        DataError: when a file of the data is damaged.
    """
    data = trained.load_data(allow_sample=True)
    images, labels = (torch.cat(parts).numpy() for parts in zip(*data.test_dataloader(), strict=True))
    name = "the embedded sample of MNIST" if data.root is None or data.sample_reason else "MNIST"
    if not 0 <= index < len(labels):
        raise ConfigError(
            f"--index {index} is out of range: {name} has {len(labels):,} test images, 0 to {len(labels) - 1}"
        )
    note = f"MNIST cannot be had here, so this is another image: {data.sample_reason}"
    source = f"test image {index} of {name}"
    return Example(images[index, 0], source, int(labels[index]), note=note if data.sample_reason else "")


def tell_story(trained: Trained, run: str, example: Example) -> Story:
    """Run the network on the page's own arithmetic, and check it.

    Raises:
        CnnLabError: when its logits are not PyTorch's.
    """
    net = trained.require_cnn("explain.py")
    image = arithmetic.normalise(example.pixels, trained.data.mean, trained.data.std)[None]
    steps = arithmetic.run_network(net, image)
    with torch.inference_mode():
        expected = net(trained.normalise(example.pixels[None]))[0].double().numpy()
    difference = float(np.abs(steps[-1].output - expected).max())
    if not difference <= LARGEST_DIFFERENCE:
        raise CnnLabError(
            f"the page's arithmetic and PyTorch differ by {difference:.2g} in the logits of {trained.path}, "
            f"and at most {LARGEST_DIFFERENCE:g} is allowed: no page was written"
        )
    return Story(trained, net, run, example, image, steps, difference)


def write_page(folder: Path, page: str, pictures: Mapping[str, bytes]) -> None:
    """Write the pictures, then the page, each seen whole by whoever reads: the old one or the new one.

    Pictures of an earlier page that this network does not have are removed.

    Raises:
        CnnLabError: when the folder cannot be written.
    """
    files = folder / PICTURES
    try:
        files.mkdir(parents=True, exist_ok=True)
        for name, content in pictures.items():
            aside = files / f".{name}.new"
            aside.write_bytes(content)
            aside.replace(files / name)
        replace_file(folder / PAGE, page)
        for path in files.iterdir():
            if VARYING.fullmatch(path.name) and path.name not in pictures:
                path.unlink()
    except OSError as error:
        raise CnnLabError(f"{folder} cannot be written: {error.strerror}; give another --output") from error
