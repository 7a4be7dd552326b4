"""MNIST as arrays of bytes: the four files, how to get them, and the sample that ships with this package."""

import contextlib
import functools
import hashlib
import io
import logging
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnn_lab.errors import DataError

log = logging.getLogger(__name__)

IMAGE_SHAPE = (1, 28, 28)
NUM_CLASSES = 10
SIZES = {"train": 60_000, "test": 10_000}
SAMPLE_FILE = Path(__file__).with_name("mnist_sample.npz")
SAMPLE_SIZES = {"train": 4_000, "val": 500, "test": 500}
DOWNLOAD_STALL = 10  # seconds without a byte after which a server is given up


class IdxFile(NamedTuple):
    """One of MNIST's files as it lies on disk: a header of `offset` bytes, then one byte a value."""

    name: str
    bytes: int
    md5: str
    offset: int


class Split(NamedTuple):
    """Images (n, 28, 28) and labels (n,), both uint8; labels are 0 to 9."""

    images: np.ndarray
    labels: np.ndarray


FILES = {
    "train": (
        IdxFile("train-images-idx3-ubyte", 47_040_016, "6bbc9ace898e44ae57da46a324031adb", 16),
        IdxFile("train-labels-idx1-ubyte", 60_008, "a25bea736e30d166cdddb491f175f624", 8),
    ),
    "test": (
        IdxFile("t10k-images-idx3-ubyte", 7_840_016, "2646ac647ad5339dbf082846283269ea", 16),
        IdxFile("t10k-labels-idx1-ubyte", 10_008, "27ae3e4e09519cfbb04c329615203637", 8),
    ),
}
ALL_FILES = (*FILES["train"], *FILES["test"])


def raw_folder(root: str | Path) -> Path:
    """Where torchvision keeps the files below its `root`."""
    return Path(root).expanduser() / "MNIST" / "raw"


def is_complete(root: str | Path) -> bool:
    """Whether all four files are there, whatever they hold."""
    return all((raw_folder(root) / file.name).is_file() for file in ALL_FILES)


@functools.lru_cache(maxsize=1)  # the runs of a sweep read it once
def read_mnist(root: str | Path) -> dict[str, Split]:
    """The official training and test images, as "train" and "test".

    Raises:
        DataError: naming the file that is missing or damaged, and how to get it anew.
    """
    splits = {}
    for name, (images, labels) in FILES.items():
        shape = (SIZES[name], *IMAGE_SHAPE[1:])
        splits[name] = Split(_read_idx(root, images).reshape(shape), _read_idx(root, labels))
    return splits


def _read_idx(root: str | Path, file: IdxFile) -> np.ndarray:
    path = raw_folder(root) / file.name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    problem = _find_problem(content, file)
    if problem:
        raise DataError(
            f"{path} is damaged: {problem}. Delete it and run again to download it anew: rm '{path}'"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=file.offset)


def _find_problem(content: bytes, file: IdxFile) -> str:
    if len(content) != file.bytes:
        return f"it has {len(content):,} bytes instead of {file.bytes:,}"
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != file.md5:
        return f"its content is not MNIST's (its MD5 is not {file.md5})"
    return ""


def read_sample() -> dict[str, Split]:
    """5,000 real MNIST training digits as fixed "train", "val" and "test" of 4,000, 500 and 500.

    Each part holds as many of every digit. NOTICE says where they come from.
    """
    with np.load(SAMPLE_FILE) as file:
        images, labels = file["images"], file["labels"]
    by_digit = np.argsort(labels, kind="stable").reshape(NUM_CLASSES, -1)
    splits, start = {}, 0
    for name, size in SAMPLE_SIZES.items():
        stop = start + size // NUM_CLASSES
        chosen = by_digit[:, start:stop].T.ravel()  # 0 to 9, again and again
        splits[name] = Split(images[chosen], labels[chosen])
        start = stop
    return splits


def stratified_split(labels: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of all but `size` items, and of `size` items in which every class has its share (to one item).

    The same for the same labels, size and seed, on every machine.
    """
    generator = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    shares = counts * size / len(labels)
    quotas = np.floor(shares).astype(int)
    largest_remainders = np.argsort(quotas - shares, kind="stable")
    quotas[largest_remainders[: size - quotas.sum()]] += 1
    chosen = np.zeros(len(labels), dtype=bool)
    for value, quota in zip(classes, quotas, strict=True):
        members = np.flatnonzero(labels == value)
        chosen[generator.permutation(members)[:quota]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def download_mnist(root: str | Path) -> None:
    """Fetch the files that are missing below `root`, once even if several runs ask at the same time.

    Raises:
        DataError: when no mirror gives a file, or it is not what it should be; nothing is left in its place.
    """
    from filelock import FileLock

    folder = raw_folder(root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"), tempfile.TemporaryDirectory(dir=folder) as scratch:
            for file in ALL_FILES:
                if not (folder / file.name).is_file():
                    shutil.move(_download_file(file, Path(scratch)), folder / file.name)
    except OSError as error:
        raise DataError(f"MNIST cannot be stored in {folder}: {error}") from error


def _download_file(file: IdxFile, folder: Path) -> Path:
    """Fetch one file from the first of torchvision's mirrors that has it."""
    from torchvision.datasets import MNIST
    from torchvision.datasets.utils import download_and_extract_archive

    reasons = []
    for mirror in MNIST.mirrors:
        chatter = io.StringIO()
        try:
            with _stall_limit(DOWNLOAD_STALL), contextlib.redirect_stdout(chatter):
                download_and_extract_archive(f"{mirror}{file.name}.gz", str(folder))
            problem = _find_problem((folder / file.name).read_bytes(), file)
        except (OSError, EOFError, RuntimeError) as error:
            problem = str(error)
        if not problem:
            return folder / file.name
        (folder / f"{file.name}.gz").unlink(missing_ok=True)
        reasons.append(f"{mirror}: {problem}")
        log.info("%s from %s: %s %s", file.name, mirror, problem, chatter.getvalue())
    raise DataError(f"{file.name} could not be downloaded ({'; '.join(reasons)})")


@contextlib.contextmanager
def _stall_limit(seconds: float) -> Iterator[None]:
    """Give every connection a time limit, which torchvision's downloads do not have."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
