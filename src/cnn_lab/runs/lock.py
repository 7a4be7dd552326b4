"""Who is using a directory: a lock that ends with its process, however that ends."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from cnn_lab.errors import CnnLabError

LOCK = ".lock"


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


def is_alive(path: Path) -> bool:
    """Whether a process of this machine holds this directory."""
    if not (path / LOCK).exists():
        return False
    try:
        with FileLock(path / LOCK, timeout=0):
            return False
    except (Timeout, OSError):
        return True
