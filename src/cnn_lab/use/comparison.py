"""Two trained networks on the same test images: what the one gets right and the other does not."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest, norm

from cnn_lab.errors import ConfigError
from cnn_lab.files import make_folder
from cnn_lab.pictures.sheets import Tile, draw_sheet, save_picture
from cnn_lab.pictures.style import BLUE, GRAY, ORANGE
from cnn_lab.runs.trained import Trained, load_trained

LEVEL = 0.95  # of the interval
COLUMNS, SIDE, SHOWN = 10, 84, 100  # of the sheet: tiles in a row, pixels, tiles at most


@dataclass(frozen=True)
class Comparison:
    """The answers of two networks, A and B.

    Attributes:
        networks: A and B.
        images: (n, channels, height, width), uint8, the same for both, with their `labels` (n,).
        guesses: (2, n), A's and B's.
    """

    networks: tuple[Trained, Trained]
    images: np.ndarray
    labels: np.ndarray
    guesses: np.ndarray

    def count(self) -> dict[str, int]:
        """How many images "both", "only A", "only B" and "neither" get right."""
        a, b = self.guesses == self.labels
        found = {"both": a & b, "only A": a & ~b, "only B": ~a & b, "neither": ~a & ~b}
        return {name: int(chosen.sum()) for name, chosen in found.items()}

    def as_dict(self) -> dict[str, Any]:
        """Plain data: the counts, A's accuracy less B's with its interval, and the test's p-value."""
        counts = self.count()
        only_a, only_b, images = counts["only A"], counts["only B"], len(self.labels)
        return {
            "dataset": self.networks[0].data.name,
            "images": images,
            "accuracy": (self.guesses == self.labels).mean(axis=1).tolist(),
            "right": counts,
            "difference": (only_a - only_b) / images,
            "interval": list(find_interval(only_a, only_b, images)),
            "p_value": binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0,
        }

    def describe(self) -> Iterator[str]:
        """What was found, and what it is about, in sentences."""
        found = self.as_dict()
        counts, (low, high) = found["right"], found["interval"]
        differing = counts["only A"] + counts["only B"]
        yield "correct on: " + ", ".join(f"{name} {count:,}" for name, count in counts.items())
        yield (
            f"A's accuracy minus B's: {found['difference'] * 100:+.2f} percentage points "
            f"({LEVEL:.0%} interval {low * 100:+.2f} to {high * 100:+.2f})"
        )
        yield (
            f"Only one network is right on {differing:,} images: A on {counts['only A']:,}, B on "
            f"{counts['only B']:,}. McNemar's exact test: p = {found['p_value']:.2g}, the probability of a "
            "split at least this uneven if A and B were equally good"
        )
        yield (
            "This compares these two trained networks on these test images. It does not say how networks "
            "with other seeds would differ: for that, sweep over seeds"
        )

    def draw(self, path: Path) -> int:
        """Write a sheet of the images to which A and B give different classes; returns how many there are.

        Those that only A gets right come first, then those of B, then those that neither does. Of more than
        `SHOWN`, as many of each as is their share.

        Raises:
            ConfigError: when the file's name ends in no format of pictures.
            WriteError: when it cannot be written.
        """
        differing = np.flatnonzero(self.guesses[0] != self.guesses[1])
        right = self.guesses[:, differing] == self.labels[differing]
        order = np.argsort(np.where(right[0], 0, np.where(right[1], 1, 2)), kind="stable")
        names = self.networks[0].classes
        tiles = []
        shown = np.linspace(0, len(differing) - 1, min(SHOWN, len(differing))).astype(int)
        for index in differing[order][shown]:
            label, a, b = self.labels[index], *self.guesses[:, index]
            color = BLUE if a == label else ORANGE if b == label else GRAY
            tiles.append(
                Tile(_to_pixels(self.images[index]), f"{names[label]}: A {names[a]}, B {names[b]}", color)
            )
        cut = f", {len(tiles)} shown" if len(tiles) < len(differing) else ""
        title = (
            f"{len(differing):,} of {len(self.labels):,} test images get different predictions{cut}\n"
            "label: prediction of A, prediction of B; blue: A is right, orange: B is right, gray: neither"
        )
        make_folder(path.parent)
        save_picture(draw_sheet(tiles, COLUMNS, SIDE, title, text_size=12), path)
        return len(differing)


def compare(first: Path, second: Path, trust: bool = False) -> Comparison:
    """The answers of two checkpoints' networks to the test images of both; `trust` as in `load_trained`.

    Raises:
        ConfigError: when their test images differ in anything, or a file is no checkpoint of this project.
        DataError: when the images cannot be had.
    """
    networks = load_trained(first, trust), load_trained(second, trust)
    (images, labels), (others, their_labels) = (trained.read_test_images() for trained in networks)
    is_same = np.array_equal(images, others) and np.array_equal(labels, their_labels)
    if not is_same or networks[0].classes != networks[1].classes:
        which = [
            f"{path} has {len(found):,} of {trained.data.name} in {len(trained.classes)} classes, from "
            f"{trained.data.root or trained.config['data']['source']['_target_']}"
            for path, trained, found in zip((first, second), networks, (images, others), strict=True)
        ]
        raise ConfigError(f"the test images differ: {', '.join(which)}; compare runs on the same data")
    guesses = np.stack([trained.predict(images).argmax(axis=1) for trained in networks])
    return Comparison(networks, images, labels, guesses)


def find_interval(only_a: int, only_b: int, images: int) -> tuple[float, float]:
    """For A's accuracy less B's, where so many of the same images are right for only one of them.

    The adjusted Wald interval for paired proportions of Bonett and Price 2012 (Journal of Educational and
    Behavioral Statistics 37), which holds its level also where few images differ.
    """
    a, b = (only_a + 1) / (images + 2), (only_b + 1) / (images + 2)
    margin = norm.ppf((1 + LEVEL) / 2) * math.sqrt((a + b - (a - b) ** 2) / (images + 2))
    return max(-1.0, a - b - margin), min(1.0, a - b + margin)


def _to_pixels(image: np.ndarray) -> np.ndarray:
    """An image (channels, height, width) as gray (height, width) or RGB (height, width, 3)."""
    if len(image) == 3:
        return image.transpose(1, 2, 0)
    return image.mean(axis=0).astype(np.uint8)
