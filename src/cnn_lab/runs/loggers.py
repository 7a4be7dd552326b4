"""A logger besides TensorBoard's: made for a run, and told how the run ended."""

import contextlib
import importlib.util
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger

from cnn_lab.assembly import make
from cnn_lab.errors import ConfigError
from cnn_lab.runs.record import Run
from cnn_lab.settings.extras import install_hint

NEEDED = {"MLFlowLogger": "mlflow", "WandbLogger": "wandb"}  # packages, and the extras that bring them
log = logging.getLogger(__name__)

STATUSES = {"completed": "FINISHED", "failed": "FAILED"}  # in MLflow's words; else it was killed


def make_loggers(node: Mapping[str, Any], run: Run, output_dir: Path) -> list[Logger]:
    """The logger that `node` configures, if it does; a resumed run continues what it has logged there.

    Without a `tracking_uri` MLflow's store is `mlruns` in `output_dir`.

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
    is_same = run.result.get("logger", kind) == kind
    begun = run.result.get("logger_run") if is_same else None
    label = run.result["label"]
    supplied: dict[str, Any] = {}
    if kind == "CSVLogger":
        supplied = {"save_dir": run.path}
    elif kind == "WandbLogger":
        supplied = {"name": label, "id": begun, "save_dir": run.path}
    elif kind == "MLFlowLogger":
        store = node.get("tracking_uri") or f"file:{output_dir}/mlruns"
        if store.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # which newer ones ask for
        is_there = begun and _has_run(store, begun)
        supplied = {"tracking_uri": store, "run_name": label, "run_id": begun if is_there else None}
    os.environ.setdefault("WANDB_SILENT", "true")
    return [make("logger", node, Logger, **supplied)]


def _has_run(store: str, name: str) -> bool:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        MlflowClient(store).get_run(name)
    except MlflowException:  # the run was moved without the store
        return False
    return True


@contextlib.contextmanager
def ending(loggers: list[Logger], run: Run) -> Iterator[None]:
    """Tell the loggers how the run ended, as its record says; Lightning knows success and failure only."""
    try:
        yield
    finally:
        status = run.result["status"]
        for logger in loggers if "logger_run" in run.result else ():
            try:
                if isinstance(logger, MLFlowLogger):
                    logger.experiment.set_terminated(logger.run_id, STATUSES.get(status, "KILLED"))
                elif isinstance(logger, WandbLogger):
                    logger.experiment.finish(exit_code=int(status != "completed"))
            except Exception:  # a server that went away, whose message would hide what ended the run
                log.exception("the logger was not told how the run ended")
