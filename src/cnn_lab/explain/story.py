"""What explain.html tells: a trained CNN at work on one digit, from its pixels to the probabilities.

Every number about the network comes from `cnn_lab.explain.arithmetic`; PyTorch's own logits only check them.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from torch import nn

from cnn_lab.errors import CnnLabError
from cnn_lab.explain import arithmetic
from cnn_lab.model import CNN
from cnn_lab.runs.trained import Trained
from cnn_lab.shapes import POOL_SIZE

MOVED = 3  # pixels
PATCH = 4  # pixels of the side of what is pooled with numbers
LARGEST_DIFFERENCE = 1e-3  # between the logits of the page and of the network
BY_HAND = {
    "edge": np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=float),
    "blur": np.full((3, 3), 1 / 9),
}


@dataclass
class Example:
    """A digit to explain.

    Attributes:
        pixels: (side, side), uint8, gray.
        source: what it is, in words.
        label: None where it is not known.
        given: the picture that `pixels` were made from, if they were.
    """

    pixels: np.ndarray
    source: str
    label: int | None = None
    given: Image.Image | None = None

    @property
    def moved(self) -> tuple[np.ndarray, str]:
        """The digit `MOVED` pixels further to the side that has more room, and that side."""
        used = np.flatnonzero(self.pixels.any(axis=0))
        if len(used) and used[0] > self.pixels.shape[1] - 1 - used[-1]:
            return np.pad(self.pixels[:, MOVED:], ((0, 0), (0, MOVED))), "left"
        return np.pad(self.pixels[:, :-MOVED], ((0, 0), (MOVED, 0))), "right"


class Slide(NamedTuple):
    """A kernel on its way over an image: (h, w), (f, f), and the (before, after) of the padding."""

    title: str
    image: np.ndarray
    kernel: np.ndarray
    bias: float = 0
    stride: int = 1
    padding: tuple[int, int] = (0, 0)

    @property
    def output(self) -> np.ndarray:
        image, kernels, bias = self.image[None], self.kernel[None, None], np.array([self.bias])
        return arithmetic.conv2d(image, kernels, bias, self.stride, self.padding)[0]


@dataclass
class Story:
    """What the page tells.

    Attributes:
        run: the run's name.
        image: (1, side, side), as the network takes it.
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
        return arithmetic.make_class_logits(self.steps[-1].output)

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
            ", which is correct"
            if label == self.guess
            else f", which is wrong: the label is {self.trained.classes[label]}"
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


def tell_story(trained: Trained, run: str, example: Example) -> Story:
    """Run the network on the page's own arithmetic, and check it.

    Raises:
        CnnLabError: when its logits are not PyTorch's.
    """
    net = trained.require_cnn("explain")
    image = arithmetic.normalise(example.pixels, *trained.data.levels[0])[None]
    steps = arithmetic.run_network(net, image)
    with torch.inference_mode():
        expected = net(trained.normalise(example.pixels[None, None]))[0].double().numpy()
    difference = float(np.abs(steps[-1].output - expected).max())
    if not difference <= LARGEST_DIFFERENCE:
        raise CnnLabError(
            f"the page's arithmetic and PyTorch differ by {difference:.2g} in the logits of {trained.path}, "
            f"and at most {LARGEST_DIFFERENCE:g} is allowed: no page was written"
        )
    return Story(trained, net, run, example, image, steps, difference)
