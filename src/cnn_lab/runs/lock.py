"""Who is using a directory: a lock that ends with its process, however that ends."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from cnn_lab.errors import CnnLabError
from cnn_lab.settings.environment import is_helper_process

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
        lock.release()  # the file stays: two could lock two of that name, of which one was removed


def is_alive(path: Path) -> bool:
    """Whether a process of this machine holds this directory."""
    try:
        with (path / LOCK).open("rb") as file:  # for reading only, as on a disk that cannot be written
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
