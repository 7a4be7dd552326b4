"""What can go wrong, in words for the person who typed the command."""

import difflib
import math
import os
import re
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path

UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # a terminal would obey some of these
LARGEST_INT = 10**18  # what libraries compute with fits into 64 bits


class CnnLabError(Exception):
    """A failure with one readable message: what was given, what is allowed, what to type instead."""

    exit_code = 1


class ConfigError(CnnLabError, ValueError):
    """A mistake in what was typed: a key, a value, a path."""

    exit_code = 2


class DataError(CnnLabError):
    """The data set is damaged or cannot be had."""


class RunPruned(Exception):  # noqa: N818
    """Ends a trial of a search early, since others do better: no failure, and no result either."""


class RunInterrupted(BaseException):
    """Ends a run because of a signal.

    Attributes:
        signal: its number.
    """

    def __init__(self, signal: int) -> None:
        super().__init__(f"signal {signal}")
        self.signal = signal


def suggest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'channels'?` for the known name nearest to `name`, else an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def printable(text: str) -> str:
    """The text without what a terminal would obey."""
    return "\n".join(UNPRINTABLE.sub("", line) for line in text.split("\n"))


def list_own_lines(error: BaseException) -> str:
    """A line for each call on the way to `error` that is in no library and not in this package."""
    libraries = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    others = (*libraries, str(Path(__file__).parent), "<")
    calls = traceback.extract_tb(error.__traceback__)
    return "".join(
        f"\n  {os.path.relpath(call.filename)}, line {call.lineno}, in {call.name}: {call.line}"
        for call in calls
        if not call.filename.startswith(others)
    )


def check_range(key: str, value: object, interval: str) -> None:
    """Refuse a number, or a list with a number, that lies outside `interval`, such as "[0, 1)".

    Raises:
        ConfigError: naming `key`, the value and the interval in words.
    """
    if isinstance(value, list | tuple):
        for item in value:
            check_range(key, item, interval)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if isinstance(value, int) and abs(value) > LARGEST_INT:
        raise ConfigError(f"{key}={value:.100g} is out of range: it must have at most 18 digits")
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    if above and below:
        return
    words = f"at least {low:g}" if interval[0] == "[" else f"above {low:g}"
    if (low, high) == (-math.inf, math.inf):
        words = "a finite number"
    elif high != math.inf:
        words += f" and {'at most' if interval[-1] == ']' else 'below'} {high:.10g}"
    raise ConfigError(f"{key}={value} is out of range: it must be {words}")
