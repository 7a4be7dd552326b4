"""Which images belong to a part."""

import numpy as np


def stratified_split(labels: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of all but `size` items, and of `size` items in which every class has its share (to one item).

    A class gives its last item away only where no other class has one to give.

    The same for the same labels, size and seed, on every machine.
    """
    generator = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    shares = counts * size / len(labels)
    quotas = np.floor(shares).astype(int)
    while quotas.sum() < size:
        scarcity = np.maximum(0, 2 - (counts - quotas))
        quotas[np.argmax(shares - quotas - len(labels) * scarcity)] += 1
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
