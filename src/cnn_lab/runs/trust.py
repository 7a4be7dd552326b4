"""What is read from run directories and checkpoints that somebody else may have made: it is data, never code.

Nothing here imports torch.
"""

import functools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING

from cnn_lab.errors import UNPRINTABLE, ConfigError, printable
from cnn_lab.settings.config import GROUPS, OWN
from cnn_lab.settings.places import CONF

STORED_VALUES, STORED_DEPTH, STORED_LENGTH = 10_000, 20, 4_096  # of a stored config and its texts, at most
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML has it
LARGEST_TEXT = 10_000_000  # bytes of a run's files of text, far more than a run ever writes
# What may be stored besides, by the keys that lead to it, * for a name of one's own: making one does nothing
# outside of the run, whatever it is given.
OF_LIBRARIES = {
    ("loss", "_target_"): r"torch\.nn\.[A-Z]\w*Loss",
    ("metrics", "*", "_target_"): r"torchmetrics\.classification\.[A-Z]\w*",
    ("callbacks", "*", "_target_"): r"lightning\.pytorch\.callbacks\."
    r"(DeviceStatsMonitor|EarlyStopping|LearningRateMonitor|Timer)",
}
LARGEST_CONFIG = 500_000  # bytes, of which the configs of a long sweep take a tenth
# What only training builds, and what takes its place where a trained network is used.
OF_TRAINING = {
    "callbacks": {},
    "logger": {},
    "optimizer": {"_target_": "torch.optim.SGD"},
    "scheduler": {"_target_": "cnn_lab.scheduler.constant"},
}


def check_trusted(config: Any, trust: bool = False, run: object = "this run", add: str = "--trust") -> None:
    """Refuse a stored config that is not plain data, or names code or a logger that no file of conf/ has.

    A logger's settings say where to write and to whom to send. Nothing is imported to find out.

    Args:
        trust: the user says that the run is their own, so that it may have any target and any logger.
        run: what to call the run in a message.
        add: what to type to trust it.

    Raises:
        ConfigError: naming what is not trusted, and what to type to trust it.
    """
    foreign = []
    for path, value in walk_plain(config):
        if path[-1] == "_target_":
            foreign += [] if _is_known(path, value) else [f"{'.'.join(path)}={value!s:.100}"]
        elif path[-1].startswith("_") and path[-1] != "_partial_":
            raise ConfigError(f"{'.'.join(path)} is rejected: stored settings may not have it")
        elif isinstance(value, str) and "${" in value:
            raise ConfigError(f"{'.'.join(path)}={value} is rejected: stored settings are already resolved")
    if foreign and not trust:
        raise ConfigError(
            f"{run} uses code from outside the project ({', '.join(foreign)}). If you trust it, add {add}"
        )
    logger = config.get("logger")
    if logger and not trust and logger not in _list_loggers():
        leaves = (item for item in walk_plain({"logger": logger}) if not isinstance(item[1], dict))
        written = ", ".join(f"{'.'.join(path)}={value!s:.100}" for path, value in leaves)
        raise ConfigError(
            f"{run} uses a logger with settings that no file in conf/logger/ has ({written}). "
            f"If you trust it, add {add}; to continue without this logger, add logger=tensorboard"
        )


def walk_plain(config: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The values of a stored config at all depths, each with the keys that lead to it.

    Raises:
        ConfigError: for the first that no run leaves behind, as it is not plain or not printable, and for
            more of them than any run has.
    """
    if not isinstance(config, dict):
        raise ConfigError("the stored settings are rejected: there are none")
    found: list[tuple[tuple[str, ...], Any]] = [((), config)]
    for path, value in found:  # it grows
        key = ".".join(path) or "a stored config"
        if not _is_plain(value):
            raise ConfigError(f"{key} is rejected: it must be plain, printable data")
        if isinstance(value, dict | list):
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            found += [((*path, str(name)), item) for name, item in inner]
        if len(found) > STORED_VALUES or len(path) > STORED_DEPTH:
            raise ConfigError("the stored settings are rejected: they are larger than a run's can be")
        if path:
            yield path, value


def check_inside(directory: Path) -> None:
    """Refuse a run's or a sweep's directory if a link in it leads out, so that whoever uses it stays in it.

    It may itself be a link.

    Raises:
        ConfigError: naming the link, or a file whose name a terminal would obey.
    """
    home = Path(os.path.realpath(directory))
    for folder, folders, files in os.walk(directory):
        for path in (Path(folder, name) for name in (*folders, *files)):
            if UNPRINTABLE.search(path.name):
                raise ConfigError(f"{printable(str(path))} is rejected: its name cannot be printed")
            target = Path(os.path.realpath(path))
            if path.is_symlink() and not target.is_relative_to(home):
                raise ConfigError(f"{path} is rejected: it leads out of {directory}, to {target}")


def read_text(path: Path, largest: int = LARGEST_TEXT) -> str:
    """What a file of a run holds.

    Raises:
        OSError: also for one that is too large, or that is no file, which could let its reader wait for ever.
        ValueError: when it is no text.
    """
    if not path.is_file() or path.stat().st_size > largest:
        raise OSError(f"{path} is not a file of at most {largest:,} bytes")
    return path.read_text(encoding="utf-8")


def read_yaml(path: Path) -> dict[str, Any]:
    """What a config.yaml or sweep.yaml holds, as plain data.

    Raises:
        ConfigError: when there is none, or it holds what no run writes.
    """
    try:
        text, depth = read_text(path, LARGEST_CONFIG), 0
        for event in yaml.parse(text, YAML_LOADER):  # the loader itself would fall from a depth of thousands
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > STORED_DEPTH:
                raise ValueError("it is nested too deep")
        content = yaml.load(text, YAML_LOADER)  # noqa: S506 - it is a safe one
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or printable(str(error)).partition("\n")[0]
        raise ConfigError(f"{path} cannot be read: {reason}") from error
    for _ in walk_plain(content):
        pass
    return content


def _is_plain(value: Any) -> bool:
    """Whether a value, without what is in it, may stand in a stored config."""
    if isinstance(value, str):
        return len(value) <= STORED_LENGTH and not UNPRINTABLE.search(value)
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_plain(name) for name in value)
    if isinstance(value, int):
        return value.bit_length() <= 64
    return value is None or isinstance(value, float | list)


def _is_known(path: Sequence[str], target: Any) -> bool:
    place = (path[0], "*", *path[2:]) if path[0] in OWN else tuple(path)
    pattern = OF_LIBRARIES.get(place, "(?!)")
    known = list_targets().get(tuple(path), ())
    return isinstance(target, str) and (target in known or bool(re.fullmatch(pattern, target, re.ASCII)))


@functools.cache
def list_targets() -> dict[tuple[str, ...], set[str]]:
    """The targets that this project's own config files name, by the keys that lead to them."""
    found: dict[tuple[str, ...], set[str]] = {}
    groups = (*GROUPS, *OWN, "logger")
    for file in CONF.rglob("*.yaml"):
        content = _read_own(file)
        group = file.parent.name
        nodes = {group: content} if group in groups else content  # as in an experiment, or in train.yaml
        for path, value in walk_plain({name: nodes[name] for name in groups if name in nodes}):
            if path[-1] == "_target_" and value not in (None, MISSING):
                found.setdefault(path, set()).add(value)
    return found


def _list_loggers() -> list[dict[str, Any]]:
    """The settings of each logger in conf/logger/."""
    return [_read_own(file) for file in (CONF / "logger").glob("*.yaml")]


def _read_own(file: Path) -> dict[str, Any]:
    return yaml.load(file.read_bytes(), YAML_LOADER) or {}  # noqa: S506 - it is a safe one
