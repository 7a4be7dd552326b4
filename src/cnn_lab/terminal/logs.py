"""Where log lines and warnings go: into the run's train.log, never onto the screen."""

import logging
import logging.handlers
import threading
import warnings
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def hold_logs() -> None:
    """Keep log lines, warnings and failures of threads in memory until `write_logs` says where they go."""
    _set_root_handler(logging.handlers.MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1))
    logging.captureWarnings(capture=True)
    warnings.simplefilter("default")
    threading.excepthook = _log_thread_failure


def _log_thread_failure(failure: threading.ExceptHookArgs) -> None:
    """When TensorBoard's writing thread fails, with the disk, its next call fails in the main thread too."""
    logging.getLogger(__name__).error("a thread failed", exc_info=failure.exc_value)


def write_logs(path: Path) -> None:
    """Write what was held and all that follows to the end of the file at `path`."""
    logging.raiseExceptions = False  # a log that cannot be written, on a full disk, prints nothing
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(FORMAT))
    for held in logging.getLogger().handlers:
        if isinstance(held, logging.handlers.MemoryHandler):
            held.setTarget(handler)
            held.flush()
    _set_root_handler(handler)


def drop_logs() -> None:
    """Keep nothing of what was held or follows: another process of the run writes the log."""
    _set_root_handler(logging.NullHandler())


def claim_lightning_logs() -> None:
    """Take away the handlers that Lightning adds when it is imported, which print, and its hint at srun."""
    warnings.filterwarnings("ignore", "The `srun` command is available")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def _set_root_handler(handler: logging.Handler) -> None:
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
