"""The sources of images: functions that return a data set's "train" and "test" as bytes and labels.

A file in conf/data/ names one of them, and states the facts that the data must agree with.
"""

import contextlib
import contextvars
import functools
import gzip
import logging
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnn_lab.errors import ConfigError, DataError, suggest

log = logging.getLogger(__name__)

MNIST_FILE = Path(__file__).with_name("mnist.npz")
IDX_DATASETS = ("MNIST", "FashionMNIST", "KMNIST")  # torchvision's classes of four such files
MORE_MIRRORS = {  # asked after torchvision's own
    "FashionMNIST": ["https://storage.googleapis.com/tensorflow/tf-keras-datasets/"],
}
DOWNLOAD_STALL = 10  # seconds without a byte after which a connection is given up
DOWNLOAD_PAUSES = (0.5, 2)  # seconds before all mirrors are asked again, and once more
_may_download = contextvars.ContextVar("may_download", default=True)


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
    from torchvision.datasets.mnist import read_image_file, read_label_file

    folder = Path(root).expanduser() / dataset / "raw"
    known_files = getattr(datasets, dataset)
    mirrors = [*known_files.mirrors, *MORE_MIRRORS.get(dataset, [])]
    _download_missing(folder, known_files.resources, mirrors)
    names = [name for name, _ in known_files.resources]
    images = [_read_file(folder / name, read_image_file).unsqueeze(1) for name in names[::2]]
    labels = [_read_file(folder / name, read_label_file) for name in names[1::2]]
    return {part: Split(*both) for part, *both in zip(("train", "test"), images, labels, strict=True)}


def _read_file(packed: Path, read: Callable[[str], Tensor]) -> Tensor:
    """What `read` finds in the gzipped file `packed`, or in the plain one beside it."""
    plain = packed.with_suffix("")
    path = plain if plain.is_file() else packed
    try:
        if path == plain:
            return read(str(plain))
        # No MD5: others pack the same values otherwise, and gzip has a checksum of its own.
        with tempfile.NamedTemporaryFile() as unpacked, gzip.open(packed) as stream:
            shutil.copyfileobj(stream, unpacked)
            unpacked.flush()
            return read(unpacked.name)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        problem = str(error)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (AssertionError, LookupError, RuntimeError, TypeError, ValueError):  # what the reader refuses with
        problem = f"its {path.stat().st_size:,} bytes are not what its header says"
    raise DataError(f"{path} is damaged: {problem}. Delete it and run again to download it anew: rm '{path}'")


@contextlib.contextmanager
def refuse_downloads() -> Iterator[None]:
    """Within this block sources only read: for a folder that was not typed, but came with somebody's run.

    Raises:
        DataError: when files are missing.
    """
    token = _may_download.set(False)
    try:
        yield
    finally:
        _may_download.reset(token)


def _download_missing(folder: Path, files: list[tuple[str, str]], mirrors: list[str]) -> None:
    """Fetch what is missing of `files` (name and MD5), once even if several processes ask at the same time.

    Raises:
        DataError: when no mirror gives a file as it should be, with what each of them did; nothing is left
            in its place.
    """
    from filelock import FileLock

    paths = {folder / name: md5 for name, md5 in files}
    missing = next(filter(_is_missing, paths), None)
    if not missing:
        return  # the folder may be one that nobody can write to
    if not _may_download.get():
        raise DataError(f"{missing.name} is not in {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            for path in filter(_is_missing, paths):
                _download(path, paths[path], mirrors)
    except OSError as error:
        raise DataError(f"{folder} cannot take what is to be downloaded: {error}") from error


def _is_missing(packed: Path) -> bool:
    return not (packed.is_file() or packed.with_suffix("").is_file())


def _download(path: Path, md5: str, mirrors: list[str]) -> None:
    """Fetch one file from the first mirror that has it, which moves to the front of `mirrors`."""
    import pooch
    from requests import RequestException

    # Without this header what is gzipped may arrive unpacked.
    fetch = pooch.HTTPDownloader(
        timeout=DOWNLOAD_STALL, chunk_size=1 << 16, headers={"Accept-Encoding": "identity"}
    )
    part = path.with_name(f".{path.name}.part")  # the same each time, so that killed processes leave one
    problems = dict.fromkeys(mirrors, "")
    try:
        for pause in (0, *DOWNLOAD_PAUSES):
            time.sleep(pause)
            for mirror in mirrors:
                log.info("downloading %s%s", mirror, path.name)
                try:
                    fetch(f"{mirror}{path.name}", part, None)
                except RequestException as error:
                    problems[mirror] = _find_cause(error)
                    continue
                if pooch.file_hash(part, alg="md5") == md5:
                    part.replace(path)
                    mirrors.sort(key=lambda other: other != mirror)
                    return
                problems[mirror] = f"it sent {part.stat().st_size:,} bytes whose MD5 is not {md5}"
    finally:
        part.unlink(missing_ok=True)
    reasons = "; ".join(f"{mirror}: {problem}" for mirror, problem in problems.items())
    raise DataError(
        f"{path.name} is not in {path.parent} and could not be downloaded ({reasons}). "
        "Try again later, or set data.root to where the data are"
    )


def _find_cause(error: BaseException) -> str:
    """What an exception of requests, which wraps it several times, began with."""
    while error.__context__:
        error = error.__context__
    return str(error)
