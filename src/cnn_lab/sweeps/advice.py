"""What a report says about its settings in sentences, and the commands that it advises to type.

Nothing here imports torch.
"""

import itertools
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cnn_lab.errors import count
from cnn_lab.runs.directory import SWEEP_RECORD
from cnn_lab.settings.typed import quote
from cnn_lab.sweeps.results import (
    Record,
    Setting,
    describe,
    find_choice,
    list_distinct,
    name_repetitions,
    read_record,
)
from cnn_lab.sweeps.verdict import RUNS_WITHIN_REACH
from cnn_lab.terminal.screen import shorten, type_command

SEEDS_ADVISED = 5  # where there is one: they show differences of 1.5 standard deviations
FEWEST_FOR_A_SPREAD = 3  # runs of a setting, fewer than which hardly tell how much runs differ
REPEATED = 3  # settings of a search, the best, that are trained again
NAMES_SHOWN = 3


def advise(records: Sequence[Record], settings: Sequence[Setting], names: Mapping[str, str]) -> list[str]:
    """Which setting is best on validation images, which are worse, and what would settle the rest."""
    measured = [item for item in settings if item.completed and item.measure("val/accuracy")]
    if len(measured) < 2:
        return []
    sweep = _find_sweep(records)
    searched = sweep is not None and read_record(sweep).get("kind") == "search"
    judged = [item for item in measured if item.verdict]
    lines = _describe_verdicts(judged, names) if judged else []
    if searched:
        lines += _describe_choice(measured[0], len(settings), names)
    elif not judged:
        lines.append(f"Best on validation images: {describe(measured[0], names)}.")
    if single := [describe(item, names) for item in measured if not item.verdict and judged]:
        lines.append(f"Not compared, with a single run each: {list_some(single, '; ')}.")
    if len(list_distinct(records, "data.fold")) > 1 and judged:
        lines.append("Folds share training images, so differences look slightly more certain than they are.")
    return [*lines, *_advise_next(records, judged, names, sweep, searched)]


def resume_command(typed: Iterable[str], sweep: Path, **changes: str) -> str:
    """The command that continues a sweep; `changes` replace what was typed for these keys."""
    return _command(typed, {"sweep.resume": quote(shorten(sweep)), **changes})


def list_some(names: Sequence[str], separator: str = ", ") -> str:
    """The first names, and how many more there are."""
    rest = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return separator.join(names[:NAMES_SHOWN]) + rest


def _describe_verdicts(judged: Sequence[Setting], names: Mapping[str, str]) -> list[str]:
    over = name_repetitions(judged)
    openings = {
        "best": f"Best on validation images, over {over}: ",
        "worse": "Worse: ",
        "undecided": "Undecided: ",
        "no difference visible": f"No difference visible with {over}, nor with {RUNS_WITHIN_REACH} runs "
        "per setting: ",
    }
    lines = []
    for word, opening in openings.items():
        found = [describe(item, names) for item in judged if item.verdict and item.verdict.word == word]
        lines += [f"{opening}{list_some(found, '; ')}."] if found else []
    return lines


def _describe_choice(best: Setting, tried: int, names: Mapping[str, str]) -> list[str]:
    """That the value of the best of many is too good, and what it has on images that chose nothing."""
    metric, _ = find_choice(best.runs)
    name = metric.removeprefix("val/")
    form = "{:.2%}" if name == "accuracy" else f"{name} {{:.4g}}"
    measured = (best.measure(f"{split}/{name}") for split in ("val", "test"))
    validation, test = (form.format(found[0]) if found else "" for found in measured)
    honest = f"; on test images, which chose nothing, it reaches {test}" if test else ""
    return [
        f"Best of {count(tried, 'setting')}: {describe(best, names)}. Validation images give {validation}.",
        f"It was chosen for this value, which therefore tends to be too good{honest}.",
    ]


def _advise_next(
    records: Sequence[Record],
    judged: Sequence[Setting],
    names: Mapping[str, str],
    sweep: Path | None,
    searched: bool,
) -> list[str]:
    """The command that should settle what the runs leave open, if there is one."""
    typed = list(map(str, read_record(sweep)["typed"] if sweep else ()))
    seeds = list_distinct(records, "seed")
    if searched and sweep:
        new = itertools.count(max(seeds, default=-1) + 1)
        fresh = ",".join(map(str, itertools.islice(new, SEEDS_ADVISED)))
        changes = {"sweep.repeat": quote(shorten(sweep)), "seed": fresh}
        text = f"Compare the best {REPEATED} over {SEEDS_ADVISED} seeds that chose nothing"
        return [f"{text}: {_command(typed, changes)}"]
    undecided = [(item.verdict.needed, item) for item in judged if item.verdict and item.verdict.needed]
    if undecided:
        needed, closest = max(undecided, key=lambda pair: pair[0])
        is_rough = any(len(item.counted) < FEWEST_FOR_A_SPREAD for item in judged)
        text = f"{'At least' if is_rough else 'About'} {needed} runs per setting should show whether "
        text += f"{describe(closest, names)} is worse"
    elif not judged:
        needed = SEEDS_ADVISED
        text = f"One run per setting cannot show whether a difference is real; {needed} seeds can"
    else:
        return []
    key, values = _choose_repetitions(records, seeds, needed)
    if not values:
        return []
    listed = ",".join(map(str, values))
    return [f"{text}: {resume_command(typed, sweep, **{key: listed}) if sweep else f'add {key}={listed}'}"]


def _choose_repetitions(records: Sequence[Record], seeds: list[int], needed: int) -> tuple[str, list[int]]:
    """What to repeat settings over, "seed" or "data.fold", and its values, none if the folds are too few."""
    used = list_distinct(records, "data.fold")
    if len(used) < 2:
        new = itertools.count(max(seeds, default=-1) + 1)
        return "seed", [*seeds, *itertools.islice(new, max(0, needed - len(seeds)))]
    (folds, *others) = list_distinct(records, "data.folds")
    wanted = math.ceil(needed / max(1, len(seeds)))
    return "data.fold", list(range(wanted)) if len(used) < wanted <= folds and not others else []


def _find_sweep(records: Sequence[Record]) -> Path | None:
    """The sweep that all these runs belong to, if it is one."""
    parents = {record.path.parent for record in records}
    return next((path for path in parents if len(parents) == 1 and (path / SWEEP_RECORD).is_file()), None)


def _command(typed: Iterable[str], changes: Mapping[str, str]) -> str:
    changed = {"sweep.resume", *changes}
    kept = [item for item in typed if item.partition("=")[0] not in changed]
    new = (f"{key}={value}" for key, value in changes.items())
    return f"{type_command('train')} {shlex.join(['-m', *kept, *new])}"
