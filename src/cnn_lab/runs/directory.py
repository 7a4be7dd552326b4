"""A run's directory: how it is named, made and found again.

Nothing here imports torch.
"""

import contextlib
import itertools
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from cnn_lab.errors import CnnLabError, ConfigError
from cnn_lab.runs.lock import is_helper_process
from cnn_lab.runs.record import read_result, read_rows
from cnn_lab.runs.trust import check_inside
from cnn_lab.settings.config import GROUPS, PROJECT

STAMP = "%Y-%m-%d_%H-%M-%S"
LABEL_LENGTH = 80
RUN_DIR_VARIABLE = "CNN_LAB_RUN_DIR"
SWEEP_RECORD = "sweep.yaml"  # in the directory of a sweep, and of nothing else
# These change no network, only where it goes and what is shown of it.
NO_SETTINGS = ("label", "output_dir", "resume", "sweep", "checkpoint_minutes", "pictures")


@contextlib.contextmanager
def new_run_directory(parent: Path, name: str) -> Iterator[Path]:
    """Make a directory for a run, and remove it again if it is empty, or its settings make no run after all.

    One with a finished epoch stays.

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
