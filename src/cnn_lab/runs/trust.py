"""What is read from run directories and checkpoints that somebody else may have made: it is data, never code.

Nothing here imports torch.
"""

import ast
import functools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from cnn_lab import datasets as mnist
from cnn_lab.errors import UNPRINTABLE, ConfigError, printable
from cnn_lab.settings.config import PROJECT

OWN_ROOT = str(PROJECT / "data")  # of data sets

# A config that comes out of a run directory or a checkpoint is data: it may name nothing else.
TRUSTED_TARGETS = ("cnn_lab.", "torch.optim.", "torch.nn.", "lightning.pytorch.")
# And in its place only what belongs there: what a library itself offers under this name, never what one of
# its modules has imported; and what the source of this package defines, a class by its base.
TRUSTED_KINDS = {
    "data": ("a LightningDataModule of cnn_lab", "", "cnn_lab.", "LightningDataModule"),
    "model": ("an nn.Module of cnn_lab or torch.nn", r"torch\.nn\.[A-Z]\w*", "cnn_lab.", "Module"),
    "optimizer": (
        "an Optimizer of torch.optim or cnn_lab", r"torch\.optim\.[A-Z]\w*", "cnn_lab.", "Optimizer"
    ),
    "scheduler": ("a function of cnn_lab.scheduler", "", "cnn_lab.scheduler.", ""),
    "trainer": ("lightning.pytorch.Trainer", r"lightning\.pytorch\.Trainer", "lightning.", ""),
}  # fmt: skip
STORED_VALUES, STORED_DEPTH, STORED_LENGTH = 10_000, 20, 4_096  # of a stored config and its texts, at most
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML has it
LARGEST_TEXT = 10_000_000  # bytes of a run's files of text, far more than a run ever writes
LARGEST_CONFIG = 500_000  # bytes, of which the configs of a long sweep take a tenth


def check_trusted(config: Any) -> None:
    """Refuse a stored config that is not plain data, or has a target that does not belong where it is.

    Nothing is imported to find out.

    Raises:
        ConfigError: naming the key, and the target.
    """
    for path, value in walk_plain(config):
        if path[-1] == "_target_":
            _check_target(path, value)
        elif path[-1].startswith("_") and path[-1] != "_partial_":
            raise ConfigError(f"{'.'.join(path)} is refused: a stored config may not have it")
        elif isinstance(value, str) and "${" in value:
            raise ConfigError(f"{'.'.join(path)}={value} is refused: a stored config is resolved already")


def walk_plain(config: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The values of a stored config at all depths, each with the keys that lead to it.

    Raises:
        ConfigError: for the first that no run leaves behind, as it is not plain or not printable, and for
            more of them than any run has.
    """
    if not isinstance(config, dict):
        raise ConfigError("a stored config is refused: it holds no settings")
    found: list[tuple[tuple[str, ...], Any]] = [((), config)]
    for path, value in found:  # it grows
        key = ".".join(path) or "a stored config"
        if not _is_plain(value):
            raise ConfigError(f"{key} is refused: it must be plain, printable data")
        if isinstance(value, dict | list):
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            found += [((*path, str(name)), item) for name, item in inner]
        if len(found) > STORED_VALUES or len(path) > STORED_DEPTH:
            raise ConfigError("a stored config is refused: it is larger than any that a run leaves behind")
        if path:
            yield path, value


def choose_root(root: str | None) -> str | None:
    """The folder to use for a stored `data.root`: that one if all of MNIST is there, else the project's own.

    So nothing is downloaded to where a stored config points.
    """
    if root in (None, OWN_ROOT):
        return root
    files = [(mnist.raw_folder(root) / file.name, file.bytes) for file in mnist.ALL_FILES]
    return root if all(path.is_file() and path.stat().st_size == size for path, size in files) else OWN_ROOT


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
                raise ConfigError(f"{printable(str(path))} is refused: its name cannot be printed")
            target = Path(os.path.realpath(path))
            if path.is_symlink() and not target.is_relative_to(home):
                raise ConfigError(f"{path} is refused: it leads outside of {directory}, to {target}")


def read_text(path: Path, largest: int = LARGEST_TEXT) -> str:
    """What a file of a run holds.

    Raises:
        OSError: also for one that is too large, or that is no file, which could let its reader wait for ever.
        ValueError: when it is no text.
    """
    if not path.is_file() or path.stat().st_size > largest:
        raise OSError(f"{path} is no file of at most {largest:,} bytes")
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


def _check_target(path: Sequence[str], target: Any) -> None:
    key = ".".join(path)
    if not isinstance(target, str) or not target.startswith(TRUSTED_TARGETS):
        raise ConfigError(
            f"{key}={target!s:.100} is refused: a stored config may only name targets under "
            + ", ".join(name.rstrip(".") for name in TRUSTED_TARGETS)
        )
    group = path[0]
    if group not in TRUSTED_KINDS or (len(path) > 2 and group != "model"):  # a network may be made of others
        raise ConfigError(f"{key}={target} is refused: a stored config may not name a target there")
    words, pattern, place, base = TRUSTED_KINDS[group]
    if not re.fullmatch(pattern, target) and not (target.startswith(place) and _is_own(target, base)):
        raise ConfigError(f"{key}={target} is refused: a stored config may only name {words} there")


@functools.cache
def _is_own(target: str, base: str) -> bool:
    """Whether the source of this package defines this class below a `base`, or without one this function."""
    match = re.fullmatch(r"cnn_lab((?:\.\w{1,50}){1,4})\.(\w+)", target)
    file = Path(__file__).parents[1] / f"{match[1][1:].replace('.', '/')}.py" if match else None
    if not match or not file or not file.is_file():
        return False
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.FunctionDef) and statement.name == match[2]:
            return not base
        if isinstance(statement, ast.ClassDef) and statement.name == match[2]:
            bases = [ast.unparse(item).rpartition(".")[2] for item in statement.bases]
            return base in bases or any(_is_own(f"cnn_lab{match[1]}.{item}", base) for item in bases)
        if isinstance(statement, ast.ImportFrom) and any(item.name == match[2] for item in statement.names):
            return _is_own(f"{statement.module}.{match[2]}", base)
    return False
