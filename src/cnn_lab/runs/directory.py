"""A run's directory: how it is named, made and found again.

Nothing here imports torch.
"""

import contextlib
import itertools
import math
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from cnn_lab.errors import CnnLabError, ConfigError
from cnn_lab.runs.record import (
    BEST_CHECKPOINT,
    LAST_CHECKPOINT,
    read_result,
    read_rows,
    read_score,
    read_start,
)
from cnn_lab.runs.trust import check_inside
from cnn_lab.settings.config import GROUPS
from cnn_lab.settings.environment import is_helper_process, read_run_directory
from cnn_lab.settings.meaning import meaning_of
from cnn_lab.settings.places import OUTPUTS
from cnn_lab.terminal.screen import type_command

STAMP = "%Y-%m-%d_%H-%M-%S"
LABEL_LENGTH = 80
SWEEP_RECORD = "sweep.yaml"  # in the directory of a sweep, and of nothing else


@contextlib.contextmanager
def new_run_directory(parent: Path, name: str) -> Iterator[Path]:
    """Make a directory for a run, and remove it again if it is empty, or its settings make no run after all.

    One with a finished epoch stays.

    A helper process gets the one that the process that started it has made.

    Raises:
        CnnLabError: when it cannot be made.
    """
    if is_helper_process():
        yield read_run_directory()
        return
    path = make_directory(parent, name)
    try:
        yield path
    except ConfigError:
        if not read_rows(path):
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
        if key.endswith("._target_"):
            key, value = key.removesuffix("._target_"), value.rpartition(".")[2]
        if override == "model=own" or meaning_of(key) in ("place", "hardware") or key.startswith("hydra"):
            continue
        name = key if key in GROUPS else key.rpartition(".")[2]
        values = re.findall(r"[^\W_][\w.+-]*|-[\d.]+", value)
        parts.append(values if key == "experiment" else [name, *values])
    for part in reversed(
        parts
    ):  # values tell runs apart, so names are shortened first, and the first ones last
        if len(_join(parts)) > LABEL_LENGTH and len(part) > 1:
            part[0] = "".join(word[:1] for word in part[0].split("_"))
    return clean_label(_join(parts)) or "default"


def _join(parts: Sequence[Sequence[str]]) -> str:
    return "_".join("-".join(part) for part in parts)


def clean_label(label: str) -> str:
    """A label without what has a meaning in paths, and not too long for one."""
    return _cut_middle(re.sub(r"[^\w.+-]", "-", label), LABEL_LENGTH)


def _cut_middle(text: str, length: int) -> str:
    """The beginning and the end of a text that is too long: names begin, and values end it."""
    half = length // 2
    return text if len(text) <= length else text[:half] + text[half - length :]


def find_run(path: str | Path | None = None) -> tuple[Path, Path]:
    """The run directory, and the checkpoint, that somebody means.

    Args:
        path: a checkpoint, a run's directory, a sweep's, which means its best completed run, or the output
            folder of several, which means the latest of them with a checkpoint; None for the project's.

    Raises:
        ConfigError: when there is none.
    """
    is_typed = path is not None
    path = Path(path).expanduser() if is_typed else OUTPUTS
    if is_typed and path.is_file():
        return _find_home(path), path
    if not path.exists() and path != OUTPUTS:
        raise ConfigError(f"{path} does not exist; give a run's folder or a checkpoint")
    if (path / "runs").is_dir() or (path / "sweeps").is_dir() or path == OUTPUTS:
        path = find_latest_run(path, with_checkpoint=True)
        path = path.parent if (path.parent / SWEEP_RECORD).is_file() else path
    if (path / SWEEP_RECORD).is_file():
        path = _find_best_run(path)
    if not (path / "result.json").is_file():
        raise ConfigError(f"{path} is not a run's folder: it has no result.json")
    check_inside(path)
    for name in (BEST_CHECKPOINT, LAST_CHECKPOINT):
        if (path / name).is_file():
            return path, path / name
    raise ConfigError(f"{path} has no checkpoint (the run's status: {read_result(path).get('status')})")


def find_latest_run(output_dir: Path, with_checkpoint: bool = False) -> Path:
    """The directory of the run that was started last, of a sweep or not.

    Raises:
        ConfigError: when there is none.
    """
    files = [*output_dir.glob("runs/*/result.json"), *output_dir.glob("sweeps/*/*/result.json")]
    runs = [file.parent for file in files if not with_checkpoint or (file.parent / LAST_CHECKPOINT).is_file()]
    if not runs:
        raise ConfigError(f"{output_dir} contains no run; train one first: {type_command('train')}")
    return max(sorted(runs), key=lambda run: read_start(read_result(run)))


def _find_home(checkpoint: Path) -> Path:
    """The run directory that a checkpoint lies in, or else its folder."""
    for run_dir in (checkpoint.parent.parent, checkpoint.parent):
        if (run_dir / "result.json").is_file():
            check_inside(run_dir)
            return run_dir
    return checkpoint.parent


def _find_best_run(sweep: Path) -> Path:
    """The completed run of a sweep that was best on validation images, where there were some."""
    results = {file.parent: read_result(file.parent) for file in sweep.glob("*/result.json")}
    completed = [run for run, result in results.items() if result.get("status") == "completed"]
    if not completed:
        raise ConfigError(f"the sweep {sweep} has no completed run; give one of its runs")
    scores = {run: read_score(results[run]) for run in sorted(completed)}
    return max(scores, key=lambda run: -math.inf if scores[run] is None else scores[run])
