"""What a run writes of itself as it goes, and how it is read: config.yaml, metrics.csv and result.json.

Nothing here imports torch.
"""

import csv
import importlib.metadata
import io
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from cnn_lab import __version__
from cnn_lab.errors import ConfigError, printable
from cnn_lab.files import write_file
from cnn_lab.runs.lock import is_alive
from cnn_lab.runs.trust import OF_TRAINING, check_trusted, read_text, read_yaml
from cnn_lab.settings.config import LONGEST_NAME
from cnn_lab.settings.environment import is_helper_process
from cnn_lab.settings.places import PROJECT
from cnn_lab.terminal.screen import format_json

BEST_CHECKPOINT, LAST_CHECKPOINT = (Path("checkpoints", name) for name in ("best.ckpt", "last.ckpt"))
COLUMNS = ("epoch", "step", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr", "seconds")
MEASURED = re.compile(rf"(train|val|test)/\w{{1,{LONGEST_NAME}}}")
OF_THE_END = ("signal", "reason", "traceback")  # which a run that goes on has not reached yet
SILENCE = 1_200  # seconds after which a run of another machine counts as interrupted: four checkpoints
NUMBER, TEXT = int | float, str | None
# What others rely on in result.json; what a stranger's has of another type is left out.
RESULT_TYPES: dict[str, Any] = {
    **dict.fromkeys(("status", "label", "started", "fingerprint", "device", "precision", "host"), str),
    **dict.fromkeys(("error", "traceback", "reason", "git_commit"), TEXT),
    **dict.fromkeys(("seed", "parameters", "epochs", "steps", "steps_per_epoch", "checkpoint_step"), NUMBER),
    **dict.fromkeys(("seconds", "seconds_per_epoch", "samples_per_second", "updated"), NUMBER),
    **dict.fromkeys(("test/loss", "test/accuracy"), NUMBER),
    **dict.fromkeys(("overrides", "resumed"), list),
    **dict.fromkeys(("logger", "logger_run"), str),
    "images": {"train": NUMBER, "val": NUMBER, "test": NUMBER},
    "versions": {"cnn_lab": str},
    "dataset": {"name": str},
    "best": {"val/accuracy": NUMBER},
    "best_by": {"metric": str, "mode": str},
}


class Run:
    """What a run leaves behind, written so that a killed run has all that it had finished.

    Attributes:
        path: the run's directory. One that was interrupted goes on with its rows and its time.
        writes: whether this process writes; of several that train together, only the first does.
        rows: the finished epochs, as in metrics.csv.
        result: what result.json holds.
    """

    def __init__(self, path: Path, **result: Any) -> None:
        self.path = path
        self.writes = not is_helper_process()
        earlier = read_result(path)
        self.rows = read_rows(path)
        self.result: dict[str, Any] = {
            "status": "running",
            "host": platform.node(),
            "process": os.getpid(),
            "error": None,
            **result,
            "started": datetime.now().astimezone().isoformat(timespec="microseconds"),
            "versions": describe_versions(),
            **describe_git(),
        }
        if earlier:
            kept = {name: value for name, value in earlier.items() if name not in OF_THE_END}
            self.result = {**kept, **self.result, "started": earlier.get("started", "")}
        self._clock_start = time.perf_counter() - earlier.get("seconds", 0.0)

    def keep_precision(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The trainer's settings, where a run that goes on keeps the precision that it began with."""
        chosen = settings.get("precision", "auto")
        return {**settings, "precision": self.result.get("precision", chosen) if chosen == "auto" else chosen}

    def keep_epochs(self, count: int) -> None:
        """Drop the rows after the first `count` epochs, which no checkpoint holds."""
        self.rows = self.rows[:count]
        self._write_rows()

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.yaml."""
        if not self.writes:
            return
        write_file(self.path / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))

    def needs_trust(self, to_train: bool = False) -> bool:
        """Whether using it, or training it further, takes the user's word that it can be trusted."""
        try:
            check_trusted(read_yaml(self.path / "config.yaml") | ({} if to_train else OF_TRAINING))
        except ConfigError:
            return True
        return False

    def update(self, **values: Any) -> None:
        """Set values of result.json and write it, with the seconds until now, as a sign of life."""
        self.result.update(values, seconds=round(time.perf_counter() - self._clock_start, 2))
        self.result["updated"] = time.time()
        if not self.writes:
            return
        write_file(self.path / "result.json", format_json(self.result) + "\n")

    def add_epoch(self, row: Mapping[str, Any]) -> None:
        """Add a finished epoch to metrics.csv, what not every run measures behind the rest."""
        self.rows.append({name: row.get(name) for name in dict.fromkeys((*COLUMNS, *row))})
        self._write_rows()

    def _write_rows(self) -> None:
        if not self.writes:
            return
        text = io.StringIO(newline="")
        if self.rows:
            writer = csv.DictWriter(text, max(self.rows, key=len))  # not every epoch need be measured
            writer.writeheader()
            writer.writerows(self.rows)
        write_file(self.path / "metrics.csv", text.getvalue())


def read_result(path: Path) -> dict[str, Any]:
    """What a run's result.json holds; empty where it cannot be read."""
    try:
        result = json.loads(read_text(path / "result.json"))
        return {
            str(name): _make_printable(value)
            for name, value in dict(result).items()
            if _has_type(value, _find_type(name)) or (name == "best" and value is None)
        }
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def read_score(result: Mapping[str, Any]) -> float | None:
    """The value that chose the best checkpoint, the larger the better; None where nothing was validated."""
    by = result.get("best_by", {"metric": "val/accuracy", "mode": "max"})
    value = (result.get("best") or {}).get(by["metric"])
    return -value if value is not None and by["mode"] == "min" else value


def _find_type(name: Any) -> Any:
    return RESULT_TYPES.get(name, NUMBER if MEASURED.fullmatch(str(name)) else object)


def read_start(result: Mapping[str, Any]) -> float:
    """When a run was started, in seconds since 1970; 0 where that is not known."""
    try:
        return datetime.fromisoformat(result.get("started", "")).timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        return 0.0


def _has_type(value: Any, kind: Any) -> bool:
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(
            _has_type(value.get(name), kind.get(name, _find_type(name))) for name in (*kind, *value)
        )
    if isinstance(value, int | float):
        return isinstance(value, kind) and abs(value) < 1e300  # finite, so that means can be taken
    return isinstance(value, kind)


def _make_printable(value: Any) -> Any:
    if isinstance(value, dict):
        return {printable(name): _make_printable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_make_printable(item) for item in value]
    return printable(value) if isinstance(value, str) else value


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The finished epochs of a run's metrics.csv, as numbers; None where nothing was measured."""
    try:
        reader = csv.DictReader(io.StringIO(read_text(path / "metrics.csv")))
        found = reader.fieldnames or COLUMNS
        names = [name for name in COLUMNS if name in found]
        names += [name for name in found if name not in COLUMNS and MEASURED.fullmatch(name)]
        return [{name: _read_number(name, row[name]) for name in names} for row in reader]
    except (OSError, ValueError, TypeError, KeyError, csv.Error):
        return []


def _read_number(name: str, text: str) -> float | None:
    return int(text) if name in ("epoch", "step") else float(text) if text else None


def read_status(path: Path, result: Mapping[str, Any]) -> str:
    """A run's status; `interrupted` where it is said to be running and is not.

    Locks are known on their own machine only; a run of another one shows signs of life instead.
    """
    status = str(result.get("status", "unknown"))
    if status != "running":
        return status
    if result.get("host", platform.node()) == platform.node():
        return status if is_alive(path) else "interrupted"
    return status if time.time() - result.get("updated", 0) < SILENCE else "interrupted"


def describe_versions() -> dict[str, str]:
    """The versions of what computes the numbers."""
    names = ("torch", "lightning")
    return {
        "cnn_lab": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
    }


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
