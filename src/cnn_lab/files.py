"""The one writer: a file is there whole, the old one or the new one, whatever happens while it is written."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from cnn_lab.errors import CnnLabError

WRONG_PATHS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)


class WriteError(CnnLabError):
    """A file or folder cannot be written; what was there is as it was."""

    def __init__(self, path: Path, cause: OSError) -> None:
        reason = "Not a directory" if isinstance(cause, FileExistsError) else cause.strerror or cause
        super().__init__(f"{path} cannot be written: {reason}")
        self.exit_code = 2 if isinstance(cause, WRONG_PATHS) else 1


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to: it takes its place if the block ends well, and else is removed.

    Raises:
        WriteError: when it cannot be written.
    """
    aside = path.with_name(f".{os.getpid()}-new{path.suffix}")
    try:
        aside.touch()  # before the work on what is to be written
        yield aside
        aside.replace(path)
    except CnnLabError:
        raise
    except Exception as error:
        cause = _find_os_error(error)
        if cause is None:
            raise
        raise WriteError(path, cause) from error
    finally:
        with contextlib.suppress(OSError):  # it has moved, or was never there
            aside.unlink()


def write_file(path: Path, content: str | bytes) -> None:
    """Replace the file at `path`, text in UTF-8.

    Raises:
        WriteError: when it cannot be written.
    """
    with replacing(path) as aside:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless it is there.

    Raises:
        WriteError: when it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(path, error) from error


@contextlib.contextmanager
def advising(option: str) -> Iterator[None]:
    """Say in the message of a `WriteError` which option names another place."""
    try:
        yield
    except WriteError as error:
        error.args = (f"{error}; choose another place with {option}",)
        raise


def _find_os_error(error: BaseException | None) -> OSError | None:
    """The failure behind an error of a library that hides it."""
    while error and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
