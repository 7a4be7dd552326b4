"""Going on with a run that was interrupted, or training one that is completed for longer.

Nothing here imports torch.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from cnn_lab.errors import ConfigError
from cnn_lab.runs.directory import RUN_DIR_VARIABLE, find_latest_run
from cnn_lab.runs.lock import is_alive, is_helper_process
from cnn_lab.runs.record import LAST_CHECKPOINT, read_result
from cnn_lab.runs.trust import check_inside, check_trusted, choose_root, read_yaml
from cnn_lab.settings.config import check_config, flatten
from cnn_lab.terminal.screen import shorten

# What may change when a run goes on; all else is what the run is.
CHANGEABLE = (
    "trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "trainer.accelerator", "trainer.devices",
    "trainer.num_nodes", "trainer.strategy", "trainer.log_every_n_steps", "trainer.profiler", "data.root",
    "data.num_workers", "checkpoint_minutes", "pictures",
)  # fmt: skip
LENGTHS = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time")
WITH_AN_END = ("cnn_lab.scheduler.cosine", "cnn_lab.scheduler.one_cycle")


def plan_resume(
    path: str, overrides: Sequence[str], output_dir: Path
) -> tuple[dict[str, Any], Path, str, list[str]]:
    """What `cnn_lab.training.train` needs to go on with a run: settings, directory, label, overrides.

    Args:
        path: "latest", or a run directory.
        overrides: what was typed, `resume` included.

    Raises:
        ConfigError: when there is no such run, another process runs it, it has no checkpoint or nothing left
            to do, or what was typed would make it another experiment.
    """
    if is_helper_process():
        path = os.environ[RUN_DIR_VARIABLE]
    run_dir = find_latest_run(output_dir) if path == "latest" else Path(path).expanduser().absolute()
    if not (run_dir / "config.yaml").is_file():
        raise ConfigError(f"resume={path}: {run_dir} is not a run directory: it has no config.yaml")
    check_inside(run_dir)
    if not is_helper_process() and is_alive(run_dir):
        raise ConfigError(f"resume={path}: {shorten(run_dir)} is being trained by another process")
    stored = read_yaml(run_dir / "config.yaml")
    check_trusted(stored)
    changes = _read_changes(overrides, stored)
    config = OmegaConf.create(stored)
    for key, value in changes.items():
        OmegaConf.update(config, key, value)
    settings = check_config(OmegaConf.to_container(config))  # type: ignore[arg-type]
    if settings["data"].get("root") and "data.root" not in changes:
        settings["data"]["root"] = choose_root(settings["data"]["root"])
    earlier = read_result(run_dir)
    longer = [key for key in LENGTHS if key in changes]
    if earlier.get("status") == "completed" and not longer:
        epochs = settings["trainer"].get("max_epochs")
        raise ConfigError(
            f"{shorten(run_dir)} is completed ({epochs} epochs): there is nothing to go on with; "
            f"to train it for longer, add trainer.max_epochs={2 * (epochs or 0)}, say"
        )
    epochs, done = changes.get("trainer.max_epochs", -1), earlier.get("epochs", 0)
    if epochs is not None and 0 < epochs <= done:
        raise ConfigError(
            f"trainer.max_epochs={epochs}: {shorten(run_dir)} has {done} epochs already; give more"
        )
    if not (run_dir / LAST_CHECKPOINT).is_file():
        raise ConfigError(
            f"{shorten(run_dir)} has no checkpoint to go on from; start it anew: python scripts/train.py"
        )
    if longer and settings["scheduler"]["_target_"] in WITH_AN_END:
        schedule = settings["scheduler"]["_target_"].rpartition(".")[2]
        raise ConfigError(
            f"{longer[0]} cannot change: the schedule {schedule} was laid out for the run's length"
        )
    os.environ[RUN_DIR_VARIABLE] = str(run_dir)
    typed = [override for override in overrides if not override.startswith(("resume=", "output_dir="))]
    return settings, run_dir, str(earlier.get("label")), [*earlier.get("overrides", []), *typed]


def _read_changes(overrides: Sequence[str], stored: dict[str, Any]) -> dict[str, Any]:
    """The typed settings that differ from the stored ones."""
    known = flatten(stored)
    changes = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key, value = override.key_or_group, override.value()
        if key in ("resume", "output_dir") or (key in known and known[key] == value):
            continue
        if not any(key == name or key.startswith(f"{name}.") for name in CHANGEABLE):
            raise ConfigError(
                f"{override.input_line} would make another experiment of the run; start a new one without "
                f"resume, or change only {', '.join(CHANGEABLE)}"
            )
        changes[key] = value
    return changes
