"""A data set as its source returns it, compared with what is stated of it.

Nothing here imports torch.
"""

import functools
import inspect
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from hydra.utils import get_object, instantiate

from cnn_lab.errors import CnnLabError, DataError, check_names, list_own_lines

FACTS = ("input_shape", "class_names", "mean", "std")
SHARED = ("split_seed",)  # settings of the data module that its source takes, too
SMALLEST_STD = 1e-4  # so that images of one colour can be divided by it
CHUNK = 1_000  # images at a time, which bounds the memory
MOST_CHANNELS = 4  # of images of which nobody says on which axis they lie


class Split(NamedTuple):
    """Images (n, channels, height, width), uint8, and labels (n,), int64, counted from 0."""

    images: np.ndarray
    labels: np.ndarray


def hand_to_source(data: Mapping[str, Any], module: Collection[str]) -> dict[str, Any]:
    """A data group whose source is given the settings that it takes and the data module does not.

    `module` lists those that the data module takes.

    `SHARED` go to both. What `data.source` sets itself stays.
    """
    if not isinstance(data.get("source"), Mapping) or "_target_" not in data["source"]:
        return dict(data)
    source = list_parameters(data["source"]["_target_"])
    handed = source - {*module} | source & {*SHARED}
    rest = {name: value for name, value in data.items() if name in module or name not in handed}
    return {**rest, "source": {**{name: data[name] for name in handed & {*data}}, **data["source"]}}


def list_parameters(target: str) -> set[str]:
    """The names of what a class or function takes; none where they cannot be told."""
    try:
        return set(inspect.signature(get_object(target)).parameters)
    except Exception:  # of something compiled, or what is wrong with it is told when it is called
        return set()


def read_source(source: Callable[..., Any], root: str | None, name: str) -> dict[str, Any]:
    """What a source returns: a `Split` for "train", "test" and perhaps "val".

    Perhaps also "class_names", and "settings" of its own that it found in the images, by name.

    Other pairs of images and labels are made one: bytes (n, height, width), or with channels on the second or
    the last axis, and whole numbers (n,) or (n, 1).

    Raises:
        ConfigError: as `check_names`.
        DataError: for what is neither, and for a source that fails, with its own lines.
    """
    try:
        found = source() if root is None else source(root=root)
    except CnnLabError:
        raise
    except Exception as error:  # of somebody's own function
        while error.__cause__:  # in what Hydra makes of it
            error = error.__cause__
        problem = f"{type(error).__name__}: {error}{list_own_lines(error)}"
        raise DataError(f"the source of {name} fails: {problem}") from error
    if not isinstance(found, Mapping):
        raise DataError(f"the source of {name} returns {type(found).__name__}, not train and test images")
    read = dict(found)
    for part in ("train", "val", "test"):
        if part in read:
            read[part] = _make_split(name, part, read[part])
    if "class_names" in read:
        read["class_names"] = [str(label) for label in read["class_names"]]
        check_names(f"the source of {name}", read["class_names"])
    return read


def _make_split(name: str, part: str, pair: Any) -> Split:
    try:
        images, labels = (np.asarray(values) for values in pair)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name}: {part} must be a pair of arrays, images and labels ({error})") from error
    if isinstance(pair, Split):
        return Split(images, labels)
    if images.dtype != np.uint8:
        raise DataError(
            f"{name}: {part} images are {images.dtype}; give bytes from 0 to 255{_advise_bytes(images)}"
        )
    if advice := _advise_labels(labels, len(images)):
        shape = " x ".join(map(str, labels.shape))
        raise DataError(f"{name}: {part} labels are {labels.dtype}, {shape}; give {advice}")
    return Split(_put_channels_first(name, part, images), labels.ravel().astype(np.int64))


def _advise_bytes(images: np.ndarray) -> str:
    """How to make bytes of other numbers, as their values say."""
    if images.dtype.kind not in "iufb" or not images.size:
        return ""
    low, high = float(images.min()), float(images.max())
    most = next((most for most in (255, 1_023, 4_095, 16_383, 65_535) if high <= most), None)
    if low < 0 or most is None:
        made = f"((images - {low:g}) / {high - low:g} * 255).round()"
    elif high <= 1 and images.dtype.kind in "fb":
        made = "(images * 255.0).round()"
    elif most == 255:
        made = "images.round()"
    else:
        made = f"(images // {(most + 1) // 256})"
    return f': {made}.astype("uint8"), since these go from {low:g} to {high:g}'


def _advise_labels(labels: np.ndarray, count: int) -> str:
    """What to give instead of labels that are not one whole number an image; empty where they are."""
    is_column = labels.ndim == 2 and labels.shape[1] == 1
    if labels.ndim == 2 and not is_column and len(labels) == count:
        return "one number per image: labels.argmax(axis=1)"
    if labels.ndim != 1 and not is_column:
        return "one number per image: labels.ravel()" if labels.size == count else "one number per image"
    if labels.dtype.kind in "iu":
        return ""
    if labels.dtype.kind in "bf" and (labels % 1 == 0).all():
        return 'whole numbers from 0: labels.astype("int64")'
    return "whole numbers from 0: class_names, labels = numpy.unique(labels, return_inverse=True)"


def _put_channels_first(name: str, part: str, images: np.ndarray) -> np.ndarray:
    if images.ndim == 3:
        return np.ascontiguousarray(images[:, None])
    axes = [axis for axis in (1, 3) if images.ndim == 4 and images.shape[axis] <= MOST_CHANNELS]
    if len(axes) == 1:
        return np.ascontiguousarray(np.moveaxis(images, axes[0], 1))
    shape = " x ".join(map(str, images.shape))
    raise DataError(
        f"{name}: {part} images are {shape}; give n x height x width, or n x height x width x channels with "
        f"at most {MOST_CHANNELS} channels and larger sides"
    )


def find_facts(data: Mapping[str, Any], module: Collection[str]) -> dict[str, Any]:
    """What a data group states of its images, with what it leaves null: found from them, once a process.

    With it come the settings that the source found. Mean and std are those of each channel of the training
    images, to four decimals. `module` is that of `hand_to_source`.

    Raises:
        DataError: for images that are not what is stated, or none.
    """
    asked = {name: data.get(name) for name in ("name", "root", *FACTS)}
    source = hand_to_source(data, module)["source"]
    return json.loads(_find_facts(json.dumps({**asked, "source": source})))


@functools.lru_cache(maxsize=8)
def _find_facts(asked: str) -> str:
    stated = json.loads(asked)
    name = stated["name"]
    splits = read_source(
        lambda **root: instantiate(stated["source"], _convert_="all")(**root), stated["root"], name
    )
    if "train" not in splits or not len(splits["train"].labels):
        raise DataError(f"{name} has no training images")
    images, labels = splits["train"]
    counts = np.zeros((images.shape[1], 256))  # of each channel's bytes
    for chunk in _cut(images):
        counts += [np.bincount(values.ravel(), minlength=256) for values in chunk.swapaxes(0, 1)]
    shares = counts / counts.sum(axis=1, keepdims=True)
    levels = np.arange(256) / 255
    means = shares @ levels
    stds = np.sqrt((shares * (levels - means[:, None]) ** 2).sum(axis=1))
    found = {
        "input_shape": list(images.shape[1:]),
        "class_names": splits.get("class_names", [str(number) for number in range(len(np.unique(labels)))]),
        "mean": [round(value, 4) for value in means.tolist()],
        "std": [max(round(value, 4), SMALLEST_STD) for value in stds.tolist()],
    }
    facts = {fact: value if stated[fact] is None else stated[fact] for fact, value in found.items()}
    check_splits(name, splits, facts["input_shape"], facts["class_names"])
    settings = {key: value for key, value in splits.get("settings", {}).items() if value is not None}
    return json.dumps({**facts, **settings})


def check_splits(
    name: str, splits: Mapping[str, Any], input_shape: Sequence[int], class_names: Sequence[str]
) -> None:
    """Compare what the source of data set `name` returned with what is stated of it.

    Raises:
        DataError: with every difference.
    """
    found = {part: splits[part] for part in ("train", "val", "test") if part in splits}
    expected = dict.fromkeys(("train", "test", *found))
    differences = [f"there are no {part} images" for part in expected if not len(found.get(part, [[]])[0])]
    names = list(splits.get("class_names", class_names))
    if names != list(class_names):
        differences.append(f"its classes are {', '.join(names)} instead of {', '.join(class_names)}")
    for part, (images, labels) in found.items():
        differences += _compare_images(part, images, input_shape)
        differences += _compare_labels(part, labels, len(class_names))
        if len(images) != len(labels):
            differences.append(f"there are {len(images):,} {part} images and {len(labels):,} labels")
    if differences:
        raise DataError(f"{name} is not as its settings state: {'; '.join(differences)}")


def _cut(images: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(images), CHUNK):
        yield images[start : start + CHUNK]


def _compare_images(part: str, images: np.ndarray, input_shape: Sequence[int]) -> Iterator[str]:
    if images.dtype != np.uint8:
        yield f"{part} images are {images.dtype} instead of uint8"
    found, stated = (" x ".join(map(str, shape)) for shape in (images.shape[1:], input_shape))
    if found != stated:
        yield f"{part} images are {found} instead of {stated}"
    if images.size and all((chunk == images.flat[0]).all() for chunk in _cut(images)):
        yield f"all pixels of all {part} images are {images.flat[0]}"


def _compare_labels(part: str, labels: np.ndarray, num_classes: int) -> Iterator[str]:
    if labels.dtype != np.int64:
        yield f"{part} labels are {labels.dtype} instead of int64"
    values = np.unique(labels)
    if not len(values):
        return
    low, high = values[0], values[-1]
    if low < 0 or high >= num_classes or (part == "train" and len(values) < num_classes):
        stated = f"{num_classes} from 0 to {num_classes - 1}"
        is_from_1 = low == 1 and high == num_classes
        advice = " (give labels - 1)" if is_from_1 else ""
        yield f"{part} labels are {len(values)} numbers from {low} to {high} instead of {stated}{advice}"
