"""What a sweep's verdict may claim: how often it errs, how often it finds a true lead, and its edges."""

import math

import numpy as np
import pytest

from cnn_lab.sweeps.verdict import compare_with_best, judge


def simulate(true_means: list[float], runs: int, sweeps: int, seed: int) -> tuple[float, float]:
    """The shares of sweeps in which a setting that is as good as the best is called worse, and in which the
    true best is named: all others are called worse.
    """
    true = np.array(true_means)
    values = np.random.default_rng(seed).standard_normal((sweeps, len(true), runs)) + true[:, None]
    means = values.mean(-1)
    worse_by, halves = compare_with_best(means, values.var(-1, ddof=1), np.full(len(true), runs))
    called = worse_by > halves
    best = means.argmax(-1)
    wrong = (called & (true >= true[best][:, None])).any(-1)
    named = (called.sum(-1) == len(true) - 1) & (best == true.argmax())
    return float(wrong.mean()), float(named.mean())


def test_a_wrong_setting_is_called_worse_in_at_most_5_percent_of_sweeps() -> None:
    """Nothing differs, or only those differ that are far worse."""
    shares = {
        (settings, runs): simulate([0.0] * settings, runs, 10_000, seed=settings * runs)[0]
        for settings in (2, 3, 4, 6, 10)
        for runs in (3, 5, 10)
    }
    assert max(shares.values()) <= 0.05, shares
    assert max(simulate([9.0, 9.0, 0.0, 0.0], runs, 20_000, seed=runs)[0] for runs in (3, 5)) <= 0.05


def test_a_true_lead_is_named_the_more_often_the_more_seeds_there_are() -> None:
    """Of two standard deviations over three others."""
    shares = [simulate([2.0, 0.0, 0.0, 0.0], runs, 5_000, seed=runs)[1] for runs in (3, 5, 10)]
    assert all(share >= bar for share, bar in zip(shares, (0.10, 0.35, 0.85), strict=True)), shares
    assert shares == sorted(shares)


def test_an_interval_of_two_settings_is_welchs() -> None:
    """By hand: means 4 and 1, variances 1 and 1, 4 degrees of freedom, whose t is 2.776."""
    best, other = judge([[3.0, 4.0, 5.0], [0.0, 1.0, 2.0]])
    half = 2.7764 * math.sqrt(2 / 3)
    assert (best.word, best.worse_by, best.needed) == ("best", 0.0, 0)
    assert (other.word, other.needed) == ("worse", 0)
    assert (other.worse_by, other.low, other.high) == pytest.approx((3.0, 3.0 - half, 3.0 + half), abs=1e-3)


def test_what_is_not_settled_says_how_many_runs_would_settle_it() -> None:
    """16 (s / d)^2 with s = 1: for d = 1 it takes 16 runs, for d = 2 the fewest, for d = 0.1 too many."""
    _, other = judge([[3.0, 4.0, 5.0], [2.0, 3.0, 4.0]])
    assert (other.word, other.needed) == ("undecided", 16)
    _, other = judge([[3.0, 4.0, 5.0], [1.0, 2.0, 3.0]])
    assert (other.word, other.needed) == ("undecided", 4)
    _, other = judge([[3.0, 4.0, 5.0], [2.9, 3.9, 4.9]])
    assert (other.word, other.needed) == ("no difference visible", 0)


def test_words_agree_with_intervals_whatever_the_numbers_of_runs() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        samples = [
            generator.normal(mean, 1, size) for mean, size in zip((0, 1, 2, 4), (1, 2, 3, 7), strict=True)
        ]
        single, *verdicts = judge(samples)
        assert single is None
        assert [verdict.word for verdict in verdicts].count("best") == 1
        for verdict in verdicts:
            assert (verdict.word == "worse") == (verdict.low > 0)


def test_runs_that_all_agree_or_stand_alone_claim_nothing() -> None:
    """Accuracies on few images coincide by rounding, which says nothing about the next seed."""
    best, other, same = judge([[0.98, 0.98], [0.97, 0.97], [0.98, 0.98]])
    assert (best.word, other.word, same.word) == ("best", "undecided", "no difference visible")
    assert (other.low, other.high) == (-math.inf, math.inf)
    assert judge([[0.9], [0.8]]) == judge([[0.9, 0.91], [0.8]]) == [None, None]
    assert judge([]) == []
