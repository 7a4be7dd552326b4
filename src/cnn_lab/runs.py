"""A run's directory: how it is named, made, written as the run goes, found again and read.

Nothing here imports torch.
"""

import contextlib
import csv
import itertools
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from cnn_lab.config import GROUPS, PROJECT
from cnn_lab.errors import CnnLabError, ConfigError

STAMP = "%Y-%m-%d_%H-%M-%S"
LABEL_LENGTH = 80
RUN_DIR_VARIABLE = "CNN_LAB_RUN_DIR"
COLUMNS = ("epoch", "step", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr", "seconds")
ARTICLE_COLUMNS = ("test/loss", "test/accuracy")


class Run:
    """What a run leaves behind, written so that a killed run has all that it had finished.

    Attributes:
        path: the run's directory.
        writes: whether this process writes; of several that train together, only the first does.
        rows: the finished epochs, as in metrics.csv.
        result: what result.json holds.
    """

    def __init__(self, path: Path, **result: Any) -> None:
        self.path = path
        self.writes = not is_helper_process()
        self.rows: list[dict[str, Any]] = []
        self.result: dict[str, Any] = {
            "status": "running",
            "error": None,
            **result,
            "started": datetime.now().astimezone().isoformat(timespec="microseconds"),
            **describe_git(),
        }

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.yaml."""
        if not self.writes:
            return
        _replace_file(self.path / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))

    def update(self, **values: Any) -> None:
        """Set values of result.json and write it."""
        self.result.update(values)
        if not self.writes:
            return
        _replace_file(self.path / "result.json", json.dumps(self.result, indent=2) + "\n")

    def add_epoch(self, row: Mapping[str, Any]) -> None:
        """Add a finished epoch to metrics.csv."""
        columns = (*COLUMNS, *(ARTICLE_COLUMNS if "test/loss" in row else ()))
        self.rows.append({name: row.get(name) for name in columns})
        if not self.writes:
            return
        with (self.path / "metrics.csv").open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            if len(self.rows) == 1:
                writer.writeheader()
            writer.writerow(self.rows[-1])


def is_helper_process() -> bool:
    """Whether another process started this one to train with it, on a device of its own."""
    return int(os.environ.get("LOCAL_RANK", 0)) > 0 or int(os.environ.get("NODE_RANK", 0)) > 0


@contextlib.contextmanager
def new_run_directory(parent: Path, name: str) -> Iterator[Path]:
    """Make a directory for a run, and remove it again if nothing was written into it.

    A helper process gets the one that the process that started it has made.

    Raises:
        CnnLabError: when it cannot be made.
    """
    if is_helper_process():
        yield Path(os.environ.get(RUN_DIR_VARIABLE, parent / name))
        return
    path = make_directory(parent, name)
    os.environ[RUN_DIR_VARIABLE] = str(path)
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):  # it is not empty
            path.rmdir()


def make_directory(parent: Path, name: str) -> Path:
    """Make `parent / name`, or the same with a number if it exists: nobody else gets the same one.

    Raises:
        CnnLabError: when it cannot be made.
    """
    path = parent / name
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(2):
            try:
                path.mkdir()
                break
            except FileExistsError:
                path = parent / f"{name}_{number}"
    except OSError as error:
        raise CnnLabError(
            f"the directory {path} cannot be made: {error.strerror}; choose another place with output_dir=DIR"
        ) from error
    return path


def name_run(
    label: str | None, overrides: Sequence[str], hydra: Mapping[str, Any]
) -> tuple[Path | None, str, str]:
    """Where a run goes: the sweep's directory or None, the directory's name, and the run's label.

    Args:
        label: the config's own, if it has one.
        overrides: what was typed for this run.
        hydra: Hydra's own config.
    """
    if str(hydra["mode"]).endswith("MULTIRUN"):
        sweep = Path(hydra["sweep"]["dir"])
        label = _clean(label) if label else make_label(_keep_swept(sweep, overrides))
        return sweep, f"{hydra['job']['num']}-{label}", label
    label = _clean(label) if label else make_label(overrides)
    return None, f"{datetime.now():{STAMP}}-{label}", label


def make_label(overrides: Sequence[str]) -> str:
    """A name, for files and charts, that says what was typed: `model.channels=[8,16]` gives `channels-8-16`.

    Where a run keeps its files and on what it runs is left out. Without anything else it is `default`.
    """
    parts = []
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key.startswith(("data.root", "output_dir", "trainer.accelerator", "trainer.devices", "hydra")):
            continue
        name = key if key in GROUPS else key.rpartition(".")[2]
        words = [value] if key == "experiment" else [name, *re.findall(r"[^\W_][\w.+-]*|-[\d.]+", value)]
        parts.append("-".join(words))
    return _clean("_".join(parts)) or "default"


def _clean(label: str) -> str:
    """Without what has a meaning in paths, and not too long for one."""
    return re.sub(r"[^\w.+-]", "-", label)[:LABEL_LENGTH]


def _make_sweep_directory(parent: str, label: str | None, typed: Sequence[str]) -> str:
    """The directory of a new sweep, named by its label or by the settings that it varies."""
    label = label or "_".join(key.rpartition(".")[2] for key in _find_swept(typed)) or "sweep"
    return str(make_directory(Path(parent), f"{datetime.now():{STAMP}}-{_clean(label)}"))


# Hydra asks for it in every job of a sweep, and gets the first answer again.
OmegaConf.register_new_resolver("sweep_dir", _make_sweep_directory, use_cache=True, replace=True)


def _find_swept(typed: Sequence[str]) -> list[str]:
    """The keys for which several values were typed."""
    parsed = OverridesParser.create().parse_overrides(list(typed))
    return [item.key_or_group for item in parsed if item.is_sweep_override()]


def _keep_swept(sweep: Path, overrides: Sequence[str]) -> list[str]:
    """The overrides of a job of which its sweep has several values; all of them if that is not on record."""
    try:
        hydra = yaml.safe_load((sweep / "multirun.yaml").read_text(encoding="utf-8"))["hydra"]
        swept = {*_find_swept(hydra["overrides"]["task"]), *(hydra["sweeper"].get("params") or ())}
    except (OSError, KeyError, TypeError):
        return list(overrides)
    return [item for item in overrides if item.lstrip("+~").partition("=")[0] in swept]


def find_run(path: str | Path | None = None, output_dir: Path = PROJECT / "outputs") -> tuple[Path, Path]:
    """The run directory and the checkpoint that `path`, either of them, names; None is the latest run.

    Raises:
        ConfigError: when there is none, or it is neither.
    """
    if path is None:
        runs = sorted(output_dir.glob("runs/*/result.json")) + sorted(
            output_dir.glob("sweeps/*/*/result.json")
        )
        if not runs:
            raise ConfigError(f"there is no run in {output_dir}; train one first: python scripts/train.py")
        path = max(runs, key=lambda file: read_result(file.parent).get("started", "")).parent
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"{path} does not exist; give a run directory or a checkpoint")
    if path.is_file():
        return path.parent.parent, path
    if not (path / "result.json").is_file():
        raise ConfigError(f"{path} is not a run directory: it has no result.json")
    for name in ("best.ckpt", "last.ckpt"):
        if (path / "checkpoints" / name).is_file():
            return path, path / "checkpoints" / name
    raise ConfigError(f"{path} has no checkpoint (the run's status: {read_result(path).get('status')})")


def read_result(path: Path) -> dict[str, Any]:
    """What a run's result.json holds; empty where it cannot be read."""
    try:
        return dict(json.loads((path / "result.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def describe_git() -> dict[str, Any]:
    """The commit of this project's checkout and whether it was changed since; None outside of one."""
    try:
        commit = _ask_git("rev-parse", "HEAD")
        return {
            "git_commit": commit,
            "git_dirty": bool(_ask_git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return {"git_commit": None, "git_dirty": None}


def _ask_git(*arguments: str) -> str:
    command = ["git", "-C", str(PROJECT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
    return done.stdout.strip()


def _replace_file(path: Path, text: str) -> None:
    """Write a file that readers see whole: the old one or the new one."""
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)  # noqa: PTH105
