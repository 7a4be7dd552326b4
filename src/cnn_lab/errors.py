"""What can go wrong, in words for the person who typed the command."""

import difflib
import re
from collections.abc import Iterable

UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # a terminal would obey some of these


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
