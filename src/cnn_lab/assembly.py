"""The objects that a checked config names by `_target_`: a data module, and a classifier with its network."""

from collections.abc import Mapping
from typing import Any, TypeVar

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch import LightningDataModule
from torch import nn

from cnn_lab.classifier import ImageClassifier
from cnn_lab.errors import ConfigError

T = TypeVar("T")


def make(group: str, node: Mapping[str, Any], kind: type[T], **supplied: Any) -> T:
    """An object from a group's node and what the run supplies.

    Raises:
        ConfigError: for settings that its constructor refuses, and for an object that is no `kind`.
    """
    try:
        made = instantiate(dict(node), **supplied, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        raise ConfigError(str(cause) if isinstance(cause, ConfigError) else f"{group}: {cause}") from error
    if not isinstance(made, kind):
        raise ConfigError(f"{group}._target_={node['_target_']} makes no {kind.__name__}")
    return made


def assemble(config: Mapping[str, Any]) -> tuple[LightningDataModule, ImageClassifier]:
    """The data module, which has read nothing yet, and the classifier of a checked config.

    Raises:
        ConfigError: for settings that their constructors refuse.
    """
    data = make("data", config["data"], LightningDataModule, seed=config["seed"])
    net = make(
        "model", config["model"], nn.Module, input_shape=data.input_shape, num_classes=data.num_classes
    )
    classifier = ImageClassifier(
        net,
        data.num_classes,
        make_optimizer=instantiate(config["optimizer"], _partial_=True, _convert_="all"),
        make_scheduler=instantiate(config["scheduler"], _partial_=True, _convert_="all"),
        label_smoothing=config["label_smoothing"],
        watched=data.watched,
    )
    return data, classifier
