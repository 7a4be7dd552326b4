"""The settings of a run: their names and types, and the checks that end a run before it costs anything.

Nothing here imports torch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException

from cnn_lab.errors import ConfigError, suggest
from cnn_lab.settings.data import check_data, complete_data
from cnn_lab.settings.groups import check_group, list_nodes, read_known, read_parameters, show
from cnn_lab.settings.places import DATA, PROJECT, name_command
from cnn_lab.shapes import plan_cnn, plan_resnet

GROUPS = ("data", "model", "optimizer", "scheduler", "loss", "trainer")
PLANS = {"cnn_lab.model.CNN": plan_cnn, "cnn_lab.model.ResNet": plan_resnet}
OWN = ("metrics", "callbacks")  # nodes of any names, each with a _target_
MEASURED = ("loss", "accuracy")  # whatever is configured
LONGEST_NAME = 100  # characters of a metric's
STAND_IN = (1, 32, 32)  # for an input shape that is found later
FEWEST_CLASSES = 2  # for a number of classes that is found later


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
    repeat: str | None = None
    fail_fast: bool = False
    jobs_per_gpu: int = 1


def _open_node() -> DictConfig:
    """A node that any setting may be typed into: `check_group` knows which ones the target takes."""
    return DictConfig({}, flags={"struct": False})


@dataclass
class Config:
    """The top level of a config: a node for each group, and the keys that belong to none."""

    output_dir: str
    data: Any = field(default_factory=_open_node)
    model: Any = field(default_factory=_open_node)
    optimizer: Any = field(default_factory=_open_node)
    scheduler: Any = field(default_factory=_open_node)
    loss: Any = field(default_factory=_open_node)
    trainer: Any = field(default_factory=_open_node)
    seed: int = 0
    label: str | None = None
    logger: Any = field(default_factory=_open_node)
    metrics: Any = field(default_factory=_open_node)
    callbacks: Any = field(default_factory=_open_node)
    best: str = "val/accuracy"
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    checkpoint_minutes: float = 5.0
    resume: str | None = None
    trust: bool = False
    pictures: Pictures = field(default_factory=Pictures)
    sweep: Sweep = field(default_factory=Sweep)


SCHEMAS = {  # what says which settings there are, by group; "" is the top level
    "": f"{__name__}.Config",
    "early_stopping": f"{__name__}.EarlyStopping",
    "pictures": f"{__name__}.Pictures",
    "sweep": f"{__name__}.Sweep",
}

ConfigStore.instance().store("schema", node=Config)
OmegaConf.register_new_resolver("project", lambda path: str(PROJECT / path), replace=True)
OmegaConf.register_new_resolver("command", name_command, replace=True)


def check_config(config: DictConfig | dict[str, Any]) -> dict[str, Any]:
    """Check a composed or stored config; returns it as plain data, resolved, with absolute paths.

    Values that mean the same come back in one form: 0.0 for a share that was typed as 0, [128] for one hidden
    layer of 128, one number for the same number in each block.

    Raises:
        ConfigError: for the first key that is unknown, missing, of a wrong type or out of range, for settings
            that do not go together, and for a network that cannot be built.
        DataError: for images that had to be looked at, and are not as they should be.
    """
    plain = _resolve(config)
    settings = list(flatten(plain))
    for group, node, target in _list_nodes(plain):
        check_group(group, node, target, settings)
    _check_length(plain["trainer"])
    if not plain["output_dir"]:
        raise ConfigError("output_dir= is empty: give a folder, as in output_dir=outputs")
    is_typed = isinstance(config, DictConfig)
    has_images = not (is_typed and plain["resume"])  # else they are those of the run that goes on
    if has_images:
        check_data(plain["data"], DATA, is_typed)
    _check_monitors(plain)
    _make_absolute(plain, "output_dir")
    _make_absolute(plain["data"], "root")
    _check_network(plain["model"], plain["data"])
    if has_images:  # so late, since a mistake in what was typed should not wait for images
        complete_data(plain["data"])
        _check_network(plain["model"], plain["data"])
    for group, node, target in _list_nodes(plain):
        known = read_known(group, target, node.get("source")) or {}
        node |= {name: parameter.settle(node[name]) for name, parameter in known.items() if name in node}
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


def _resolve(config: DictConfig | dict[str, Any]) -> dict[str, Any]:
    defaults = OmegaConf.to_container(OmegaConf.structured(Config))
    known = {name: value for name, value in defaults.items() if value != MISSING}  # type: ignore[union-attr]
    if not isinstance(config, DictConfig):  # a stored one, which may be older than a setting
        return {**known, **config}
    try:
        return {**known, **OmegaConf.to_container(config, resolve=True, throw_on_missing=True)}  # type: ignore[dict-item]
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} has no value: set it with {error.full_key}=...") from None
    except InterpolationKeyError as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from None


def _list_nodes(plain: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The name of each group, its node, and what says which settings it has."""
    for group, schema in SCHEMAS.items():
        yield group, plain[group] if group else plain, schema
    for group in GROUPS:
        yield from list_nodes(group, plain.get(group))
    if plain["logger"]:  # besides TensorBoard's
        yield from list_nodes("logger", plain["logger"])
    for group in OWN:
        if not isinstance(plain[group], dict):
            raise ConfigError(f"{group}={show(plain[group])} must be a group of names, each with a _target_")
        for name, node in plain[group].items():
            if not name.isidentifier() or name in MEASURED or len(name) > LONGEST_NAME:
                raise ConfigError(
                    f"{group}.{name} is not a possible name: use a plain, unused name of at most "
                    f"{LONGEST_NAME} characters"
                )
            yield from list_nodes(f"{group}.{name}", node)


def _make_absolute(node: dict[str, Any], name: str) -> None:
    """The same place from any working directory, as a run directory must record it."""
    if node.get(name):
        node[name] = str(Path(node[name]).expanduser().absolute())


def _check_length(trainer: Mapping[str, Any]) -> None:
    for name in ("max_epochs", "max_steps", "devices"):
        if trainer.get(name) == 0:
            raise ConfigError(f"trainer.{name}=0 is out of range: it must be at least 1, or -1 for no limit")


def _check_monitors(config: Mapping[str, Any]) -> None:
    """Only training and validation images may choose anything, and there must be some where they do."""
    stopping, names = config["early_stopping"], (*MEASURED, *config["metrics"])
    if config["best"] not in (best := [f"val/{name}" for name in names]):
        raise ConfigError(f"best={config['best']} is not an option{suggest(config['best'], best)}")
    options = [f"{split}/{name}" for split in ("val", "train") for name in names]
    monitors = {"early_stopping.monitor": (stopping["monitor"], stopping["patience"] is not None)}
    if "monitor" in config["scheduler"]:
        monitors["scheduler.monitor"] = (config["scheduler"]["monitor"], True)
    for key, (metric, is_used) in monitors.items():
        if metric not in options:
            raise ConfigError(f"{key}={metric} is not an option{suggest(metric, options)}")
        for problem in list_gaps(config, key) if is_used and metric.startswith("val/") else ():
            raise ConfigError(
                f"{key}={metric} needs validation images after each epoch, which {problem} leaves out; "
                f"type {key}={metric.replace('val', 'train')}"
            )


def list_gaps(config: Mapping[str, Any], key: str = "") -> Iterator[str]:
    """The settings that leave out the validation that `key`, or whatever chooses, needs."""
    data, trainer = config["data"], config["trainer"]
    if data.get("val_size") == 0 and data.get("fold") is None:
        yield "data.val_size=0"
    if data.get("test_each_epoch"):
        yield "data.test_each_epoch=true"
    if trainer.get("limit_val_batches") == 0:
        yield "trainer.limit_val_batches=0"
    every = trainer.get("check_val_every_n_epoch", 1)
    if every != 1 and key == "scheduler.monitor":
        yield f"trainer.check_val_every_n_epoch={show(every)}"


def _check_network(model: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Whether the network fits its images, as far as that is known without building it."""
    if model["_target_"] not in PLANS or "input_shape" not in data or "class_names" not in data:
        return
    shape, names = data["input_shape"], data["class_names"]
    if shape is not None and len(shape) != 3:
        raise ConfigError(f"data.input_shape={show(shape)} must be channels, height, width, as in [1,28,28]")
    if names is not None and len(names) < 2:
        raise ConfigError(f"data.class_names={show(names)} must name at least two classes")
    settings = {name: value for name, value in model.items() if not name.startswith("_")}
    if set(settings) != set(read_parameters("model", model["_target_"]) or ()):
        return  # a setting was taken out with ~; the class has a default for it, and checks the rest
    known = data.get("classes") or names
    num_classes = len(known) if known else settings.get("num_outputs") or FEWEST_CLASSES
    num_classes = max(num_classes, FEWEST_CLASSES)  # which one output can tell apart
    try:
        PLANS[model["_target_"]](**settings, input_shape=shape or STAND_IN, num_classes=num_classes)
    except ConfigError as error:
        if shape or not str(error).startswith("model: "):  # else it is about sizes that are not known yet
            raise
