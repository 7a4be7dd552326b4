"""How a run ends, and in which words: completed, interrupted, pruned or failed."""

import contextlib
import errno
import logging
import os
import signal
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cnn_lab.errors import CnnLabError, RunInterrupted, RunPruned, list_own_lines
from cnn_lab.files import WriteError
from cnn_lab.pictures.curves import draw_curves
from cnn_lab.runs.lock import hold
from cnn_lab.runs.record import LAST_CHECKPOINT, Run
from cnn_lab.terminal.logs import drop_logs, write_logs
from cnn_lab.terminal.screen import Screen, shorten, type_command, type_override

log = logging.getLogger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # what a disk answers that takes no more


@contextlib.contextmanager
def recording(run: Run, config: Mapping[str, Any], screen: Screen) -> Iterator[None]:
    """Hold the run's directory, and keep result.json true from the first moment to the last.

    Raises:
        SystemExit: with 128 and the signal's number, as shells have it, for a run that was interrupted.
        CnnLabError: for a run that failed; and when another process holds the directory.
    """
    with hold(run.path):
        write_logs(run.path / "train.log") if run.writes else drop_logs()
        run.write_config(config)
        run.update()
        ending: dict[str, Any] = {"status": "completed"}
        try:
            yield
        except (KeyboardInterrupt, SystemExit, RunInterrupted) as error:  # Lightning exits on Ctrl+C
            number = error.signal if isinstance(error, RunInterrupted) else signal.SIGINT
            ending = {"status": "interrupted", "signal": signal.Signals(number).name}
            screen.show(f"\n{_describe_interruption(run)}", style="bold yellow")
            raise SystemExit(128 + number) from None
        except RunPruned as error:
            ending = {"status": "pruned", "reason": str(error)}
            raise
        except Exception as error:
            details = traceback.format_exc()
            name = "" if isinstance(error, CnnLabError) else f"{type(error).__name__}: "
            ending = {"status": "failed", "error": f"{name}{error}", "traceback": details}
            log.error("the run failed\n%s", details)
            if failure := _find_write_failure(run, error):
                raise CnnLabError(_describe_write_failure(run, failure)) from error
            if isinstance(error, CnnLabError) or config["trainer"].get("detect_anomaly"):
                raise
            raise CnnLabError(_describe_failure(run, error)) from error
        finally:
            _record_end(run, ending)


def _record_end(run: Run, ending: Mapping[str, Any]) -> None:
    try:
        run.update(**ending)
        if run.rows and run.writes:
            name = run.result["dataset"]["name"]
            draw_curves(
                run.rows, run.path / "curves.png", f"{run.result['label']} on {name}", run.result.get("best")
            )
    except WriteError:
        log.exception("the record of the run's end cannot be written")
        if ending["status"] == "completed":
            raise


def _describe_interruption(run: Run) -> str:
    if not (run.path / LAST_CHECKPOINT).exists():
        return f"Interrupted before the first checkpoint, so it cannot continue. See {shorten(run.path)}"
    return f"Interrupted. Continue with: {_resume_command(run)}"


def _describe_failure(run: Run, error: Exception) -> str:
    reason = f"{type(error).__name__}: {error}{list_own_lines(error)}"
    return f"the run failed: {reason}\nIts log: {shorten(run.path / 'train.log')}"


def _find_write_failure(run: Run, error: Exception) -> WriteError | None:
    """What became of a file of the run, if that is what failed; loggers write their files themselves."""
    if isinstance(error, WriteError):
        return error
    if not isinstance(error, OSError):
        return None
    if not isinstance(error.filename, str | bytes):
        return WriteError(run.path, error) if error.errno in FULL else None
    path = Path(os.fsdecode(error.filename))
    return WriteError(path, error) if error.errno in FULL or path.is_relative_to(run.path) else None


def _describe_write_failure(run: Run, failure: WriteError) -> str:
    has_checkpoint = (run.path / LAST_CHECKPOINT).is_file()
    then = f"continue with: {_resume_command(run)}" if has_checkpoint else "start it again"
    return f"{failure}. When this is solved, {then}"


def _resume_command(run: Run) -> str:
    trust = " trust=true" if run.needs_trust(to_train=True) else ""
    return f"{type_command('train')} {type_override('resume', run.path)}{trust}"
