"""The files of data sets: downloaded once, checked, and named where they are damaged."""

import contextlib
import contextvars
import gzip
import logging
import pickle
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from cnn_lab.errors import ConfigError, DataError

log = logging.getLogger(__name__)

DOWNLOADED = (  # the sources whose files can be had again
    "cnn_lab.sources.idx.read_idx", "cnn_lab.sources.idx.read_emnist", "cnn_lab.sources.cifar.read_cifar10",
)  # fmt: skip
DOWNLOAD_STALL = 10  # seconds without a byte after which a connection is given up
DOWNLOAD_PAUSES = (0.5, 2)  # seconds before all mirrors are asked again, and once more
_may_download = contextvars.ContextVar("may_download", default=True)


def find_place(root: str | Path) -> Path:
    """The path of images that cannot be downloaded.

    Raises:
        ConfigError: when there is nothing.
    """
    path = Path(root).expanduser()
    if not path.exists():
        raise ConfigError(
            f"data.root={root} does not exist: if you moved the images, put a link to them there, or "
            "continue the run with another data.root"
        )
    return path


@contextlib.contextmanager
def name_damage(path: Path) -> Iterator[None]:
    """Within this block a file is read.

    Raises:
        DataError: naming it, when it cannot be read, or is not what it should be.
    """
    try:
        yield
        return
    except (gzip.BadGzipFile, EOFError, zlib.error, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        problem = str(error)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (LookupError, TypeError, ValueError, tarfile.TarError):
        problem = f"its {path.stat().st_size:,} bytes are not what its header says"
    raise DataError(
        f"{path} is damaged: {problem}. Delete it and run again, and it will be downloaded again: rm '{path}'"
    )


def fetch_archive(folder: Path, file: tuple[str, str], mirrors: list[str]) -> Path:
    """The path of a file (name and MD5) in `folder`, downloaded where it is missing.

    Raises:
        DataError: when it cannot be had, or has another MD5.
    """
    import pooch

    name, md5 = file
    path = folder / name
    download_missing(folder, [file], mirrors)
    with name_damage(path):
        if (found := pooch.file_hash(str(path), alg="md5")) != md5:
            raise zipfile.BadZipFile(f"its MD5 is {found} instead of {md5}")
    return path


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


def download_missing(folder: Path, files: list[tuple[str, str]], mirrors: list[str]) -> None:
    """Fetch what is missing of `files` (name and MD5), once even if several processes ask at the same time.

    Raises:
        DataError: when no mirror gives a file as it should be, with what each of them did; nothing is left
            in its place.
    """
    from filelock import FileLock

    paths = {folder / name: md5 for name, md5 in files}
    missing = next(filter(is_missing, paths), None)
    if not missing:
        return  # the folder may be one that nobody can write to
    if not _may_download.get():
        raise DataError(f"{missing.name} is not in {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            for path in filter(is_missing, paths):
                if problem := _download(path, paths[path], mirrors):
                    wanted = (f"{other.name} (MD5 {paths[other]})" for other in paths if is_missing(other))
                    raise DataError(
                        f"{path.name} is not in {folder} and could not be downloaded ({problem}). "
                        f"Try again later, or put there: {', '.join(wanted)}"
                    )
    except OSError as error:
        raise DataError(f"{folder} cannot store the download: {error}") from error


def is_missing(packed: Path) -> bool:
    """Whether neither the packed file is there nor the plain one beside it."""
    return not (packed.is_file() or packed.with_suffix("").is_file())


def _download(path: Path, md5: str, mirrors: list[str]) -> str:
    """Fetch one file from the first mirror that has it, which moves to the front of `mirrors`.

    Returns:
        What each mirror did, if none has it; else an empty string.
    """
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
                    return ""
                problems[mirror] = f"it sent {part.stat().st_size:,} bytes whose MD5 is not {md5}"
    finally:
        part.unlink(missing_ok=True)
    return "; ".join(f"{mirror}: {problem}" for mirror, problem in problems.items())


def _find_cause(error: BaseException) -> str:
    """What an exception of requests, which wraps it several times, began with."""
    while error.__context__:
        error = error.__context__
    return str(error)
