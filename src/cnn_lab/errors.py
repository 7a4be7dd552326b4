"""What can go wrong, in words for the person who typed the command."""

import difflib
import math
import os
import re
import sysconfig
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # a terminal would obey some of these
LARGEST_INT = 10**18  # what libraries compute with fits into 64 bits
LISTED = 12  # names in a message, more than which nobody reads
ALIKE, SLIP = 0.65, 0.83  # from which on two names look alike, and differ by a letter or so
AT_ITS_PLACE = 0.3  # how much more likely a name is in the group that was typed
# Words that the field uses for the same thing, without capitals and separators.
SAME_MEANING = [
    set(line.split())
    for line in """
        lr learningrate lrate
        maxepochs epochs epoch
        maxsteps steps iterations
        batchsize bs minibatch
        devices gpus
        accelerator device gpu cuda
        precision fp16 bf16 amp
        accumulategradbatches gradaccum gradientaccumulationsteps
        gradientclipval gradclip clipgradnorm maxgradnorm
        limittestbatches testsize
        momentum betas
        weightdecay wd l2
        channels filters width layers
        hidden units hiddensize fc
        activation nonlinearity act
        norm batch bn normalization
        average avg mean
        silu swish
        valsize valsplit validationsize validationsplit
        root path dir folder datadir
        resume checkpoint ckpt load
        outputdir output outdir savedir logdir
        label name runname experimentname
        model net network arch architecture
        optimizer opt optim
        loss criterion
        logger wandb tensorboard mlflow
        accuracy acc
    """.strip().splitlines()
]


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
    """What ends a message on a name that is not `known`: the nearest one, or else a list of them."""
    return find_nearest(name, known := list(known)) or list_known(known)


def find_nearest(name: str, known: Iterable[str], elsewhere: Iterable[str] = ()) -> str:
    """`. Did you mean 'channels'?` for the known name that is most like `name`, else an empty string.

    Args:
        known: what `name` may be; names in dots are compared as wholes and by their last parts.
        elsewhere: names that get a hint only if they are nearly the same.
    """
    near = {option: _compare(name, option) + AT_ITS_PLACE for option in known}
    far = {option: _compare(name, option) for option in elsewhere}
    scores = {option: score for option, score in near.items() if score >= ALIKE + AT_ITS_PLACE}
    scores |= {option: score for option, score in far.items() if score >= SLIP and option not in near}
    return f". Did you mean '{max(scores, key=scores.__getitem__)}'?" if scores else ""


def list_known(known: Sequence[str]) -> str:
    """` (choose from a, b)`, of a long list only the beginning."""
    if not known:
        return " (it has none)"
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return f" (choose from {', '.join(known[:LISTED])}{more})"


def _compare(name: str, option: str) -> float:
    """How alike two names are, from 0 to 3, by spelling and by meaning."""
    typed, other = _simplify(name), _simplify(option)
    spelling = difflib.SequenceMatcher(None, typed, other).ratio()
    if typed == other:
        return 2 + spelling
    last, other_last = re.split("[./]", name)[-1], re.split("[./]", option)[-1]
    pair = {_simplify(last), _simplify(other_last)}
    if len(pair) == 1 or any(pair <= words for words in SAME_MEANING):
        return 1.5 + spelling / 2
    closeness = difflib.SequenceMatcher(None, *pair).ratio()
    words, other_words = _split(last), _split(other_last)
    if words <= other_words or words >= other_words or closeness >= SLIP:
        return 1 + spelling / 2
    return closeness if "." in option else max(closeness, spelling)


def _simplify(name: str) -> str:
    """A name without what people write differently: capitals, separators, a leading num_ or n_."""
    lower = re.sub(r"^(num|n)_(?=.)", "", name.lower())
    return re.sub(r"[\W_]", "", lower)


def _split(name: str) -> set[str]:
    """The words of a name: `max_epochs` and `MaxEpochs` have the same ones."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)}


def count(number: int, noun: str) -> str:
    """A number before its noun: "1 run", "2 runs", "1,000 images"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def printable(text: str) -> str:
    """The text without what a terminal would obey."""
    return "\n".join(UNPRINTABLE.sub("", line) for line in text.split("\n"))


def first_line(error: object) -> str:
    """An error, or its message, as one printable line."""
    return printable(str(error)).strip().partition("\n")[0] or type(error).__name__


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


def check_names(where: str, names: Sequence[str]) -> None:
    """Reject names of classes that are not all different, or that a config cannot hold.

    Raises:
        ConfigError: naming `where` they come from, and the first.
    """
    for name, times in Counter(names).items():
        if times > 1:
            raise ConfigError(f"{where} names the class {printable(name)} more than once")
        if not name or UNPRINTABLE.search(name) or "${" in name:
            raise ConfigError(f"{where}: no class can have the name '{printable(name)}': rename it")


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
