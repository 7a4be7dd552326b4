"""A data set as its source returns it: compared with what is stated of it, divided, and cut into batches."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import SequentialSampler

from cnn_lab.errors import DataError


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
