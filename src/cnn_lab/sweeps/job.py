"""A job: one run of a sweep, in whichever process and on whichever machine its launcher has started it.

Importing this does not import torch.
"""

import atexit
import contextlib
import functools
import gc
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from cnn_lab.errors import CnnLabError, RunPruned
from cnn_lab.runs.lock import is_alive
from cnn_lab.runs.record import Run, read_result, read_status
from cnn_lab.settings.config import check_config, list_typed
from cnn_lab.settings.environment import settle_environment
from cnn_lab.settings.meaning import fingerprint
from cnn_lab.sweeps.launchers import take_gpu
from cnn_lab.terminal.logs import hold_logs

STOP = ".stop"  # in the sweep's directory: a run has failed, and no other is to start


@dataclass
class Job:
    """A run to come; `error` says why its settings are refused, if they are."""

    overrides: list[str]
    label: str
    fingerprint: str
    config: dict[str, Any]
    error: str = ""
    path: Path = Path()
    done: bool = False

    def result(self) -> dict[str, Any]:
        """What the run has recorded, with its true status; it may be "not started"."""
        result = read_result(self.path)
        return {**result, "status": read_status(self.path, result)} if result else {"status": "not started"}


def run_job(config: DictConfig) -> None:
    """Train in the directory that the sweep chose. A failure is recorded there and goes no further."""
    hydra = HydraConfig.get()
    run_dir = Path(hydra.runtime.output_dir)
    overrides = list_typed(hydra.overrides.task)
    if (run_dir.parent / STOP).exists():
        with contextlib.suppress(OSError):  # it is not empty
            run_dir.rmdir()
        return
    hold_logs()
    settings = check_config(config)
    try:
        settle_environment()  # of a process that a cluster has started
        from cnn_lab.training import train

        callbacks = []
        if "pruner" in hydra.sweeper and not settings["sweep"]["repeat"]:
            from cnn_lab.sweeps.pruning import make_pruning

            callbacks = [make_pruning(hydra.sweeper, run_dir)]
        with take_gpu(settings, hydra.launcher, run_dir.parent) as taken:
            train(taken, run_dir, label_of(run_dir), overrides, callbacks, quiet=True)
    except RunPruned:
        pass
    except Exception as error:
        # What another process is training there has a record of its own.
        if not is_alive(run_dir) and read_result(run_dir).get("status") != "failed":
            details = "" if isinstance(error, CnnLabError) else traceback.format_exc()
            record_failure(run_dir, overrides, settings, str(error), details)
        if settings["sweep"]["fail_fast"]:
            (run_dir.parent / STOP).touch()
    gc.collect()  # a failed run's traceback and Lightning's cycles hold its network and its device memory
    _set_aside()


@functools.cache
def _set_aside() -> None:
    """Keep what a first run has imported out of later collections, which would take as long as a short run.

    At the end it comes back: objects that are still set aside then are reported as leaks by some extensions.
    """
    gc.freeze()
    atexit.register(gc.unfreeze)


def record_failure(
    run_dir: Path, overrides: Sequence[str], settings: Mapping[str, Any], error: str, details: str = ""
) -> None:
    """Leave the record of a run that failed before it had begun."""
    run_dir.mkdir(parents=True, exist_ok=True)
    run = Run(run_dir, label=label_of(run_dir), overrides=list(overrides), fingerprint=fingerprint(settings))
    run.write_config(settings)
    run.update(status="failed", error=error, traceback=details)


def label_of(run_dir: Path) -> str:
    """A run's label, from the name of its directory in a sweep."""
    return run_dir.name.partition("-")[2]
