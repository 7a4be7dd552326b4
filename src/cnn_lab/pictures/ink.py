"""Where a picture has ink: what differs from the paper around it, without shadows and ruled lines.

A shadow's edge has paper on both of its sides, and a ruled line goes on from side to side: a digit does not.
"""

import numpy as np
from scipy import ndimage

NEIGHBOURHOOD = 0.3  # of the picture's longer side: wider than any stroke, narrower than a shadow
DARKEST_PAPER = 0.25  # of black to white; contrast on darker paper is not enlarged any more
LEAST_CONTRAST = 0.1  # of ink, of black to white
NOISE = 5  # standard deviations that are no ink
LINE_PART, LINE_LENGTH = 0.12, 0.6  # of the picture's side: what is straight of a ruled line, and its length
THICKEST_LINE = 0.03  # of the picture's side


def find_ink(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How dark each pixel is beside its paper, and which pixels are ink; light ink is taken for dark.

    Args:
        gray: (height, width), 0 (black) to 1 (white).

    Returns:
        Both (height, width): about 0 to 1, and whether there is ink.
    """
    size = max(gray.shape)
    smooth = ndimage.gaussian_filter(gray, min(1.0, size / 400))
    if _is_light_on_dark(smooth):
        smooth = 1 - smooth
    paper = ndimage.grey_closing(smooth, round(NEIGHBOURHOOD * size) | 1, mode="nearest")
    darkness = 1 - smooth / np.maximum(paper, DARKEST_PAPER)
    darkness -= np.median(darkness)
    spread = 1.48 * float(np.median(np.abs(darkness)))
    least = max(LEAST_CONTRAST, NOISE * spread)
    for turned in (darkness.T, darkness):  # upright lines first: they are what parts level ones
        mask = turned > least / 2
        lines = _find_level_lines(mask)
        if lines.any():  # ink along a line stays where it is darker than the line
            turned[lines & (turned < 1.25 * np.percentile(turned[lines & mask], 90))] = 0
    strong = darkness[darkness > least]
    if not strong.size:
        return darkness, np.zeros(gray.shape, dtype=bool)
    return darkness, darkness > max(least, _find_threshold(strong) * 0.8)


def _is_light_on_dark(gray: np.ndarray) -> bool:
    """Whether strokes are lighter than what is around them. An edge counts on both of its sides."""
    difference = gray - ndimage.uniform_filter(gray, round(NEIGHBOURHOOD * max(gray.shape)), mode="nearest")
    return bool((difference * difference * difference).sum() > 0)


def _find_level_lines(mask: np.ndarray) -> np.ndarray:
    """Where thin lines go from side to side, a little inclined perhaps, but for what crosses them."""
    height, width = mask.shape
    part = round(LINE_PART * width) | 1
    thick = ndimage.maximum_filter1d(mask.astype(np.float32), 3, axis=0)
    straight = ndimage.uniform_filter1d(thick, part, axis=1) > 0.9
    labels, _ = ndimage.label(ndimage.maximum_filter1d(straight, part, axis=1), np.ones((3, 3)))
    columns = [box[1] for box in ndimage.find_objects(labels)]
    lengths = np.array([0, *(side.stop - side.start for side in columns)])
    is_line = lengths > LINE_LENGTH * width
    if is_line.any():  # then what leaves the picture early is one too
        is_line |= np.array([False, *(side.start == 0 or side.stop == width for side in columns)])
    lines = is_line[labels]
    found = mask & lines
    runs = (np.diff(found.view(np.int8), axis=0, prepend=0) > 0).sum(axis=0)
    if not runs.any():
        return found
    thickness = np.percentile(found.sum(axis=0)[runs > 0] / runs[runs > 0], 25)  # beside a large digit
    if thickness > THICKEST_LINE * height:
        return np.zeros_like(mask)
    crossing = ndimage.grey_opening(mask.view(np.uint8), (int(1.6 * thickness) + 2, 1)) > 0
    return ndimage.maximum_filter1d(lines, 5, axis=0) & ~crossing


def _find_threshold(values: np.ndarray) -> float:
    """The value that splits others best into a low and a high group (Otsu, 1979)."""
    counts, edges = np.histogram(values, bins=128)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    means = sums / np.maximum(below, 1), (sums[-1] - sums) / np.maximum(above, 1)
    between = below * above * (means[0] - means[1]) ** 2.0
    return float(edges[1:][between.argmax()])
