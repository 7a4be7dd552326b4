"""One group of settings, checked in one pass: which there are, of which types and in which ranges."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cnn_lab.errors import LISTED, ConfigError, check_range, find_nearest, list_known
from cnn_lab.settings.ranges import RANGES
from cnn_lab.settings.signatures import Parameter, read_signature

OF_HYDRA = ("_target_", "_partial_", "_convert_", "_recursive_")
# What the run passes to each group's target itself, so that no setting can.
SUPPLIED = {
    "data": {"seed"},
    "data.source": {"root"},
    "model": {"input_shape", "num_classes"},
    "optimizer": {"params"},
    "scheduler": {"optimizer", "total_steps", "mode"},
    "metrics": {"num_classes"},
    "logger": {"save_dir", "run_name", "run_id", "version", "id"},
    "trainer": {
        "logger", "callbacks", "fast_dev_run", "barebones", "default_root_dir", "enable_checkpointing",
        "enable_progress_bar", "enable_model_summary", "use_distributed_sampler", "num_nodes",
        "val_check_interval", "plugins", "model_registry",
    },
}  # fmt: skip


def list_nodes(group: str, node: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A group's name, node and target, and those of every node with a `_target_` below it.

    Raises:
        ConfigError: for a group without one.
    """
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        raise ConfigError(
            f"{group} has no _target_: name a class or function, as in {group}._target_=MODULE.NAME"
        )
    yield group, node, node["_target_"]
    for name, value in node.items():
        if isinstance(value, dict) and "_target_" in value:
            yield from list_nodes(f"{group}.{name}", value)


def check_group(group: str, node: Mapping[str, Any], target: str, settings: Iterable[str] = ()) -> None:
    """Check a node, of the top level where `group` is empty, against the class or function `target`.

    Args:
        settings: the dotted keys of the whole config, among which an unknown one may have its place.

    Raises:
        ConfigError: for the first setting that is unknown, missing, of a wrong type or out of range.
    """
    parameters = read_parameters(group, target)
    known = read_known(group, target, node.get("source"))
    for name, value in node.items():
        if name in OF_HYDRA:
            continue
        if name in list_supplied(group):
            raise ConfigError(describe_supplied(group, name))
        if known is not None and name not in known:
            owner = group if target.startswith("cnn_lab.settings.") else target
            raise ConfigError(describe_unknown(join(group, name), owner, known, settings))
        key = join(group, name)
        _check_type(key, value, (known or {}).get(name), group)
        if key in RANGES:
            check_range(key, value, RANGES[key])
    for name, parameter in (parameters or {}).items():
        is_checked_with_data = group == "data.source"  # which passes some of its own settings on
        if parameter.required and name not in node and not is_checked_with_data:
            raise ConfigError(f"{join(group, name)} is missing" + (f": {target} needs it" if group else ""))


def read_known(group: str, target: str, source: Any) -> dict[str, Parameter] | None:
    """What a group may hold: what its target takes, and, as to images, what their source takes.

    Raises:
        ConfigError: as `read_parameters`.
    """
    known = read_parameters(group, target)
    if group == "data" and known is not None and isinstance(source, dict) and source.get("_target_"):
        known = {**(read_parameters("data.source", source["_target_"]) or {}), **known}
    return known


def read_parameters(group: str, target: str) -> dict[str, Parameter] | None:
    """What may be set for the class or function `target`, by name; None where that cannot be told.

    Raises:
        ConfigError: when there is no such class or function, or its module is no Python.
    """
    try:
        parameters = read_signature(target)
    except LookupError as error:
        raise ConfigError(f"{group}._target_={target}: {error.args[0]}") from None
    except SyntaxError as error:
        place = f"{error.filename}, line {error.lineno}"
        raise ConfigError(f"{group}._target_={target}: {place}: {error.msg}") from error
    if parameters is None:
        return None
    return {name: value for name, value in parameters.items() if name not in list_supplied(group)}


def list_supplied(group: str) -> set[str]:
    """The settings of a group that the run passes itself."""
    return SUPPLIED["metrics"] if group.startswith("metrics.") else SUPPLIED.get(group, set())


def join(group: str, name: str) -> str:
    """The dotted key of a setting of a group."""
    return f"{group}.{name}" if group else name


def describe_unknown(key: str, owner: str, known: Iterable[str], settings: Iterable[str]) -> str:
    """Say that there is no setting with this dotted key, and which one was probably meant.

    Args:
        owner: the group, class or function that lacks it; empty for a key that begins with no group.
        known: the names that `owner` has.
        settings: the dotted keys of the whole config.
    """
    group, _, name = key.rpartition(".") if owner else ("", "", key)
    names = sorted(known)
    elsewhere = (other for other in settings if other != key)
    near = find_nearest(key, [join(group, other) for other in names], elsewhere)
    listed = list_known(names) if len(names) <= LISTED else " (--help lists what there is)"
    return f"{owner or 'cnn-lab'} has no setting '{name}'{near or listed}"


def describe_supplied(group: str, name: str) -> str:
    """Say that a setting is not the user's to make."""
    return f"{group}.{name} cannot be set: the run sets it itself"


def show(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, list):
        return f"[{','.join(map(show, value))}]"
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return str(value)


def _check_type(key: str, value: Any, parameter: Parameter | None, group: str) -> None:
    if parameter is None or parameter.accepts(value):
        return
    if group == "loss" and isinstance(value, list) and "Tensor" in str(parameter):
        return  # which `cnn_lab.assembly.make_loss` turns into one
    if value != "auto" or group != "trainer":  # Lightning's annotations do not say all that it takes
        raise ConfigError(f"{key}={show(value)} must be {parameter}")
