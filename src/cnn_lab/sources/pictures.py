"""Many pictures from files: decoded once, side by side, and kept as bytes for the next time."""

import contextlib
import functools
import hashlib
import json
import logging
import math
import os
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cnn_lab.errors import ConfigError, printable

log = logging.getLogger(__name__)
T = TypeVar("T")

# Of those that Pillow knows, these start other programs, or are only recognised.
REFUSED = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}
SIDEWAYS = (5, 6, 7, 8)  # of EXIF's orientations
ORIENTATION = 0x0112
GRAY = ("1", "L", "LA", "La", "F")  # modes, besides those of whole numbers
CHUNK = 256  # pictures that a thread reads before the bar moves
MOST_MEMORY = 0.8  # of the machine's, that images may take


class Picture(NamedTuple):
    """A file below a folder: its path from there, its bytes, and when it was changed, in nanoseconds."""

    path: str
    size: int
    changed: int


@functools.cache
def list_suffixes() -> frozenset[str]:
    """The endings, in small letters, of the files that are read."""
    Image.init()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in _formats())


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.OPEN if name not in REFUSED)


def read_pictures(
    home: Path, pictures: Sequence[Picture], size: tuple[int, int] | None, channels: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Bytes (n, channels, height, width), and why each picture (n,) could not be read, empty where it could.

    They come from the user's cache if no picture was changed since, and else go there.

    Args:
        size: height and width; None for that of all pictures.
        channels: 1 or 3; None for 3 where there is a picture in colour.

    Raises:
        ConfigError: for pictures of different sizes without `size`, and for more than fit into memory.
    """
    settings = hashlib.sha256(json.dumps([os.path.realpath(home), size, channels]).encode()).hexdigest()
    name = f"{home.absolute().name[:40]}-{settings[:16]}.npz"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cnn-lab" / name
    state = hashlib.sha256(json.dumps(pictures).encode()).hexdigest()
    unreadable = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
    with contextlib.suppress(*unreadable), cache.open("rb") as file, np.load(file) as kept:
        if str(kept["state"]) == state:
            return kept["images"], kept["problems"]
    paths = [f"{home}/{picture.path}" for picture in pictures]
    images, problems = _decode(home, paths, size, channels)
    aside = cache.with_name(f".{os.getpid()}-{name}")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            np.savez(file, state=state, images=images, problems=problems)
        aside.replace(cache)
    except OSError as error:
        log.warning("the pictures could not be kept in %s: %s", cache, error)
        with contextlib.suppress(OSError):
            aside.unlink()
    return images, problems


def show_note(text: str) -> None:
    """Print a line, and write it to the log."""
    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)
    log.info("%s", text)


def _decode(
    home: Path, paths: Sequence[str], size: tuple[int, int] | None, channels: int | None
) -> tuple[np.ndarray, np.ndarray]:
    with _refuse_bombs():
        if size is None or channels is None:
            found = [facts for facts in _map(_look, paths, "looking at pictures") if facts]
            size = size or _agree(home, Counter(own for own, _ in found))
            channels = channels or (3 if any(is_colour for _, is_colour in found) else 1)
        shape = (len(paths), channels, *size)
        _check_memory(home, shape)
        images = np.zeros(shape, np.uint8)

        def read(index: int) -> str:
            try:
                images[index] = _read(paths[index], size, channels)
            except Exception as error:  # Pillow's readers raise whatever they meet in a damaged file
                return printable(str(error).replace(repr(paths[index]), "it")) or type(error).__name__
            return ""

        problems = np.array([*_map(read, range(len(paths)), "reading pictures")])
    return images, problems


def _agree(home: Path, sizes: Counter[tuple[int, int]]) -> tuple[int, int]:
    """The size of all pictures."""
    if not sizes:
        raise ConfigError(f"data.root={printable(str(home))} has no picture that can be read")
    (size, times), *others = sizes.most_common()
    if others:
        raise ConfigError(
            f"the pictures in data.root={printable(str(home))} have {len(sizes):,} different sizes: type "
            f"data.size=[{size[0]},{size[1]}], say, the height and width of {times:,} of them"
        )
    return size


def _check_memory(home: Path, shape: tuple[int, ...]) -> None:
    there_is = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    gigabytes = math.prod(shape) / 1e9
    if gigabytes > MOST_MEMORY * there_is:
        raise ConfigError(
            f"data.root={printable(str(home))}: {shape[0]:,} pictures of {shape[2]} x {shape[3]} pixels "
            f"would take {gigabytes:,.0f} GB, of {there_is:,.0f} that there are: type a smaller data.size"
        )


@contextlib.contextmanager
def _refuse_bombs() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _map(function: Callable[[T], object], items: Sequence[T], text: str) -> Iterator:
    """`function` of each item in several threads, with a bar where there is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task, pool = progress.add_task(text, total=len(items)), ThreadPoolExecutor()
        try:
            for done in pool.map(lambda chunk: [function(item) for item in chunk], chunks):
                progress.advance(task, len(done))
                yield from done
        finally:
            pool.shutdown(cancel_futures=True)


def _look(path: str) -> tuple[tuple[int, int], bool] | None:
    """Height and width, and whether there is colour; None for what cannot be read."""
    try:
        with Image.open(path, formats=_formats()) as picture:
            is_sideways = picture.getexif().get(ORIENTATION) in SIDEWAYS
            size = picture.size if is_sideways else picture.size[::-1]
            return size, not picture.mode.startswith(("I", *GRAY))
    except Exception:
        return None


def _read(path: str, size: tuple[int, int], channels: int) -> np.ndarray:
    """Bytes (channels, height, width) of a picture, upright, scaled to cover the size, and cropped to it."""
    mode = "L" if channels == 1 else "RGB"
    with Image.open(path, formats=_formats()) as opened:
        opened.draft(mode, (2 * max(size), 2 * max(size)))  # large JPEGs are read at a fraction of their size
        picture = ImageOps.exif_transpose(opened)
    if picture.mode.startswith("I"):  # 16 bits
        picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        paper = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(paper, picture.convert("RGBA"))
    picture = picture.convert(mode)
    if picture.size != size[::-1]:
        picture = ImageOps.fit(picture, size[::-1])
    return np.atleast_3d(np.asarray(picture)).transpose(2, 0, 1)
