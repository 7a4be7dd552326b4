"""MNIST as arrays of bytes: the four files, how to get them, and the sample that ships with this package."""

import functools
import gzip
import hashlib
import io
import json
import logging
import time
import zlib
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
DOWNLOAD_STALL = 10  # seconds without a byte after which a connection is given up
DOWNLOAD_LIMIT = 600  # seconds for one file: 16 KB/s for the largest
DOWNLOAD_PAUSES = (0.5, 2)  # seconds before all mirrors are asked again, and once more
CHECKED_FILE = ".checked.json"  # beside the files: size and time of each when its checksum was right
CHECKED_AGE = 100_000_000  # nanoseconds, more than a tick of the clock that file systems stamp with


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
def read_mnist(root: str | Path, leaves_traces: bool = True) -> dict[str, Split]:
    """The official training and test images, as "train" and "test".

    Args:
        leaves_traces: whether a record may be left beside the files, which spares later reads the checksums.

    Raises:
        DataError: naming the file that is missing or damaged, and how to get it anew.
    """
    folder = raw_folder(root)
    known = _read_checked(folder)
    checked = dict(known)
    splits = {}
    for name, (images, labels) in FILES.items():
        shape = (SIZES[name], *IMAGE_SHAPE[1:])
        splits[name] = Split(
            _read_idx(folder, images, checked).reshape(shape), _read_idx(folder, labels, checked)
        )
    if checked != known and leaves_traces:
        _write_checked(folder, checked)
    return splits


def _read_idx(folder: Path, file: IdxFile, checked: dict[str, list[int]]) -> np.ndarray:
    """The values in `file`, whose checksum is computed unless `checked` knows the file as it is."""
    path = folder / file.name
    try:
        status = path.stat()
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    state = [status.st_size, status.st_mtime_ns]
    problem = _find_problem(content, file, trusted=checked.get(file.name) == state)
    if problem:
        raise DataError(
            f"{path} is damaged: {problem}. Delete it and run again to download it anew: rm '{path}'"
        )
    # A file of this very moment could change once more and keep its time.
    if time.time_ns() - status.st_mtime_ns > CHECKED_AGE:
        checked[file.name] = state
    return np.frombuffer(content, dtype=np.uint8, offset=file.offset)


def _read_checked(folder: Path) -> dict[str, list[int]]:
    try:
        checked = json.loads((folder / CHECKED_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return checked if isinstance(checked, dict) else {}


def _write_checked(folder: Path, checked: dict[str, list[int]]) -> None:
    """Half a record, as two processes or a full disk may leave it, is no JSON and read as none."""
    try:
        (folder / CHECKED_FILE).write_text(json.dumps(checked))
    except OSError as error:
        log.debug("no record of checksums in %s: %s", folder, error)


def _find_problem(content: bytes, file: IdxFile, trusted: bool = False) -> str:
    if len(content) != file.bytes:
        return f"it has {len(content):,} bytes instead of {file.bytes:,}"
    if not trusted and hashlib.md5(content, usedforsecurity=False).hexdigest() != file.md5:
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


class _DeadMirrorError(Exception):
    """A mirror failed in a way that asking again would not change."""


def download_mnist(root: str | Path) -> None:
    """Fetch the files that are missing below `root`, once even if several processes ask at the same time.

    Raises:
        DataError: when no mirror gives a file as it should be, with what each of them did; nothing is left
            in its place.
    """
    from filelock import FileLock

    folder = raw_folder(root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            missing = [file for file in ALL_FILES if not (folder / file.name).is_file()]
            mirrors = _list_mirrors() if missing else []
            for file in missing:
                _store_file(folder / file.name, _download_file(file, mirrors))
    except OSError as error:
        raise DataError(f"MNIST cannot be stored in {folder}: {error}") from error


def _list_mirrors() -> list[str]:
    from torchvision.datasets import MNIST  # takes seconds, which whoever waited for the lock need not spend

    return list(MNIST.mirrors)


def _store_file(path: Path, content: bytes) -> None:
    """Write a file that is there as a whole or not at all."""
    part = path.with_name(f".{path.name}.part")  # the same each time, so that killed processes leave one
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _download_file(file: IdxFile, mirrors: list[str]) -> bytes:
    """One file's content from the first mirror that has it, which moves to the front of `mirrors`."""
    problems = dict.fromkeys(mirrors, "")
    hopeful = list(mirrors)
    for pause in (0, *DOWNLOAD_PAUSES):
        if not hopeful:
            break
        time.sleep(pause)
        for mirror in tuple(hopeful):
            try:
                content = _fetch(f"{mirror}{file.name}.gz", file)
            except (OSError, _DeadMirrorError) as error:
                problems[mirror] = " ".join(str(error).split())[:100]  # some quote what the server sent
                log.info("%s from %s: %s", file.name, mirror, problems[mirror])
                if isinstance(error, _DeadMirrorError):
                    hopeful.remove(mirror)
            else:
                mirrors.sort(key=lambda other: other != mirror)
                return content
    reasons = "; ".join(f"{mirror}: {problem}" for mirror, problem in problems.items())
    raise DataError(f"{file.name} could not be downloaded ({reasons})")


def _fetch(url: str, file: IdxFile) -> bytes:
    """Download, unpack and check.

    Raises:
        _DeadMirrorError: when the mirror cannot be reached, does not have the file or is far too slow.
        OSError: for all that may go better another time.
    """
    from http.client import HTTPException  # with urllib, 20 ms that a command without download is spared
    from ssl import SSLEOFError
    from urllib.error import HTTPError, URLError

    try:
        packed = _read_body(url, file.bytes + 1024)  # what does not shrink at all, and gzip's own bytes
        with gzip.open(io.BytesIO(packed)) as stream:
            content = stream.read(file.bytes + 1)
    except HTTPError as error:
        error.close()
        passing = error.code >= 500 or error.code in (408, 429)  # its own limit on time, or on requests
        note = ", a redirect that cannot be followed" if error.code < 400 else ""
        raise (OSError if passing else _DeadMirrorError)(f"HTTP status {error.code}{note}") from error
    except URLError as error:
        passing = isinstance(error.reason, ConnectionResetError | SSLEOFError)
        reason = getattr(error.reason, "strerror", None) or error.reason
        raise (OSError if passing else _DeadMirrorError)(f"it cannot be reached: {reason}") from error
    except TimeoutError as error:
        raise OSError(f"no byte came for {DOWNLOAD_STALL} seconds") from error
    except (HTTPException, EOFError, ValueError, zlib.error) as error:
        raise OSError(str(error)) from error
    problem = _find_problem(content, file)
    if problem:
        raise OSError(problem)
    return content


def _read_body(url: str, most: int) -> bytes:
    """What `url` gives, given up where it is more than `most` bytes."""
    from urllib.request import build_opener

    end = time.monotonic() + DOWNLOAD_LIMIT
    body = bytearray()
    opener = build_opener()
    opener.addheaders = [("User-Agent", "cnn-lab")]  # some servers refuse what urllib calls itself
    with opener.open(url, timeout=DOWNLOAD_STALL) as response:
        size = getattr(response, "length", None)  # None where the server does not say
        while len(body) != size and (chunk := response.read1(1 << 16)):
            body += chunk
            if len(body) > most:
                raise OSError(f"it sent more than {most:,} bytes")
            if time.monotonic() > end:
                raise _DeadMirrorError(f"it sent {len(body):,} bytes in {DOWNLOAD_LIMIT} seconds")
    if size is not None and len(body) < size:
        raise OSError(f"the connection dropped after {len(body):,} of {size:,} bytes")
    return bytes(body)
