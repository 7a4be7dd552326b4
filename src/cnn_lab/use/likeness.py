"""Whether strokes are like a data set's: a letter is no digit, however sure a network is of it."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy import ndimage

CELLS, DIRECTIONS = 7, 12  # of a histogram: cells a side, directions of edges in each
REFERENCES, HELD_OUT = 50_000, 2_000  # images to compare with, and to choose the threshold by
COST = 0.01  # share of a data set's own images that are said to be unlike it
CHUNK = 250  # images at a time, which bounds the memory


class Likeness:
    """Tells images that are like a data set's own from others, by their nearest neighbour among these.

    Images are compared by the cosine of their histograms of edges. Those are unlike which have a neighbour
    farther away than all but `COST` of images of the data set that are held out have.

    Args:
        images: (n, height, width), uint8, of the data set in any random order.
    """

    def __init__(self, images: np.ndarray) -> None:
        held_out = min(HELD_OUT, len(images) // 10)
        with ThreadPoolExecutor() as pool:
            chunks = np.split(images, range(CHUNK, len(images), CHUNK))
            vectors = np.concatenate(list(pool.map(describe_edges, chunks)))
        self._references = vectors[held_out:].T
        self._least = float(np.quantile(self._measure(vectors[:held_out]), COST)) if held_out else 0.0

    def is_like(self, images: np.ndarray) -> np.ndarray:
        """Which of the images (n, height, width), uint8, are like the data set's: (n,), bool."""
        return self._measure(describe_edges(images)) >= self._least

    def _measure(self, vectors: np.ndarray) -> np.ndarray:
        chunks = np.split(vectors, range(CHUNK, len(vectors), CHUNK))
        return np.concatenate([(chunk @ self._references).max(axis=1) for chunk in chunks])


def describe_edges(images: np.ndarray) -> np.ndarray:
    """Histograms of gradients, as N. Dalal and B. Triggs (CVPR 2005) describe people.

    The edge at each pixel counts, by its strength, for the two nearest of 12 directions in each of the four
    nearest of 7 x 7 cells.

    Returns:
        Vectors (n, 588) of length 1, float32, of images (n, height, width).
    """
    count, height, width = images.shape
    smooth = ndimage.uniform_filter(images.astype(np.float32), (0, 3, 3))
    right, down = (np.roll(smooth, -1, axis) - np.roll(smooth, 1, axis) for axis in (2, 1))
    image, row, column = np.nonzero(np.abs(right) + np.abs(down) > 1)
    right, down = right[image, row, column], down[image, row, column]
    direction = np.arctan2(down, right) * np.float32(DIRECTIONS / 2 / np.pi)
    low = np.floor(direction).astype(int)
    share, strength = direction - low, np.hypot(right, down)
    edges = np.zeros((count, DIRECTIONS, height, width), np.float32)
    edges[image, low % DIRECTIONS, row, column] = strength * (1 - share)
    edges[image, (low + 1) % DIRECTIONS, row, column] = strength * share
    cells = np.tensordot(np.tensordot(edges, _weigh_cells(width), (3, 0)), _weigh_cells(height), (2, 0))
    roots = np.sqrt(cells.reshape(count, -1))  # else the strongest edges say all
    return roots / np.maximum(np.linalg.norm(roots, axis=1, keepdims=True), 1e-9)


def _weigh_cells(pixels: int) -> np.ndarray:
    """How much each of a row's pixels counts for each cell: (pixels, cells), float32."""
    places = ((np.arange(pixels) + 0.5) / pixels * CELLS - 0.5).clip(0, CELLS - 1)
    return (1 - np.abs(places[:, None] - np.arange(CELLS))).clip(0).astype(np.float32)
