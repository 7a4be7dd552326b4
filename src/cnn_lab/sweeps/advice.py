"""What a report says about its settings in sentences, and the commands that it advises to type.

Nothing here imports torch.
"""

import itertools
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

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
REPEATED = 3  # settings of a search, the best, that are trained again
NAMES_SHOWN = 3


def advise(records: Sequence[Record], settings: Sequence[Setting], names: Mapping[str, str]) -> list[str]:
    """Which setting is best on validation images, which are behind it, and what would settle the rest."""
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
        lines.append(f"With a single run, and so not compared: {list_some(single, '; ')}.")
    if len(list_distinct(records, "data.fold")) > 1 and judged:
        lines.append("Folds share training images, so that differences look a little surer than they are.")
    return [*lines, *_advise_next(records, judged, names, sweep, searched)]


def resume_command(typed: Iterable[str], sweep: Path, **changes: str) -> str:
    """The command that goes on with a sweep; `changes` replace what was typed for these keys."""
    return _command(typed, {"sweep.resume": quote(shorten(sweep)), **changes})


def list_some(names: Sequence[str], separator: str = ", ") -> str:
    """The first names, and how many more there are."""
    rest = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return separator.join(names[:NAMES_SHOWN]) + rest


def _describe_verdicts(judged: Sequence[Setting], names: Mapping[str, str]) -> list[str]:
    over = name_repetitions(judged)
    openings = {
        "best": f"Best on validation images, over {over}: ",
        "behind": "Behind it: ",
        "perhaps behind": "Perhaps behind it: ",
        "no difference": f"No difference that {over} could show, or any number within reach "
        f"({RUNS_WITHIN_REACH}): ",
    }
    lines = []
    for word, opening in openings.items():
        found = [describe(item, names) for item in judged if item.verdict and item.verdict.word == word]
        lines += [f"{opening}{list_some(found, '; ')}."] if found else []
    return lines


def _describe_choice(best: Setting, tried: int, names: Mapping[str, str]) -> list[str]:
    """That the best of many is too good by its choice, and what it has on images that chose nothing."""
    metric, _ = find_choice(best.runs)
    name = metric.removeprefix("val/")
    form = "{:.2%}" if name == "accuracy" else f"{name} {{:.4g}}"
    measured = (best.measure(f"{split}/{name}") for split in ("val", "test"))
    validation, test = (form.format(found[0]) if found else "" for found in measured)
    honest = f"; test images, which chose nothing, give {test}" if test else ""
    return [
        f"Best of {tried} settings on validation images: {describe(best, names)}, with {validation}.",
        f"Having been chosen for that, it tends to look better than it is{honest}.",
    ]


def _advise_next(
    records: Sequence[Record],
    judged: Sequence[Setting],
    names: Mapping[str, str],
    sweep: Path | None,
    searched: bool,
) -> list[str]:
    """The command that would tell what the runs do not tell yet, if there is one."""
    typed = map(str, read_record(sweep)["typed"] if sweep else ())
    used = list_distinct(records, "seed")
    folds = max(1, len(list_distinct(records, "data.fold")))
    new = itertools.count(max(used, default=-1) + 1)  # a lower one may be that of a search that was repeated
    if searched and sweep:
        seeds = ",".join(map(str, itertools.islice(new, SEEDS_ADVISED)))
        changes = {"sweep.repeat": quote(shorten(sweep)), "seed": seeds}
        text = f"Compare the best {REPEATED} over {SEEDS_ADVISED} seeds that chose nothing"
        return [f"{text}: {_command(typed, changes)}"]
    undecided = [(item.verdict.needed, item) for item in judged if item.verdict and item.verdict.needed]
    if undecided:
        needed, closest = max(undecided, key=lambda pair: pair[0])
        text = f"About {needed} runs a setting would tell whether {describe(closest, names)} is behind"
    elif not judged:
        needed = SEEDS_ADVISED
        text = f"With 1 run a setting, nothing can be said about differences; with {needed} seeds it can"
    else:
        return []
    wanted = math.ceil(needed / folds)
    seeds = ",".join(map(str, [*used, *itertools.islice(new, max(0, wanted - len(used)))]))
    return [f"{text}: {resume_command(typed, sweep, seed=seeds) if sweep else f'add seed={seeds}'}"]


def _find_sweep(records: Sequence[Record]) -> Path | None:
    """The sweep that all these runs belong to, if it is one."""
    parents = {record.path.parent for record in records}
    return next((path for path in parents if len(parents) == 1 and (path / SWEEP_RECORD).is_file()), None)


def _command(typed: Iterable[str], changes: Mapping[str, str]) -> str:
    changed = {"sweep.resume", *changes}
    kept = [item for item in typed if item.partition("=")[0] not in changed]
    new = (f"{key}={value}" for key, value in changes.items())
    return f"{type_command('train')} {shlex.join(['-m', *kept, *new])}"
