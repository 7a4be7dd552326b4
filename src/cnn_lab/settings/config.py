"""The settings of a run: their names and types, and the checks that end a run before it costs anything.

Nothing here imports torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException

from cnn_lab import datasets as mnist
from cnn_lab.errors import ConfigError, suggest
from cnn_lab.settings.ranges import check_range, check_ranges
from cnn_lab.settings.signatures import read_signature
from cnn_lab.shapes import plan_cnn

PROJECT = Path(__file__).resolve().parents[3]

# What `cnn_lab.training` passes to each group's target itself, so that no setting can.
SUPPLIED = {
    "data": {"seed"},
    "model": {"input_shape", "num_classes"},
    "optimizer": {"params"},
    "scheduler": {"optimizer", "total_steps"},
    "trainer": {
        "logger", "callbacks", "fast_dev_run", "barebones", "default_root_dir", "enable_checkpointing",
        "enable_progress_bar", "enable_model_summary", "use_distributed_sampler",
    },
}  # fmt: skip

MONITORS = ("val/loss", "val/accuracy", "train/loss", "train/accuracy")


@dataclass
class EarlyStopping:
    """Settings of early stopping; conf/train.yaml says what each means."""

    patience: int | None = None
    monitor: str = "val/loss"
    min_delta: float = 0.0


@dataclass
class Pictures:
    """Settings of `cnn_lab.pictures.network.Pictures`; conf/train.yaml says what each means."""

    enabled: bool = True
    every_n_epochs: int | None = None
    mistakes: int = 20
    embedding: int = 500


@dataclass
class Sweep:
    """Settings of a sweep, which say nothing about its runs; conf/train.yaml says what each means."""

    resume: str | None = None
    fail_fast: bool = False
    jobs_per_gpu: int = 1


@dataclass
class Config:
    """The top level of a config: a node for each group, and the keys that belong to none."""

    data: Any = MISSING
    model: Any = MISSING
    optimizer: Any = MISSING
    scheduler: Any = MISSING
    trainer: Any = MISSING
    seed: int = 0
    label: str | None = None
    label_smoothing: float = 0.0
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    checkpoint_minutes: float = 5.0
    resume: str | None = None
    pictures: Pictures = field(default_factory=Pictures)
    sweep: Sweep = field(default_factory=Sweep)
    output_dir: str = MISSING


GROUPS = tuple(SUPPLIED)

ConfigStore.instance().store("schema", node=Config)
OmegaConf.register_new_resolver("project", lambda path: str(PROJECT / path), replace=True)


def check_config(config: DictConfig | dict[str, Any]) -> dict[str, Any]:
    """Check a composed config and return it as plain data, fully resolved, with absolute paths.

    Raises:
        ConfigError: for the first key that is unknown, missing, of a wrong type or out of range, and for a
            network that cannot be built.
    """
    plain = _resolve(config)
    if not isinstance(config, DictConfig):  # a stored one may be older than a setting
        plain = {**OmegaConf.to_container(OmegaConf.structured(Config)), **plain}  # type: ignore[dict-item]
    for item in fields(Config):
        if plain.get(item.name, MISSING) == MISSING:
            raise ConfigError(f"{item.name} is missing")
    _check_names("", plain, [item.name for item in fields(Config)])
    check_ranges("", plain)
    for name, schema in (("early_stopping", EarlyStopping), ("pictures", Pictures), ("sweep", Sweep)):
        _check_names(f"{name}.", plain[name], [item.name for item in fields(schema)])
        check_ranges(name, plain[name])
    for group in GROUPS:
        _check_node(group, plain[group])
        check_ranges(group, plain[group])
    _check_training_length(plain["trainer"])
    _check_monitors(plain)
    _check_watched(plain)
    if plain["data"]["_target_"] == "cnn_lab.data.ImageDataModule":
        _check_mnist(plain)
        if plain["model"]["_target_"] == "cnn_lab.model.CNN":
            settings = {key: value for key, value in plain["model"].items() if not key.startswith("_")}
            _check_network(settings)
    plain["output_dir"] = _make_absolute(plain["output_dir"])
    if plain["data"].get("root"):
        plain["data"]["root"] = _make_absolute(plain["data"]["root"])
    return plain


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config by dotted keys; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def list_typed(overrides: ListConfig) -> list[str]:
    """Hydra's record of what was typed, as it was: what looks like an interpolation is not resolved."""
    return OmegaConf.to_container(overrides)  # type: ignore[return-value]


def describe_unknown(config: DictConfig, key: str) -> str:
    """Say that a dotted key is none of a composed config's, and which is the nearest."""
    path, _, name = key.rpartition(".")
    if not path:
        return _unknown("", name, [item.name for item in fields(Config)])
    if name in SUPPLIED.get(path, ()):
        return _supplied(path, name)
    node = OmegaConf.select(config, path)
    names = {str(item) for item in node} if isinstance(node, DictConfig) else set()
    target = node.get("_target_", "") if names else ""
    if path in GROUPS and target:
        names |= set(_allowed(path, target) or ())
    if name in names:
        return f"{key} is not in the config, but {target} takes it: type +{key}=..."
    return _unknown(f"{path}.", name, sorted(item for item in names if not item.startswith("_")), target)


def _resolve(config: DictConfig | dict[str, Any]) -> dict[str, Any]:
    if not isinstance(config, DictConfig):
        return config
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} has no value: set it with {error.full_key}=...") from None
    except InterpolationKeyError as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from None


def _make_absolute(path: str) -> str:
    """The same place from any working directory, as a run directory must record it."""
    return str(Path(path).expanduser().absolute())


def _check_names(prefix: str, node: Mapping[str, Any], known: list[str], owner: str = "") -> None:
    for name in node:
        if name not in known:
            raise ConfigError(_unknown(prefix, name, known, owner))


def _unknown(prefix: str, name: str, known: list[str], owner: str = "") -> str:
    of = f" of {owner}" if owner else ""
    there_are = f"there are {', '.join(known)}" if known else "it has none"
    return f"{prefix}{name} is no setting{of}{suggest(name, known)} ({there_are})"


def _supplied(group: str, name: str) -> str:
    return f"{group}.{name} cannot be set: the run sets it itself"


def _check_node(group: str, node: Any) -> None:
    """Check a group's node against the signature of the class or function that it names."""
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        raise ConfigError(f"{group} has no _target_: name the class that it configures")
    target = node["_target_"]
    parameters = _allowed(group, target)
    if parameters is None:
        return
    settings = {name: value for name, value in node.items() if not name.startswith("_")}
    for name in SUPPLIED[group] & set(settings):
        raise ConfigError(_supplied(group, name))
    _check_names(f"{group}.", settings, sorted(parameters), target)
    for name, parameter in parameters.items():
        if name in settings:
            value = settings[name]
            if not parameter.accepts(value) and not (group == "trainer" and value == "auto"):
                raise ConfigError(f"{group}.{name}={_show(value)} has the wrong type: it takes {parameter}")
        elif parameter.required:
            raise ConfigError(f"{group}.{name} is missing: {target} needs it")


def _allowed(group: str, target: Any) -> dict[str, Any] | None:
    try:
        parameters = read_signature(target)
    except LookupError as error:
        raise ConfigError(f"{group}._target_={target}: {error.args[0]}") from None
    if parameters is None:
        return None
    return {name: value for name, value in parameters.items() if name not in SUPPLIED[group]}


def _check_training_length(trainer: Mapping[str, Any]) -> None:
    for name in ("max_epochs", "max_steps", "devices"):
        if trainer.get(name) == 0:
            raise ConfigError(f"trainer.{name}=0 is out of range: it must be at least 1, or -1 for no limit")


def _check_monitors(config: Mapping[str, Any]) -> None:
    """Only what training and validation images say may choose anything; test images never."""
    monitors = {
        "early_stopping.monitor": config["early_stopping"]["monitor"],
        "scheduler.monitor": config["scheduler"].get("monitor", MONITORS[0]),
    }
    for key, metric in monitors.items():
        if metric not in MONITORS:
            near = suggest(metric, MONITORS)
            raise ConfigError(f"{key}={metric} is not an option{near} (there are {', '.join(MONITORS)})")


def _check_watched(config: Mapping[str, Any]) -> None:
    """What watches validation images needs some, and a schedule needs them after each epoch."""
    trainer, early_stopping = config["trainer"], config["early_stopping"]
    watching = {"scheduler.monitor": config["scheduler"].get("monitor")}
    every = trainer.get("check_val_every_n_epoch", 1)
    problem = f"trainer.check_val_every_n_epoch={_show(every)}" if every != 1 else ""
    if trainer.get("limit_val_batches") == 0:
        watching["early_stopping.monitor"] = early_stopping["patience"] and early_stopping["monitor"]
        problem = "trainer.limit_val_batches=0"
    for key, metric in watching.items():
        if problem and metric and metric.startswith("val/"):
            near = metric.replace("val", "train")
            raise ConfigError(
                f"{key}={metric} needs validation after each epoch, which {problem} leaves out; "
                f"type {key}={near}"
            )


def _check_mnist(config: Mapping[str, Any]) -> None:
    data = config["data"]
    largest = mnist.SIZES["train"] - mnist.NUM_CLASSES
    check_range("data.val_size", data.get("val_size", 0), f"[0, {largest}]")
    if not data.get("val_size", 0) and data["root"] is not None:
        watching = {
            "early_stopping.monitor": config["early_stopping"]["patience"]
            and config["early_stopping"]["monitor"],
            "scheduler.monitor": config["scheduler"].get("monitor"),
        }
        for key, metric in watching.items():
            if metric and metric.startswith("val/"):
                raise ConfigError(
                    f"{key}={metric} needs validation images, and data.val_size=0 keeps none; "
                    f"type data.val_size=5000 or {key}=train/loss"
                )


def _check_network(settings: dict[str, Any]) -> None:
    if set(settings) | SUPPLIED["model"] != set(read_signature("cnn_lab.model.CNN") or ()):
        return  # a setting was taken out with ~; the class has a default for it, and checks the rest
    try:
        plan_cnn(**settings, input_shape=mnist.IMAGE_SHAPE, num_classes=mnist.NUM_CLASSES)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith("model.") else f"model: {text}") from None


def _show(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower().replace("none", "null")
    return str(value).replace(" ", "")
