"""What a setting means to its run: one table for fingerprints, reports, resumed runs and sweeps."""

import contextlib
import functools
import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from cnn_lab.errors import ConfigError
from cnn_lab.settings.config import SCHEMAS, flatten
from cnn_lab.settings.groups import join, read_known, read_parameters
from cnn_lab.settings.signatures import Parameter

# Every other setting is part of what a run is. A group's name stands for all that is below it.
MEANINGS = {
    "place": ("label", "output_dir", "resume", "trust", "sweep", "data.root"),
    "hardware": (
        "trainer.accelerator", "trainer.strategy", "data.num_workers",
    ),
    "showing": ("checkpoint_minutes", "pictures", "logger", "trainer.log_every_n_steps", "trainer.profiler"),
    "length": ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time"),
    "repetition": ("seed", "data.fold"),
}  # fmt: skip
TARGET = "._target_"
TELLING = ("identity", "length", "repetition")  # which run it is


@functools.cache
def meaning_of(key: str) -> str:
    """What the setting with this dotted key means: a name in `MEANINGS`, or "identity".

    Place, hardware and what is shown change no result (but for the order of sums). A longer run goes on from
    where a shorter one ends. Repetitions are compared with other settings together.
    """
    for meaning, names in MEANINGS.items():
        if any(key == name or key.startswith(f"{name}.") for name in names):
            return meaning
    return "identity"


def settle(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a checked or stored config, by dotted key, in one form for all that mean the same.

    Those that were left to their defaults are there, too. Nothing is refused: what is set of code that is not
    here stays as it is.
    """
    targets = SCHEMAS | {
        key[: -len(TARGET)]: value for key, value in settings.items() if key.endswith(TARGET)
    }
    nodes: dict[str, dict[str, Any]] = {group: {} for group in targets}
    for key, value in settings.items():
        group, _, name = key.rpartition(".")
        nodes.setdefault(group, {})[name] = value
    settled = dict(settings)
    for group, target in targets.items():
        text = json.dumps([nodes[group], {"_target_": targets.get(f"{group}.source")}], default=str)
        settled |= _settle_node(group, str(target), text)
    for name in nodes.get("data", ()):  # of which the source is given what it takes
        if f"data.source.{name}" not in settings:
            settled.pop(f"data.source.{name}", None)
    return settled


def identify(settings: Mapping[str, Any], swept: Collection[str] = ()) -> dict[str, Any]:
    """Those settings, by dotted key, that tell a run from others; whatever is `swept` is among them.

    The place of images is no such setting, since they may have been moved; but who lists several places for
    one sweep means several sets of images. Of devices only the number counts, by which a batch is multiplied.
    """
    settled = settle(settings)
    if isinstance(settled.get("trainer.devices"), list):
        settled["trainer.devices"] = len(settled["trainer.devices"])
    varied = {key for key in settled if key.partition(".")[0] in swept and meaning_of(key) != "place"}
    return {
        key: value
        for key, value in settled.items()
        if meaning_of(key) in TELLING or key in varied.union(swept)
    }


def fingerprint(config: Mapping[str, Any], swept: Collection[str] = ()) -> str:
    """The same for two configs exactly if they set up the same run, see `identify`."""
    return digest(identify(flatten(config), swept))


def digest(settings: Mapping[str, Any]) -> str:
    """A short text that is the same for the same settings."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=4_096)  # the runs of a sweep have most of their nodes in common
def _settle_node(group: str, target: str, text: str) -> dict[str, Any]:
    node, source = json.loads(text)
    try:
        known = read_known(group, target, source) or {}
        own = read_parameters(group, target) or {}
    except ConfigError:
        known = own = {}
    for name in own.keys() - node.keys():
        with contextlib.suppress(ValueError):
            node[name] = own[name].read_default()
    return {join(group, name): _settle_value(known.get(name), value) for name, value in node.items()}


def _settle_value(parameter: Parameter | None, value: Any) -> Any:
    """Where no annotation tells a whole number from a share, 1.0 is 1."""
    if parameter and parameter.annotation:
        return parameter.settle(value)
    if isinstance(value, list):
        return [_settle_value(None, item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
