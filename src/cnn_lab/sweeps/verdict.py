"""Which settings of a sweep are worse than the best, by how much, and how surely: numbers only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit  # of Student's t; scipy.stats takes a second to import

LEVEL = 0.05
RUNS_WITHIN_REACH = 30  # per setting; nobody would start more to settle a question
FEWEST_TO_SETTLE = 4


@dataclass(frozen=True)
class Verdict:
    """How a setting compares with the best, in the unit of what was measured.

    Attributes:
        word: "best"; "worse" exactly if the interval leaves out 0; "undecided" if it contains 0 and at most
            `RUNS_WITHIN_REACH` runs per setting should settle it; else "no difference visible".
        worse_by: difference of the means, at least 0.
        low, high: its 95 % interval (see `compare_with_best`); infinite where no run differs from another.
        needed: about how many runs per setting should settle what is undecided; else 0.
    """

    word: str
    worse_by: float
    low: float
    high: float
    needed: int = 0


def judge(samples: Sequence[Sequence[float]]) -> list[Verdict | None]:
    """Compare each setting's values, one a run, with those of the setting with the highest mean.

    Settings with a single value have no spread and are left out: None. So are all if fewer than two are left.
    """
    several = [index for index, values in enumerate(samples) if len(values) > 1]
    verdicts: list[Verdict | None] = [None] * len(samples)
    if len(several) < 2:
        return verdicts
    measured = [np.asarray(samples[index], dtype=float) for index in several]
    means, variances, counts = (
        np.array(values)
        for values in zip(*((v.mean(), v.var(ddof=1), len(v)) for v in measured), strict=True)
    )
    behind, halves = compare_with_best(means, variances, counts)
    best = int(means.argmax())
    for place, index in enumerate(several):
        low, high = (float(behind[place] + sign * halves[place]) for sign in (-1, 1))
        pooled, most = (variances[best] + variances[place]) / 2, int(max(counts[best], counts[place]))
        needed = count_needed(float(behind[place]), float(pooled), most)
        if place == best:
            word, needed = "best", 0
        elif low > 0:
            word, needed = "worse", 0
        else:
            word = "undecided" if needed else "no difference visible"
        verdicts[index] = Verdict(word, float(behind[place]), low, high, needed)
    return verdicts


def compare_with_best(
    means: np.ndarray, variances: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How much worse each of k settings is than the one with the highest mean, and half its interval's width.

    Two settings are compared by Welch's t: spread grows with the error, so that it cannot be pooled. The best
    was chosen for its mean, so that with k alike it is compared as if all k (k - 1) / 2 pairs had been.
    Hochberg's step-up (Biometrika 75, 1988) goes on from there: if even the one that is hardest to tell apart
    has p <= 0.05, all are worse; else it is left out, and with r that remain, the best among them, the next
    one needs p <= 0.05 / (r (r - 1) / 2), and so on. The level at which a setting is judged is that of its
    interval, which therefore leaves out 0 exactly if the setting is judged to be worse.

    Words are right together: where settings are alike, in at most 5 % of sweeps is any of them called worse.
    Intervals are right each on its own, in about 95 % of sweeps or more. Simulated with normal values of
    equal spread, in % of sweeps (wrong: of 10 settings alike, with 10 runs each, one is called worse; named:
    of 4 settings with 3 runs each, one leads by 2 standard deviations, and all others are called worse):

        rule                                  wrong   named
        Holm, over the k - 1 others            12.4     8.8
        Games and Howell (studentized range)    5.4     2.0
        Holm, over the pairs of those left      2.9     5.4
        this one                                3.0    13.1

    Args:
        means, variances, counts: of the values of each setting (..., k), k >= 2, each count at least 2.

    Returns:
        Differences and half widths (..., k), which are 0 for the best. Where two settings have no spread at
        all, their means say nothing about other runs, and the half width is infinite.
    """
    count = means.shape[-1]
    best = means.argmax(-1)[..., None]
    behind = np.take_along_axis(means, best, -1) - means
    errors, freedom = variances / counts, np.broadcast_to(counts - 1, means.shape)
    of_best = np.take_along_axis(errors, best, -1)
    squared = errors + of_best
    with np.errstate(divide="ignore", invalid="ignore"):
        degrees = squared**2 / (errors**2 / freedom + of_best**2 / np.take_along_axis(freedom, best, -1))
        chances = np.where(squared > 0, 2 * stdtr(degrees, -behind / np.sqrt(squared)), 1.0)
    np.put_along_axis(chances, best, np.inf, -1)  # so that it is the last in order
    order = chances.argsort(-1)
    left = np.arange(count, 0, -1)
    levels = LEVEL / np.maximum(left * (left - 1) / 2, 1)
    passed = np.take_along_axis(chances, order, -1) <= levels
    last = np.where(passed.any(-1), count - 1 - passed[..., ::-1].argmax(-1), -1)[..., None]
    judged = np.empty_like(behind)
    np.put_along_axis(judged, order, levels[np.maximum(np.arange(count), last)], -1)
    with np.errstate(invalid="ignore"):
        halves = -stdtrit(degrees, judged / 2) * np.sqrt(squared)
    halves = np.where(squared > 0, halves, np.inf)
    np.put_along_axis(halves, best, 0.0, -1)
    return behind, halves


def count_needed(difference: float, variance: float, count: int) -> int:
    """About how many runs per setting Welch's test needs to see a difference in 4 of 5 sweeps.

    That is 16 (s / d)^2 for a difference d and a standard deviation s, and more than the `count` there are; 0
    if it is beyond `RUNS_WITHIN_REACH`.
    """
    ratio = variance / difference**2 if difference > 0 else math.inf
    if 16 * ratio > RUNS_WITHIN_REACH or count >= RUNS_WITHIN_REACH:
        return 0
    return max(FEWEST_TO_SETTLE, count + 1, math.ceil(16 * ratio))
