"""A run's directory: how it is named, made, written as the run goes, found again and read.

Nothing here imports torch.
"""

import contextlib
import csv
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from cnn_lab.errors import CnnLabError, ConfigError
from cnn_lab.runs.trust import check_inside, printable, read_text
from cnn_lab.settings.config import GROUPS, PROJECT

STAMP = "%Y-%m-%d_%H-%M-%S"
LABEL_LENGTH = 80
RUN_DIR_VARIABLE = "CNN_LAB_RUN_DIR"
LOCK = ".lock"
SWEEP_RECORD = "sweep.yaml"  # in the directory of a sweep, and of nothing else
BEST_CHECKPOINT, LAST_CHECKPOINT = (Path("checkpoints", name) for name in ("best.ckpt", "last.ckpt"))
# These change no network, only where it goes and what is shown of it.
NO_SETTINGS = ("label", "output_dir", "resume", "sweep", "checkpoint_minutes", "pictures")
COLUMNS = ("epoch", "step", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr", "seconds")
ARTICLE_COLUMNS = ("test/loss", "test/accuracy")
NUMBER, TEXT = int | float, str | None
# What others rely on in result.json; what a stranger's has of another type is left out.
RESULT_TYPES: dict[str, Any] = {
    **dict.fromkeys(("status", "label", "started", "fingerprint", "device", "precision"), str),
    **dict.fromkeys(("error", "traceback", "reason", "git_commit"), TEXT),
    **dict.fromkeys(("seed", "parameters", "epochs", "steps", "seconds", "seconds_per_epoch"), NUMBER),
    **dict.fromkeys(("samples_per_second", "test/loss", "test/accuracy"), NUMBER),
    "overrides": list,
    "versions": {"cnn_lab": str},
    "dataset": {"name": str},
    "best": {"val/accuracy": NUMBER},
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
            "error": None,
            **result,
            "started": datetime.now().astimezone().isoformat(timespec="microseconds"),
            **describe_git(),
        }
        if earlier:
            self.result = {**earlier, **self.result, "started": earlier.get("started", "")}
        self._clock_start = time.perf_counter() - earlier.get("seconds", 0.0)

    def keep_epochs(self, count: int) -> None:
        """Drop the rows after the first `count` epochs, which no checkpoint holds."""
        self.rows = self.rows[:count]
        self._write_rows()

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.yaml."""
        if not self.writes:
            return
        replace_file(self.path / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))

    def update(self, **values: Any) -> None:
        """Set values of result.json and write it, with the seconds until now."""
        self.result.update(values, seconds=round(time.perf_counter() - self._clock_start, 2))
        if not self.writes:
            return
        replace_file(self.path / "result.json", json.dumps(self.result, indent=2) + "\n")

    def add_epoch(self, row: Mapping[str, Any]) -> None:
        """Add a finished epoch to metrics.csv."""
        columns = (*COLUMNS, *(ARTICLE_COLUMNS if "test/loss" in row else ()))
        self.rows.append({name: row.get(name) for name in columns})
        self._write_rows()

    def _write_rows(self) -> None:
        if not self.writes:
            return
        text = io.StringIO(newline="")
        if self.rows:
            writer = csv.DictWriter(text, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)
        replace_file(self.path / "metrics.csv", text.getvalue())


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Let `is_alive` know that a directory is in use until the block, or the process, ends in any way.

    Raises:
        CnnLabError: when another process holds it, or it cannot be written.
    """
    if is_helper_process():
        yield
        return
    lock = FileLock(path / LOCK, timeout=2)  # seconds, in which an `is_alive` elsewhere is over
    try:
        lock.acquire()
    except Timeout:
        raise CnnLabError(f"{path} is in use by another process: wait for it, or stop it first") from None
    except OSError as error:
        raise CnnLabError(f"the directory {path} cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()
        (path / LOCK).unlink(missing_ok=True)


def is_helper_process() -> bool:
    """Whether another process started this one to train with it, on a device of its own."""
    return int(os.environ.get("LOCAL_RANK", 0)) > 0 or int(os.environ.get("NODE_RANK", 0)) > 0


@contextlib.contextmanager
def new_run_directory(parent: Path, name: str) -> Iterator[Path]:
    """Make a directory for a run, and remove it again if it is empty, or its settings make no run after all.

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
    except ConfigError:
        shutil.rmtree(path, ignore_errors=True)
        raise
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
    return clean_label("_".join(parts)) or "default"


def clean_label(label: str) -> str:
    """A label without what has a meaning in paths, and not too long for one."""
    return re.sub(r"[^\w.+-]", "-", label)[:LABEL_LENGTH]


def find_run(path: str | Path | None = None, output_dir: Path = PROJECT / "outputs") -> tuple[Path, Path]:
    """The run directory and the checkpoint that `path`, either of them, names; None is the latest run.

    Raises:
        ConfigError: when there is none, or it is neither.
    """
    path = find_latest_run(output_dir) if path is None else Path(path)
    if not path.exists():
        raise ConfigError(f"{path} does not exist; give a run directory or a checkpoint")
    if path.is_file():
        for run_dir in (path.parent.parent, path.parent):
            if (run_dir / "result.json").is_file():
                check_inside(run_dir)
                return run_dir, path
        return path.parent, path
    if not (path / "result.json").is_file():
        raise ConfigError(f"{path} is not a run directory: it has no result.json")
    check_inside(path)
    for name in ("best.ckpt", "last.ckpt"):
        if (path / "checkpoints" / name).is_file():
            return path, path / "checkpoints" / name
    raise ConfigError(f"{path} has no checkpoint (the run's status: {read_result(path).get('status')})")


def find_latest_run(output_dir: Path) -> Path:
    """The directory of the run that was started last, of a sweep or not.

    Raises:
        ConfigError: when there is none.
    """
    files = [*output_dir.glob("runs/*/result.json"), *output_dir.glob("sweeps/*/*/result.json")]
    if not files:
        raise ConfigError(f"there is no run in {output_dir}; train one first: python scripts/train.py")
    return max(sorted(files), key=lambda file: str(read_result(file.parent).get("started", ""))).parent


def read_result(path: Path) -> dict[str, Any]:
    """What a run's result.json holds; empty where it cannot be read."""
    try:
        result = json.loads(read_text(path / "result.json"))
        return {
            str(name): _make_printable(value)
            for name, value in dict(result).items()
            if _has_type(value, RESULT_TYPES.get(name, object)) or (name == "best" and value is None)
        }
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def _has_type(value: Any, kind: Any) -> bool:
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(_has_type(value.get(name), kind[name]) for name in kind)
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
        names = [name for name in (*COLUMNS, *ARTICLE_COLUMNS) if name in (reader.fieldnames or COLUMNS)]
        return [{name: _read_number(name, row[name]) for name in names} for row in reader]
    except (OSError, ValueError, TypeError, KeyError, csv.Error):
        return []


def _read_number(name: str, text: str) -> float | None:
    return int(text) if name in ("epoch", "step") else float(text) if text else None


def read_status(path: Path, result: Mapping[str, Any]) -> str:
    """A run's status; `interrupted` where it is said to be running and its process is gone."""
    status = str(result.get("status", "unknown"))
    return "interrupted" if status == "running" and not is_alive(path) else status


def is_alive(path: Path) -> bool:
    """Whether a process of this machine holds this directory."""
    if not (path / LOCK).exists():
        return False
    try:
        with FileLock(path / LOCK, timeout=0):
            return False
    except (Timeout, OSError):
        return True


def fingerprint(config: Mapping[str, Any]) -> str:
    """The same for two checked configs exactly if they set up the same run, wherever it goes."""
    settings = {key: value for key, value in config.items() if key not in NO_SETTINGS}
    if "trainer" in settings:  # in a sweep it is one device, and which one makes no difference
        settings["trainer"] = {key: value for key, value in settings["trainer"].items() if key != "devices"}
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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


def replace_file(path: Path, text: str) -> None:
    """Write a file that readers see whole: the old one or the new one."""
    aside = path.with_name(f".{path.name}.new")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
