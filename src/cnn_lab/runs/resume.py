"""Going on with a run that was interrupted, or training one that is completed for longer.

Nothing here imports torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from cnn_lab.errors import ConfigError, count
from cnn_lab.runs.directory import find_latest_run
from cnn_lab.runs.lock import is_alive
from cnn_lab.runs.record import LAST_CHECKPOINT, read_result
from cnn_lab.runs.trust import check_inside, check_trusted, read_yaml
from cnn_lab.settings.config import check_config, flatten
from cnn_lab.settings.environment import is_helper_process, read_run_directory
from cnn_lab.settings.meaning import MEANINGS, identify, meaning_of
from cnn_lab.settings.places import DATA
from cnn_lab.settings.typed import parse
from cnn_lab.sources.download import DOWNLOADED, find_place
from cnn_lab.terminal.screen import shorten, type_command

CHANGEABLE = ("length", "hardware", "showing", "place")  # all else is what the run is
WITH_AN_END = ("cnn_lab.scheduler.cosine", "cnn_lab.scheduler.one_cycle")


def plan_resume(
    path: str,
    overrides: Sequence[str],
    output_dir: Path,
    trust: bool = False,
    logger: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], Path, str, list[str]]:
    """What `cnn_lab.training.train` needs to go on with a run: settings, directory, label, overrides.

    Args:
        path: "latest", or a run directory.
        overrides: what was typed, `resume` included.
        trust: see `check_trusted`.
        logger: the logger's settings as typed, which replace those of the run if any were typed.

    Raises:
        ConfigError: when there is no such run, another process runs it, it has no checkpoint or nothing left
            to do, its images are gone, or what was typed would make it another experiment.
    """
    run_dir = _find(path, output_dir)
    earlier = read_result(run_dir)
    stored = read_yaml(run_dir / "config.yaml")
    _renew_place(stored, _find_outputs(run_dir, output_dir))
    changes = _read_changes(overrides, flatten(stored))
    typed_logger = {key for key in changes if key.partition(".")[0] == "logger"}
    if typed_logger:
        stored["logger"] = {}
    check_trusted(stored, trust, shorten(run_dir), "trust=true")
    if typed_logger:
        stored["logger"] = dict(logger or {})
    config = OmegaConf.create(stored)
    for key in changes.keys() - typed_logger:
        OmegaConf.update(config, key, changes[key])
    settings = check_config(OmegaConf.to_container(config))  # type: ignore[arg-type]
    data = settings["data"]
    is_downloaded = data["source"]["_target_"] in DOWNLOADED
    if data.get("root") and not is_downloaded:
        find_place(data["root"])  # before anything says in the run's directory that it goes on
    elif data.get("root") and not Path(data["root"]).exists() and "data.root" not in changes:
        data["root"] = str(DATA)  # nothing is made where a run points
    _check_worth(run_dir, settings, earlier, [key for key in changes if meaning_of(key) == "length"])
    typed = [item for item in overrides if not item.startswith(("resume=", "output_dir=", "trust="))]
    return settings, run_dir, str(earlier.get("label")), [*earlier.get("overrides", []), *typed]


def _find(path: str, output_dir: Path) -> Path:
    if is_helper_process():
        path = str(read_run_directory())
    run_dir = find_latest_run(output_dir) if path == "latest" else Path(path).expanduser().absolute()
    if not (run_dir / "config.yaml").is_file():
        raise ConfigError(f"resume={path}: {run_dir} is not a run's folder: it has no config.yaml")
    check_inside(run_dir)
    if not is_helper_process() and is_alive(run_dir):
        raise ConfigError(f"resume={path}: {shorten(run_dir)} is being trained by another process")
    return run_dir


def _find_outputs(run_dir: Path, typed: Path) -> Path:
    """The output folder that a run lies in now, wherever it was trained; else the one that was typed."""
    if run_dir.parent.name == "runs":
        return run_dir.parents[1]
    return run_dir.parents[2] if run_dir.parents[1].name == "sweeps" else typed


def _renew_place(stored: dict[str, Any], outputs: Path) -> None:
    logger, earlier = stored.get("logger"), stored.get("output_dir")
    if isinstance(logger, dict):  # older runs spell out what null means
        store = str(logger.get("tracking_uri")).removeprefix("file:")
        if store.endswith("/mlruns") and f"{earlier}/mlruns".endswith(store):
            logger["tracking_uri"] = None
    stored["output_dir"] = str(outputs)


def _read_changes(overrides: Sequence[str], stored: dict[str, Any]) -> dict[str, Any]:
    """The typed settings that differ from the stored ones, by dotted key.

    Raises:
        ConfigError: for one that would make another run.
    """
    changes: dict[str, Any] = {}
    for override in parse(overrides):
        key, value = override.key_or_group, override.value()
        if key in ("resume", "output_dir", "trust") or (key in stored and stored[key] == value):
            continue
        if meaning_of(key) not in CHANGEABLE and identify({**stored, key: value}) != identify(stored):
            listed = ", ".join(name for meaning in CHANGEABLE[:3] for name in MEANINGS[meaning])
            raise ConfigError(
                f"{override.input_line} would make the run a different experiment; start a new one without "
                f"resume, or change only {listed}, data.root"
            )
        changes[key] = value
    return changes


def _check_worth(
    run_dir: Path, settings: dict[str, Any], earlier: dict[str, Any], longer: Sequence[str]
) -> None:
    """Refuse to go on where there is nothing to go on from, or nothing left to do."""
    epochs, done = settings["trainer"].get("max_epochs"), earlier.get("epochs", 0)
    if earlier.get("status") == "completed" or (longer and "ended_by" in earlier):
        _check_extension(run_dir, earlier.get("ended_by"), done, longer)
    if "trainer.max_epochs" in longer and epochs is not None and 0 < epochs <= done:
        raise ConfigError(
            f"trainer.max_epochs={epochs}: {shorten(run_dir)} already has {count(done, 'epoch')}; give more"
        )
    steps, saved = settings["trainer"].get("max_steps", -1), earlier.get("checkpoint_step", 0)
    if "trainer.max_steps" in longer and 0 < steps <= saved:
        raise ConfigError(
            f"trainer.max_steps={steps}: {shorten(run_dir)} already has {count(saved, 'step')}; give more"
        )
    if not (run_dir / LAST_CHECKPOINT).is_file():
        raise ConfigError(
            f"{shorten(run_dir)} has no checkpoint to continue from; start a new run: {type_command('train')}"
        )
    if longer and earlier.get("steps", 0) % earlier.get("steps_per_epoch", 1):
        raise ConfigError(
            f"{longer[0]} cannot change: {shorten(run_dir)} ended inside epoch {done} and would continue "
            "without the rest of its images; start a new run"
        )
    if longer and settings["scheduler"]["_target_"] in WITH_AN_END:
        schedule = settings["scheduler"]["_target_"].rpartition(".")[2]
        raise ConfigError(
            f"{longer[0]} cannot change: the schedule {schedule} was planned for the run's length"
        )


def _check_extension(run_dir: Path, ended_by: str | None, done: int, longer: Sequence[str]) -> None:
    """Refuse to train a run for longer where what ended its training still would."""
    if ended_by == "early_stopping":
        raise ConfigError(
            f"early stopping ended {shorten(run_dir)} after {count(done, 'epoch')}, and would again; "
            "start a new run with another early_stopping.patience"
        )
    limit = f"trainer.{ended_by or 'max_epochs'}"
    if limit not in longer:
        more = f"{limit}={2 * done}" if limit == "trainer.max_epochs" else f"a larger {limit}"
        raise ConfigError(
            f"{shorten(run_dir)} has nothing left to train after {count(done, 'epoch')}; "
            f"to train it for longer, add {more}, for example"
        )
