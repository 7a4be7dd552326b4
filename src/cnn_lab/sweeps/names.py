"""Names for settings that differ: as short as they can be, and never one name for two.

Nothing here imports torch.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnn_lab.settings.config import PLANS
from cnn_lab.settings.data import FACTS
from cnn_lab.settings.meaning import MEANINGS

if TYPE_CHECKING:
    from cnn_lab.sweeps.results import Record

LEADERS = {"data": "data.name", "model": "model"}  # the name from which a group's other settings follow
FOUND = [f"data.{fact}" for fact in FACTS]
DEFAULT_OPTIONS = {"cnn_lab.model.CNN": "cnn"}  # what conf/train.yaml has where nothing else is typed
OWN_OPTION = "own"  # in conf/model/, for every other class
TARGET = "._target_"


def name_settings(runs: "Sequence[Record]") -> tuple[list[str], list[dict[str, Any]]]:
    """The keys in which runs of different settings differ, repetitions aside, and each one's values of these.

    What follows from a name is left out: of two networks there is only `model`, as long as all else is the
    same for all runs of each. `optimizer: Adam` stands for `optimizer._target_: torch.optim.Adam`.
    """
    settings = [run.identity for run in runs]
    targets = {str(flat[key]) for flat in settings for key in flat if key.endswith(TARGET)}
    names = shorten_keys(sorted(targets))
    flats = [
        {
            key.removesuffix(TARGET): names[str(value)] if key.endswith(TARGET) else value
            for key, value in flat.items()
            if key not in MEANINGS["repetition"]
        }
        for flat in settings
    ]
    for run, flat in zip(runs, flats, strict=True):
        flat |= _name_network(run)
    keys = [key for key in dict.fromkeys(key for flat in flats for key in flat) if _differs(key, flats)]
    return keys, [{key: flat[key] for key in keys if key in flat} for flat in flats]


def shorten_keys(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted key, or all of it where two end alike."""
    ends = Counter(key.rpartition(".")[2] for key in keys)
    return {key: end if ends[end := key.rpartition(".")[2]] == 1 else key for key in keys}


def _name_network(run: "Record") -> dict[str, str]:
    """The name of the option, as in `model=vgg`, of a network of this project."""
    target = run.identity.get("model._target_", "")
    typed = [str(text).partition("=") for text in run.result.get("overrides", ())]
    options = [option for key, _, option in typed if key == "model"]
    option = options[-1] if options else DEFAULT_OPTIONS.get(target, OWN_OPTION)
    return {"model": option} if target in PLANS and option != OWN_OPTION else {}


def _differs(key: str, flats: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a key has several values; what follows from a name, whether it has with the same name.

    What is found of images follows from all that is typed of them.
    """
    group, above = key.partition(".")[0], key.rpartition(".")[0]
    leader = LEADERS.get(group, key)
    seen: dict[Any, set[str]] = {}
    for flat in filter(None, flats):
        owner = flat.get(LEADERS.get(group, above))  # which decides what settings there are
        seen.setdefault((above, owner), set()).add(str(key in flat))
        if key not in flat:
            continue
        name = flat.get(leader) if key != leader else None
        if key in FOUND:
            name = json.dumps(
                [flat[own] for own in sorted(flat) if own.startswith("data.") and own not in FOUND]
            )
        seen.setdefault(name, set()).add(json.dumps(flat[key], sort_keys=True))
    return any(len(values) > 1 for values in seen.values())
