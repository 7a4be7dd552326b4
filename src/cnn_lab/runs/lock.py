"""Who is using a directory: a lock that ends with its process, however that ends."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from cnn_lab.errors import CnnLabError, ConfigError

LOCK = ".lock"
RUN_DIR_VARIABLE = "CNN_LAB_RUN_DIR"  # tells the processes that a run starts where it is
TASK_COUNTS = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


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
        lock.release()  # the file stays: two could lock two of that name, of which one was removed


def is_helper_process() -> bool:
    """Whether a run's first process started this one to train with it, on a device of its own."""
    return RUN_DIR_VARIABLE in os.environ and int(os.environ.get("LOCAL_RANK", 0)) > 0


def refuse_other_launchers() -> None:
    """Refuse to be one of several processes that somebody else has started for one run.

    Raises:
        ConfigError: saying how a run gets its processes.
    """
    counts = {name: os.environ.get(name, "1") for name in TASK_COUNTS}
    name = next((name for name, count in counts.items() if count != "1"), None)
    if name and not is_helper_process():
        raise ConfigError(
            f"{counts[name]} processes were started ({name}), and each would be a run of its own: start one, "
            "without torchrun, srun or mpirun; it starts the others with trainer.devices=2, say"
        )


def is_alive(path: Path) -> bool:
    """Whether a process of this machine holds this directory."""
    if not (path / LOCK).exists():
        return False
    try:
        with FileLock(path / LOCK, timeout=0):
            return False
    except (Timeout, OSError):
        return True
