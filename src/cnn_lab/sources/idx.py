"""MNIST, and the data sets that come in files of its format (IDX)."""

import functools
import gzip
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from cnn_lab.datasets import Split
from cnn_lab.errors import ConfigError, suggest
from cnn_lab.sources.download import download_missing, fetch_archive, is_missing, name_damage

MNIST_FILE = Path(__file__).with_name("mnist.npz")
IDX_DATASETS = ("MNIST", "FashionMNIST", "KMNIST")  # torchvision's classes of four such files
MORE_MIRRORS = {  # asked after torchvision's own
    "FashionMNIST": ["https://storage.googleapis.com/tensorflow/tf-keras-datasets/"],
}
EMNIST_FIRST_LABELS = {"balanced": 0, "letters": 1, "digits": 0}  # in the files
EMNIST_ZIP = ("gzip.zip", "58c8d27c78d21e728a6bc7b3cc06412e")
EMNIST_MIRRORS = ["https://biometrics.nist.gov/cs_links/EMNIST/"]


@functools.lru_cache(maxsize=1)  # the runs of a sweep read it once
def read_mnist() -> dict[str, Split]:
    """MNIST's 60,000 and 10,000 handwritten digits, which come with this package: see NOTICE."""
    with np.load(MNIST_FILE) as file:
        return {
            name: Split(file[f"x_{name}"][:, None], file[f"y_{name}"].astype(np.int64))
            for name in ("train", "test")
        }


@functools.lru_cache(maxsize=1)
def read_idx(root: str | Path, dataset: str) -> dict[str, Split]:
    """A data set of four IDX files, plain or gzipped, which are downloaded where they are missing.

    Args:
        root: folder in torchvision's layout: the files are in `root`/`dataset`/raw.
        dataset: one of `IDX_DATASETS`. Addresses, names and checksums of the files are torchvision's.

    Raises:
        ConfigError: for another data set.
        DataError: naming the file that is damaged or cannot be had, and what to do.
    """
    if dataset not in IDX_DATASETS:
        near = suggest(dataset, IDX_DATASETS)
        raise ConfigError(f"data.source.dataset={dataset} is not an option{near}")
    from torchvision import datasets

    folder = Path(root).expanduser() / dataset / "raw"
    known_files = getattr(datasets, dataset)
    mirrors = [*known_files.mirrors, *MORE_MIRRORS.get(dataset, [])]
    download_missing(folder, known_files.resources, mirrors)
    return _read_splits([folder / name for name, _ in known_files.resources])


@functools.lru_cache(maxsize=1)
def read_emnist(root: str | Path, split: str) -> dict[str, Split]:
    """A split of EMNIST, upright and with labels from 0, which it is not in its files.

    Args:
        root: folder in torchvision's layout: in `root`/EMNIST/raw are the split's four IDX files, plain or
            gzipped, or the zip of all splits, which is downloaded where neither is and read as it is.
        split: one of `EMNIST_FIRST_LABELS`.

    Raises:
        ConfigError: for another split.
        DataError: naming the file that is damaged or cannot be had, and what to do.
    """
    if split not in EMNIST_FIRST_LABELS:
        near = suggest(split, EMNIST_FIRST_LABELS)
        raise ConfigError(f"data.source.split={split} is not an option{near}")
    folder = Path(root).expanduser() / "EMNIST" / "raw"
    kinds = ("train-images-idx3", "train-labels-idx1", "test-images-idx3", "test-labels-idx1")
    paths = [folder / f"emnist-{split}-{kind}-ubyte.gz" for kind in kinds]
    archive = fetch_archive(folder, EMNIST_ZIP, EMNIST_MIRRORS) if any(map(is_missing, paths)) else None
    return {
        part: Split(np.ascontiguousarray(images.swapaxes(2, 3)), labels - EMNIST_FIRST_LABELS[split])
        for part, (images, labels) in _read_splits(paths, archive).items()
    }


def _read_splits(paths: Sequence[Path], archive: Path | None = None) -> dict[str, Split]:
    """The splits in four IDX files: images and labels of training and test, each from disk or a zip."""
    images = [_read_file(path, 3, archive)[:, None] for path in paths[::2]]
    labels = [_read_file(path, 1, archive).astype(np.int64) for path in paths[1::2]]
    return {part: Split(*both) for part, *both in zip(("train", "test"), images, labels, strict=True)}


def _read_file(packed: Path, dimensions: int, archive: Path | None) -> np.ndarray:
    """The array of the gzipped file `packed`, or of the plain one beside it, or of one in a zip."""
    plain = packed.with_suffix("")
    if archive:
        with (
            name_damage(archive),
            zipfile.ZipFile(archive) as files,
            files.open(f"gzip/{packed.name}") as inner,
        ):
            return _read_array(gzip.GzipFile(fileobj=inner), dimensions)
    path = plain if plain.is_file() else packed
    # No MD5: others pack the same values otherwise, and gzip has a checksum of its own.
    with name_damage(path), plain.open("rb") if path == plain else gzip.open(packed) as stream:
        return _read_array(stream, dimensions)


def _read_array(stream: IO[bytes], dimensions: int) -> np.ndarray:
    """The bytes of an IDX file in the shape that its header states; ValueError for other contents."""
    header, content = stream.read(4 + 4 * dimensions), stream.read()
    shape = np.frombuffer(header, ">u4", offset=4).tolist()
    if header[:4] != bytes([0, 0, 8, dimensions]) or len(content) != math.prod(shape):
        raise ValueError
    return np.frombuffer(bytearray(content), np.uint8).reshape(shape)
