"""Many pictures from files: decoded once, side by side, and kept as bytes for the next time."""

import contextlib
import hashlib
import json
import logging
import math
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cnn_lab.errors import ConfigError, printable
from cnn_lab.files import WriteError, make_folder, replacing
from cnn_lab.settings.environment import find_cache
from cnn_lab.sources.decode import check_depths, decode, describe_problem, ignore_odd_metadata, look

log = logging.getLogger(__name__)
T = TypeVar("T")

CHUNK = 256  # pictures that a thread reads before the bar moves
MOST_MEMORY = 0.8  # of the machine's, that images may take
ADVISED_SIDE = 64  # pixels, from which a small network learns quickly


class Picture(NamedTuple):
    """A file below a folder: its path from there, its bytes, and when it was changed, in nanoseconds."""

    path: str
    size: int
    changed: int


class Wanted(NamedTuple):
    """What all pictures become.

    Attributes:
        size: height and width; None for that of all pictures.
        channels: 1 or 3; None for 3 where there is a picture in colour.
        max_value: what is white in pictures of more than 8 bits; None for the most that such bits can say.
    """

    size: tuple[int, int] | None
    channels: int | None
    max_value: float | None


class Decoded(NamedTuple):
    """All pictures of a folder.

    Attributes:
        images: (n, channels, height, width), uint8.
        problems: (n,), why a picture could not be read; empty where it could.
        max_value: what is white in those of more than 8 bits; None where there are none.
    """

    images: np.ndarray
    problems: np.ndarray
    max_value: float | None


def read_pictures(home: Path, pictures: Sequence[Picture], wanted: Wanted) -> Decoded:
    """The pictures' pixels, from the user's cache if no picture has changed since they went there.

    Raises:
        ConfigError: for pictures of different sizes without `size`, for more than fit into memory, and for
            values of more than 8 bits that do not fit `max_value`.
    """
    settings = hashlib.sha256(json.dumps([os.path.realpath(home), *wanted[:2]]).encode()).hexdigest()
    name = f"{home.absolute().name[:40]}-{settings[:16]}.npz"
    cache = find_cache() / name
    state = hashlib.sha256(json.dumps(pictures).encode()).hexdigest()
    unreadable = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
    with contextlib.suppress(*unreadable), cache.open("rb") as file, np.load(file) as kept:
        if str(kept["state"]) == state:
            found = float(kept["max_value"]) or None
            if wanted.max_value in (None, found):
                return Decoded(kept["images"], kept["problems"], found)
    paths = [f"{home}/{picture.path}" for picture in pictures]
    decoded = _decode(f"data.root={printable(str(home))}", paths, wanted)
    try:
        make_folder(cache.parent)
        with replacing(cache) as aside, aside.open("wb") as file:
            np.savez(file, state=state, **decoded._replace(max_value=decoded.max_value or 0)._asdict())
    except WriteError as error:
        log.warning("the pictures could not be kept: %s", error)
    return decoded


def show_note(text: str) -> None:
    """Print a line, and write it to the log."""
    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)
    log.info("%s", text)


def _decode(where: str, paths: Sequence[str], wanted: Wanted) -> Decoded:
    size, channels, max_value = wanted
    with ignore_odd_metadata():
        if size is None or channels is None:
            found = [facts for facts in _map(look, paths, "looking at pictures") if facts]
            size = size or _agree(where, Counter(own for own, _ in found))
            channels = channels or (3 if any(is_colour for _, is_colour in found) else 1)
        shape = (channels, *size)
        _check_memory(where, (len(paths), *shape))
        images = np.zeros((len(paths), *shape), np.uint8)
        depths = []

        def read(index: int) -> str:
            try:
                picture = decode(paths[index], shape, max_value)
            except Exception as error:  # Pillow's readers raise whatever they meet in a damaged file
                return describe_problem(error)
            images[index] = picture.pixels
            if picture.depth:
                depths.append(picture.depth)
            return ""

        problems = np.array([*_map(read, range(len(paths)), "reading pictures")])
    try:
        return Decoded(images, problems, check_depths(depths, max_value))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _agree(where: str, sizes: Counter[tuple[int, int]]) -> tuple[int, int]:
    """The size of all pictures."""
    if not sizes:
        raise ConfigError(f"{where} has no readable picture")
    (size, _), *others = sizes.most_common()
    if others:
        side = min(ADVISED_SIDE, *size)
        raise ConfigError(
            f"{where}: the pictures have {len(sizes):,} different sizes. Type data.size={side} to scale and "
            f"crop each of them to {side} x {side} pixels"
        )
    return size


def _check_memory(where: str, shape: tuple[int, ...]) -> None:
    there_is = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    gigabytes = math.prod(shape) / 1e9
    if gigabytes > MOST_MEMORY * there_is:
        raise ConfigError(
            f"{where}: {shape[0]:,} pictures of {shape[2]} x {shape[3]} pixels "
            f"need {gigabytes:,.0f} GB of memory, but there are {there_is:,.0f} GB: type a smaller data.size"
        )


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
