"""A data set as its source returns it: compared with what is stated of it, divided, and cut into batches."""

import functools
import inspect
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from hydra.utils import get_object, instantiate
from torch import Tensor
from torch.utils.data import SequentialSampler

from cnn_lab.errors import CnnLabError, DataError, list_own_lines

FACTS = ("input_shape", "class_names", "mean", "std")
SMALLEST_STD = 1e-4  # so that images of one colour can be divided by it
CHUNK = 1_000  # images at a time, which bounds the memory
MOST_CHANNELS = 4  # of images of which nobody says on which axis they lie


class Split(NamedTuple):
    """Images (n, channels, height, width), uint8, and labels (n,), int64, counted from 0."""

    images: Tensor
    labels: Tensor


def hand_to_source(data: Mapping[str, Any]) -> dict[str, Any]:
    """A data group whose source is given those settings of the group that it takes, but for `root`."""
    if not isinstance(data.get("source"), Mapping) or "_target_" not in data["source"]:
        return dict(data)
    module, source = _list_parameters(data["_target_"]), _list_parameters(data["source"]["_target_"])
    shared = {name: value for name, value in data.items() if name in source and name != "root"}
    rest = {name: value for name, value in data.items() if name in module or name not in shared}
    return {**rest, "source": {**data["source"], **shared}}


def _list_parameters(target: str) -> set[str]:
    try:
        return set(inspect.signature(get_object(target)).parameters)
    except Exception:  # of something compiled, or what is wrong with it is told when it is called
        return set()


def read_source(source: Callable[..., Any], root: str | None, name: str) -> dict[str, Any]:
    """What a source returns: a `Split` for "train", "test" and perhaps "val", and perhaps "class_names".

    Other pairs of images and labels are made one: bytes (n, height, width), or with channels on the second or
    the last axis, and whole numbers (n,) or (n, 1).

    Raises:
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
        raise DataError(f"the source of {name} returns a {type(found).__name__}, not train and test images")
    return {
        part: value if isinstance(value, Split) or part == "class_names" else _make_split(name, part, value)
        for part, value in found.items()
    }


def _make_split(name: str, part: str, pair: Any) -> Split:
    try:
        images, labels = (torch.as_tensor(values) for values in pair)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name}: {part} is no pair of arrays, images and labels ({error})") from error
    if images.dtype != torch.uint8:
        raise DataError(
            f"{name}: {part} images are {_name(images)}; give bytes from 0 to 255, as (images * 255)"
            '.round().astype("uint8") makes of numbers from 0 to 1'
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(f"{name}: {part} labels are {_name(labels)}; give whole numbers from 0")
    if labels.ndim != 1 and tuple(labels.shape[1:]) != (1,):
        shape = " x ".join(map(str, labels.shape))
        raise DataError(f"{name}: {part} labels are {shape}; give one number an image: labels.argmax(axis=1)")
    return Split(_put_channels_first(name, part, images), labels.flatten().long())


def _name(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")


def _put_channels_first(name: str, part: str, images: Tensor) -> Tensor:
    if images.ndim == 3:
        return images.unsqueeze(1)
    axes = [axis for axis in (1, 3) if images.ndim == 4 and images.shape[axis] <= MOST_CHANNELS]
    if len(axes) == 1:
        return images.movedim(axes[0], 1).contiguous()
    shape = " x ".join(map(str, images.shape))
    raise DataError(
        f"{name}: {part} images are {shape}; give n x height x width, or n x height x width x channels with "
        f"at most {MOST_CHANNELS} channels and larger sides"
    )


def find_facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """What a data group states of its images, with what it leaves null: found from them, once a process.

    Mean and std are those of each channel of the training images, to four decimals.

    Raises:
        DataError: for images that are not what is stated, or none.
    """
    asked = {name: data.get(name) for name in ("name", "root", *FACTS)}
    source = hand_to_source(data)["source"]
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
    for chunk in images.split(CHUNK):
        counts += [np.bincount(values.numpy().ravel(), minlength=256) for values in chunk.unbind(1)]
    shares = counts / counts.sum(axis=1, keepdims=True)
    levels = np.arange(256) / 255
    means = shares @ levels
    stds = np.sqrt((shares * (levels - means[:, None]) ** 2).sum(axis=1))
    found = {
        "input_shape": list(images.shape[1:]),
        "class_names": splits.get("class_names", [str(number) for number in range(len(labels.unique()))]),
        "mean": [round(value, 4) for value in means.tolist()],
        "std": [max(round(value, 4), SMALLEST_STD) for value in stds.tolist()],
    }
    facts = {fact: value if stated[fact] is None else stated[fact] for fact, value in found.items()}
    check_splits(name, splits, facts["input_shape"], facts["class_names"])
    return json.dumps(facts)


def check_splits(
    name: str, splits: Mapping[str, Any], input_shape: Sequence[int], class_names: Sequence[str]
) -> None:
    """Compare what the source of data set `name` returned with what is stated of it.

    Raises:
        DataError: with every difference.
    """
    found = {part: splits[part] for part in ("train", "val", "test") if part in splits}
    differences = [
        f"there are no {part} images" for part in ("train", "test") if not len(found.get(part, [[]])[0])
    ]
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


def _compare_images(part: str, images: Tensor, input_shape: Sequence[int]) -> Iterator[str]:
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


def stratified_choice(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Indices, ascending, of `size` items in which every class has its share (to one item).

    The same on every machine; a smaller choice of the same labels and seed is contained in a larger one.
    """
    generator = np.random.default_rng(seed)
    turns = np.empty(len(labels))
    for value in np.unique(labels):
        members = np.flatnonzero(labels == value)
        turns[generator.permutation(members)] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(np.argsort(turns, kind="stable")[:size])


def stratified_folds(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each item, 0 to `folds - 1`: of each class, and of all, each has its share (to one item).

    The same for the same labels, number and seed, on every machine.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    numbers = np.empty(len(labels), dtype=int)
    numbers[by_class] = np.arange(len(labels)) % folds  # dealt out in turn
    return numbers


class BatchIndices(SequentialSampler):
    """The indices of one batch after another, int64, each of shape (at most `batch_size`,).

    A SequentialSampler since Lightning, with `trainer.overfit_batches`, puts one in the place of any other.

    With `shuffle` the order depends on `seed` and the epoch, and on nothing that ran before. Of several
    processes (`world_size`) each takes its share; when shuffled, the last image may be seen twice to make the
    shares equal, which keeps the processes in step.
    """

    def __init__(
        self,
        indices: Tensor,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.indices = indices
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self._skipped = (0, 0)

    def skip(self, epochs: int, batches: int) -> None:
        """Go on after so many epochs, and batches of the next one."""
        self.epoch = epochs
        self._skipped = (epochs, batches)

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self._share() / self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        indices = self.indices
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(len(indices))
            indices = indices[torch.from_numpy(order)]
        share = indices[self.rank :: self.world_size]
        if len(share) < self._share():
            share = torch.cat([share, indices[:1]])
        epoch, batches = self._skipped
        return iter(share.split(self.batch_size)[batches if epoch == self.epoch else 0 :])

    def _share(self) -> int:
        size = len(self.indices)
        if self.shuffle:
            return math.ceil(size / self.world_size)
        return len(range(self.rank, size, self.world_size))
