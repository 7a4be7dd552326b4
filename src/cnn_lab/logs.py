"""Where log lines and warnings go: into the run's train.log, never onto the screen."""

import logging
import logging.handlers
import warnings
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def hold_logs() -> None:
    """Keep every log line and warning in memory until `write_logs` says where they go."""
    _set_root_handler(logging.handlers.MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1))
    logging.captureWarnings(capture=True)
    warnings.simplefilter("default")


def write_logs(path: Path) -> None:
    """Write what was held and all that follows to the end of the file at `path`."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(FORMAT))
    for held in logging.getLogger().handlers:
        if isinstance(held, logging.handlers.MemoryHandler):
            held.setTarget(handler)
            held.flush()
    _set_root_handler(handler)


def claim_lightning_logs() -> None:
    """Take away the handlers that Lightning adds when it is imported, which print."""
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
