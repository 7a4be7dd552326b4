"""One's own pictures, in folders that are named after their classes."""

import functools
import os
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cnn_lab.datasets import Split
from cnn_lab.errors import UNPRINTABLE, ConfigError, DataError, printable, suggest
from cnn_lab.sources.decode import list_suffixes
from cnn_lab.sources.download import find_place
from cnn_lab.sources.pictures import Picture, Wanted, read_pictures, show_note
from cnn_lab.splitting import stratified_split

PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}  # what their folders are called, in whatever case
JUNK = (".", "__MACOSX", "@eaDir")  # how the names start of what file managers and archives leave behind


def read_folder(
    root: str | Path,
    size: int | tuple[int, int] | None = None,
    channels: Literal[1, 3] | None = None,
    test_share: float = 0.2,
    skip_broken: bool = False,
    split_seed: int = 0,
    max_value: float | None = None,
) -> dict[str, Any]:
    """Pictures of any size and colour, in the formats of `cnn_lab.sources.decode.FORMATS`.

    Nothing outside of the folder is read: links that lead out, and links to folders, are not followed.

    Args:
        root: holds `train` and perhaps `test` and `val` (or what else `PARTS` lists), each with a folder for
            each class, or such folders alone.
        size: height and width of the images, or the side of square ones, that each picture is scaled to, and
            cropped; None for that of the pictures, if they have one.
        channels: 1 for gray, 3 for colour; None for colour where there is a picture that has some.
        test_share: of the pictures of each class that become test images, where there is no `test`.
        skip_broken: leave out pictures that cannot be read, and say how many.
        split_seed: chooses the test images.
        max_value: what is white in pictures of more than 8 bits; None for the most that such bits can say.
            What is found then is returned as a setting.

    Raises:
        ConfigError: for a folder without pictures or with one class, for classes that `train` lacks or that
            keep no training image, for names that cannot be printed, for pictures of different sizes without
            `size`, and for values of more than 8 bits that do not fit `max_value`.
        DataError: for a picture that cannot be read.
    """
    shape = (size, size) if isinstance(size, int) else size and tuple(size)
    return _read_once(root, Wanted(shape, channels, max_value), test_share, skip_broken, split_seed)


@functools.lru_cache(maxsize=1)  # for all runs of a sweep
def _read_once(
    root: str | Path, wanted: Wanted, test_share: float, skip_broken: bool, split_seed: int
) -> dict[str, Any]:
    home, left_out = find_place(root), []
    if not home.is_dir():
        raise ConfigError(f"data.root={root} is not a folder")
    parts = _find_parts(home) or {"train": home}
    found = {part: _list_classes(path, home, left_out) for part, path in parts.items()}
    names = sorted((name for name, own in found["train"].items() if own), key=_order_naturally)
    _check_classes(home, found, names, left_out)
    listed = [
        (part, label, picture)
        for part, classes in found.items()
        for label, name in enumerate(names)
        for picture in classes.get(name, ())
    ]
    # Not class by class, since pictures and limits look at the first images; the same on every machine.
    mixed = np.random.default_rng(0).permutation(len(listed))
    listed = sorted((listed[index] for index in mixed), key=lambda item: item[0])
    pictures = [picture for *_, picture in listed]
    images, problems, max_value = read_pictures(home, pictures, wanted)
    if count := np.count_nonzero(problems):
        path, problem = min((listed[index][2].path, problems[index]) for index in np.flatnonzero(problems))
        if not skip_broken:
            raise DataError(
                f"{printable(str(home / path))} cannot be read: {problem}. Mend it, delete it, or type "
                f"data.skip_broken=true to leave out the {count:,} of {len(listed):,} pictures of that kind"
            )
        show_note(f"{count:,} of {len(listed):,} pictures cannot be read and are left out")
    labels = np.array([label for _, label, _ in listed])
    belongs = np.array([part for part, *_ in listed])
    chosen = {part: np.flatnonzero((belongs == part) & (problems == "")) for part in parts}
    if "test" not in parts:
        train = chosen["train"]
        rest, test = stratified_split(labels[train], max(1, round(test_share * len(train))), split_seed)
        chosen |= {"train": train[rest], "test": train[test]}
    _check_training(home, names, labels, chosen["train"])
    splits = {part: Split(_take(images, own), labels[own]) for part, own in chosen.items()}
    return {**splits, "class_names": names, "settings": {"max_value": max_value}}


def _take(images: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """These images, without a copy where they follow one another."""
    start, stop = (int(indices[0]), int(indices[-1]) + 1) if len(indices) else (0, 0)
    return images[start:stop] if stop - start == len(indices) else images[indices]


def _find_parts(home: Path) -> dict[str, Path]:
    """The folders of training, validation and test images; none where classes lie side by side."""
    where = f"data.root={printable(str(home))}"
    parts: dict[str, Path] = {}
    others = []
    for path in sorted(home.iterdir()):
        if not path.is_dir() or path.name.startswith(JUNK):
            continue
        part = next((part for part, names in PARTS.items() if path.name.lower() in names), None)
        if part is None or path.is_symlink():
            others.append(printable(path.name))
        elif part in parts:
            both = f"{parts[part].name}/ and {path.name}/"
            raise ConfigError(f"{where}: {both} both hold {part} images. Put them into one folder, {part}/")
        else:
            parts[part] = path
    if parts and "train" not in parts:
        there_are = ", ".join(f"{path.name}/" for path in parts.values())
        raise ConfigError(f"{where} has {there_are} but no train/: put the training images there")
    if parts and others:
        show_note(f"{where}: besides {', '.join(parts)}, these folders are not read: {', '.join(others)}")
    return {part: parts[part] for part in PARTS if part in parts}


def _check_training(home: Path, names: list[str], labels: np.ndarray, train: np.ndarray) -> None:
    """Reject a class that keeps no training image."""
    for label, name in enumerate(names):
        if label not in labels[train]:
            raise ConfigError(
                f"data.root={printable(str(home))}: the class {name} has {(labels == label).sum():,} "
                "pictures and keeps none to train on. Add some or delete its folder"
            )


def _list_classes(folder: Path, home: Path, left_out: list[str]) -> dict[str, list[Picture]]:
    """The pictures of each class, which may lie in folders inside of its own, in the order of their paths."""
    suffixes, real_home = list_suffixes(), home.resolve()
    classes: dict[str, list[Picture]] = {}
    waiting = [(str(folder), "")]
    for place, name in waiting:  # it grows
        with os.scandir(place) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith(JUNK):
                    continue
                is_link = entry.is_symlink()
                if is_link and (entry.is_dir() or not Path(entry.path).resolve().is_relative_to(real_home)):
                    left_out.append(entry.path)
                elif entry.is_dir():
                    classes.setdefault(name or entry.name, [])
                    waiting.append((entry.path, name or entry.name))
                elif name and f".{entry.name.rpartition('.')[2].lower()}" in suffixes and entry.is_file():
                    status, path = entry.stat(), entry.path[len(str(home)) + 1 :]
                    classes[name].append(Picture(path, status.st_size, status.st_mtime_ns))
    return classes


def _check_classes(
    home: Path, found: dict[str, dict[str, list[Picture]]], names: list[str], left_out: list[str]
) -> None:
    """Refuse what would make no data set, or a record that cannot be read."""
    where = f"data.root={printable(str(home))}"
    links = f"; {len(left_out):,} links that lead out of it are not followed" if left_out else ""
    for part, name in ((part, name) for part, classes in found.items() for name in classes):
        if UNPRINTABLE.search(name) or "${" in name:
            raise ConfigError(f"{where}: the folder {printable(name)} cannot name a class: rename it")
        if part == "train" and names and name not in names:
            raise ConfigError(
                f"{where}: the folder {name} has no pictures: put some there or delete it{links}"
            )
        if found[part][name] and name not in names:
            near = suggest(name, names)
            raise ConfigError(f"{where}{links}: {part}/{name} is a class that train/ lacks{near}")
    if len(names) < 2:
        there_are = f"one class, {names[0]}" if names else "no folders with pictures"
        raise ConfigError(
            f"{where} has {there_are}: it needs two or more folders of pictures, one per class, "
            f"directly in it or in train/ and test/{links}"
        )


def _order_naturally(name: str) -> list[tuple[bool, int, str]]:
    """As text, but digits by the number that they are: "2" is before "10"."""
    parts = re.findall(r"\d+|\D+", name)
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]
