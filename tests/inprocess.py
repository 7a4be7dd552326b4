"""Runs a script in this process: all that a user's command does, without waiting for imports."""

import contextlib
import io
import os
import runpy
import sys
import warnings
from pathlib import Path
from typing import Any

from cnn_lab.settings.config import PROJECT


def stamp(folder: Path) -> dict[Path, tuple[int, int]]:
    """Each file's time and size, but for the locks, which asking for touches."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def run_here(
    script: str,
    *arguments: str,
    cwd: Path | None = None,
    variables: dict[str, str] | None = None,
    around: Any = (),
) -> tuple[int, str]:
    """Run a script; returns its exit code and what it printed.

    Args:
        variables: of the environment, added for this command.
        around: context managers that hold while it runs.
    """
    environment, argv, here = dict(os.environ), sys.argv, Path.cwd()
    out, code = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True), 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(out))
        for manager in around:
            stack.enter_context(manager)
        # A command sets filters, which are its process's own.
        stack.enter_context(warnings.catch_warnings(record=True))
        sys.argv = [str(PROJECT / "scripts" / f"{script}.py"), *arguments]
        os.environ.update(variables or {})
        os.chdir(cwd or here)
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            os.chdir(here)
            sys.argv = argv
            os.environ.clear()
            os.environ.update(environment)
    return code, out.buffer.getvalue().decode()
