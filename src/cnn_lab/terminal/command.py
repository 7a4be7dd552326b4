"""What the scripts share: every failure becomes one message on standard error and an exit code."""

import os
import sys
import traceback
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from cnn_lab.errors import CnnLabError, ConfigError, RunInterrupted, printable
from cnn_lab.settings.environment import is_helper_process, settle_environment
from cnn_lab.settings.typed import explain, is_about_typing
from cnn_lab.terminal.logs import hold_logs
from cnn_lab.terminal.waiting import hush

FULL_ERROR = "HYDRA_FULL_ERROR"  # Hydra's own variable for a traceback
TRACEBACK_ASKED_FOR = os.environ.get(FULL_ERROR) == "1"


def add_run(parser: ArgumentParser, name: str = "run") -> None:
    """Let a script take a trained run, as `name`, and `--trust`."""
    is_option = {} if name.startswith("-") else {"nargs": "?"}
    text = "a run's folder or a checkpoint (default: the latest run)"
    parser.add_argument(name, type=Path, help=text, **is_option)
    add_trust(parser)


def add_trust(parser: ArgumentParser) -> None:
    """Let a script take `--trust`."""
    text = "I trust this run and the code it names"
    parser.add_argument("--trust", action="store_true", help=text)


def run_command(main: Callable[[], None]) -> None:
    """Run a script's main function and exit: 0, 1 for what failed, 2 for a mistake in what was typed."""
    hold_logs()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # where ± cannot be printed, it is no reason to fail
    os.environ[FULL_ERROR] = "1"  # so that Hydra raises its errors instead of printing them
    try:
        settle_environment()
        main()
    except CnnLabError as error:
        fail(error)
    except Exception as error:
        if not is_about_typing(error):
            raise
        explained = ConfigError(explain(error))
        explained.__cause__ = error
        fail(explained)
    except KeyboardInterrupt:
        sys.exit(130)
    except RunInterrupted as error:  # before the run had begun
        sys.exit(128 + error.signal)
    finally:
        hush()


def show_json(value: Any) -> None:
    """Print all numbers of a result as JSON, and nothing else."""
    from cnn_lab.terminal.screen import format_json

    hush()
    sys.stdout.write(f"{format_json(value)}\n")


def fail(error: CnnLabError) -> NoReturn:
    """Print an error's message and exit with its code.

    Of several processes only the first one reports a mistake in what was typed.
    """
    hush()
    if isinstance(error, ConfigError) and is_helper_process():
        sys.exit(error.exit_code)
    if TRACEBACK_ASKED_FOR:
        traceback.print_exception(error)
    sys.stderr.write(f"Error: {printable(str(error))}\n")
    sys.exit(error.exit_code)
