"""A logger besides TensorBoard's: made for a run, and told how the run ended."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger

from cnn_lab.assembly import make
from cnn_lab.errors import ConfigError
from cnn_lab.runs.record import Run
from cnn_lab.settings.extras import install_hint

NEEDED = {"MLFlowLogger": "mlflow", "WandbLogger": "wandb"}  # packages, and the extras that bring them
STATUSES = {"completed": "FINISHED", "failed": "FAILED"}  # in MLflow's words; else it was killed


def make_loggers(node: Mapping[str, Any], run: Run) -> list[Logger]:
    """The logger that `node` configures, if it does; of a run that goes on the one that it began with.

    Raises:
        ConfigError: when its package is not installed, or it refuses its settings.
    """
    if not node:
        return []
    kind = node["_target_"].rpartition(".")[2]
    needed = NEEDED.get(kind)
    if needed and not importlib.util.find_spec(needed):
        raise ConfigError(
            f"logger={needed} needs the package {needed}, which is not installed; {install_hint(needed)}"
        )
    begun, label = run.result.get("logger_run"), run.result["label"]
    supplied = {
        "CSVLogger": {"save_dir": run.path},
        "MLFlowLogger": {"run_name": label, "run_id": begun},
        "WandbLogger": {"name": label, "id": begun, "save_dir": run.path},
    }
    if str(node.get("tracking_uri")).startswith("file:"):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # which newer ones ask for
    os.environ.setdefault("WANDB_SILENT", "true")
    return [make("logger", node, Logger, **supplied.get(kind, {}))]


@contextlib.contextmanager
def ending(loggers: list[Logger], run: Run) -> Iterator[None]:
    """Tell the loggers how the run ended, as its record says; Lightning knows success and failure only."""
    try:
        yield
    finally:
        status = run.result["status"]
        for logger in loggers if "logger_run" in run.result else ():
            if isinstance(logger, MLFlowLogger):
                logger.experiment.set_terminated(logger.run_id, STATUSES.get(status, "KILLED"))
            elif isinstance(logger, WandbLogger):
                logger.experiment.finish(exit_code=int(status != "completed"))
