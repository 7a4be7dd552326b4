"""What a user brings along, in a working directory: networks, arrays, pictures in folders, and a function that makes images."""

import functools
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

NETS = '''\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width: int = 4, *, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.ReLU(), nn.Linear(width, num_classes))

    def forward(self, images):
        return self.layers(images)


class Normed(nn.Module):
    def __init__(self, width: int = 4, *, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.BatchNorm1d(width), nn.LazyLinear(num_classes))

    def forward(self, images):
        return self.layers(images)


class Averaging(nn.Module):
    """Subtracts the mean of all images that it has been trained on."""

    def __init__(self, *, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(input_shape))
        self.register_buffer("count", torch.zeros(()))
        self.head = nn.LazyLinear(num_classes)

    def forward(self, images):
        if self.training:
            self.total += images.detach().sum(dim=0)
            self.count += len(images)
        return self.head((images - self.total / self.count.clamp(min=1)).flatten(1))
'''
OTHER_NETS = """\
from torch import nn


class Net(nn.Module):
    def __init__(self, width: int = 4, *, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(input_shape[0], width, kernel_size=3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)
        )

    def forward(self, images):
        return self.layers(images)
"""
IMAGES = """\
import numpy as np


def read(noise: int = 60, count: int = 60) -> dict:
    generator, splits = np.random.default_rng(0), {}
    for part in ("train", "test"):
        labels = np.arange(count) % 3
        images = generator.integers(0, 1 + noise, size=(count, 8, 8, 1))
        images[np.arange(count), labels, :] += 150
        splits[part] = (images.astype(np.uint8), labels)
    return splits


def read_named(name: str = "x", std: float = 1.0, classes: int = 3, batch_size: int = 60) -> dict:
    return read(count=batch_size)
"""
CLASSES = ["class 2", "class 10", "a=b,c", "été"]


def draw_stripes(label: int, generator: np.random.Generator, strength: int = 150) -> np.ndarray:
    """A gray image of 8 x 8 that is brighter in the row of its label."""
    pixels = generator.integers(0, 100, size=(8, 8), dtype=np.uint8)
    pixels[label] += strength
    return pixels


def write_arrays(path: Path, seed: int, strength: int) -> None:
    """60 images and 30 for the test, of three classes."""
    generator = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for part, count in (("train", 60), ("test", 30)):
        labels = generator.permutation(count) % 3
        images = [draw_stripes(label, generator, strength) for label in labels]
        arrays |= {f"y_{part}": labels, f"x_{part}": np.stack(images)}
    np.savez(path, **arrays)


def write_picture(path: Path, pixels: np.ndarray, kind: str) -> None:
    """A PNG of the gray image: plain, of 16 bits, with a palette, with transparency, turned, or of one bit."""
    image = Image.fromarray(pixels)
    if kind == "16 bits":
        image = Image.fromarray(pixels.astype(np.uint16) << 8)
    elif kind == "palette":
        image = image.convert("RGB").quantize(16)
    elif kind == "transparent":
        image.putalpha(Image.fromarray(255 - pixels))
    elif kind == "one bit":
        image = image.point(lambda value: 255 * (value > 128), "1")
    elif kind == "turned":
        turned = Image.Exif()
        turned[0x0112] = 6
        image.rotate(90).save(path, exif=turned)
        return
    image.save(path)


KINDS = ["plain", "16 bits", "palette", "transparent", "turned", "one bit"]


def write_pictures(folder: Path, kinds: list[str], seed: int = 0, count: int = 12) -> None:
    """A folder of pictures for each class, of these kinds in turn."""
    generator = np.random.default_rng(seed)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            kind = kinds[number % len(kinds)]
            write_picture(folder / name / f"{number} {kind}.png", draw_stripes(label, generator), kind)


def bring_code(place: Path) -> None:
    """Write the modules into a folder."""
    for name, text in (("nets_one", NETS), ("nets_two", OTHER_NETS), ("images_made", IMAGES)):
        (place / f"{name}.py").write_text(text)


def bring(place: Path) -> Path:
    """Write all of it into a folder, which it returns."""
    place.mkdir(parents=True, exist_ok=True)
    bring_code(place)
    for seed, (name, strength) in enumerate({"a": 40, "b": 80}.items()):  # two data sets of the same name
        write_pictures(place / name / "pictures", ["plain"], seed)
        write_arrays(place / name / "own.npz", seed, strength)
    for kind in KINDS[1:]:
        write_pictures(place / kind, [kind])
    write_pictures(place / "mixed", KINDS)
    return place


@functools.cache
def find_belongings() -> Path:
    """A folder with all of it, which lasts as long as this process."""
    folder = tempfile.TemporaryDirectory(prefix="cnn-lab-brought-")
    find_belongings.kept = folder  # type: ignore[attr-defined]
    return bring(Path(folder.name))
