"""The objects that a checked config names by `_target_`: a data module, and a classifier with its network."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torchmetrics import Metric

from cnn_lab.classifier import ImageClassifier
from cnn_lab.datasets import hand_to_source, list_parameters
from cnn_lab.errors import CnnLabError, ConfigError, list_own_lines
from cnn_lab.metrics import find_mode
from cnn_lab.shapes import Layer

T = TypeVar("T")
SLIDING = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.BatchNorm2d)  # each weight is used at each position


def make(group: str, node: Mapping[str, Any], kind: type[T], **supplied: Any) -> T:
    """An object from a group's node and what the run supplies.

    Raises:
        ConfigError: for settings that its constructor refuses, and for an object that is no `kind`.
    """
    try:
        made = instantiate(dict(node), **supplied, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, ConfigError):
            raise ConfigError(str(cause)) from error
        cause = cause.__cause__ if isinstance(cause, ImportError) and cause.__cause__ else cause
        raise ConfigError(f"{group}: {cause}{list_own_lines(cause)}") from error
    if not isinstance(made, kind):
        raise ConfigError(f"{group}._target_={node['_target_']} makes no {kind.__name__}")
    return made


def make_metrics(nodes: Mapping[str, Any], num_classes: int) -> Iterator[tuple[str, Metric]]:
    """The name and metric of each node; those that take `num_classes` are given it."""
    for name, node in nodes.items():
        takes = inspect.signature(get_object(node["_target_"])).parameters
        supplied = {"num_classes": num_classes} if "num_classes" in takes else {}
        yield name, make(f"metrics.{name}", node, Metric, **supplied)


def assemble(config: Mapping[str, Any]) -> tuple[LightningDataModule, ImageClassifier]:
    """The data module, which has read nothing yet, and the classifier of a checked config.

    Raises:
        ConfigError: for settings that their constructors refuse.
        CnnLabError: for a network that fails on an image, or makes no logits of it.
    """
    taken = list_parameters(config["data"]["_target_"])
    handed = hand_to_source(config["data"], taken)
    data = make("data", handed, LightningDataModule, seed=config["seed"])
    net = make_network(config["model"], input_shape=data.input_shape, num_classes=data.num_classes)
    is_planned = type(net).__module__.startswith("cnn_lab.") and hasattr(net, "layers")
    metrics = dict(make_metrics(config["metrics"], data.num_classes))
    schedule = dict(config["scheduler"])
    if "monitor" in schedule:
        schedule["mode"] = find_mode("scheduler.monitor", schedule["monitor"], metrics)
    classifier = ImageClassifier(
        net,
        data.num_classes,
        make_optimizer=instantiate(config["optimizer"], _partial_=True, _convert_="all"),
        make_scheduler=instantiate(schedule, _partial_=True, _convert_="all"),
        loss=make_loss(config["loss"], data.num_classes),
        metrics=metrics,
        watched=data.watched,
        layers=net.layers if is_planned else measure(net, data.input_shape, data.num_classes),  # type: ignore[arg-type]
    )
    return data, classifier


def make_loss(node: Mapping[str, Any], num_classes: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss; a list of numbers becomes a tensor where its constructor takes one.

    Raises:
        ConfigError: as `make`, and for what is not a list of numbers, or, as `weight`, not one per class.
    """
    try:
        taken = inspect.signature(get_object(node["_target_"])).parameters
    except Exception:  # what is wrong with it is told when it is made
        taken = {}
    tensors = {}
    for name, values in node.items():
        is_tensor = name in taken and "Tensor" in str(taken[name].annotation)
        if not is_tensor or values is None or isinstance(values, Mapping):
            continue
        is_list = isinstance(values, list) and all(isinstance(value, int | float) for value in values)
        if not is_list or (name == "weight" and len(values) != num_classes):
            wanted = f"{num_classes} numbers, one per class" if name == "weight" else "numbers"
            raise ConfigError(f"loss.{name}={values} must be a list of {wanted}")
        tensors[name] = torch.tensor(values, dtype=torch.float32)
    return make("loss", {**node, **tensors}, Callable)  # type: ignore[type-abstract]


def make_network(node: Mapping[str, Any], **facts: Any) -> nn.Module:
    """The network, told those of the data's `facts` that its constructor takes.

    Raises:
        ConfigError: as `make`.
    """
    try:
        constructor = get_object(node["_target_"])
        taken = inspect.signature(constructor).parameters
    except Exception:  # what is wrong with it is told when it is made
        return make("model", node, nn.Module, **facts)
    has_own = getattr(constructor, "__init__", None) is not nn.Module.__init__  # which takes nothing
    is_open = has_own and any(item.kind is item.VAR_KEYWORD for item in taken.values())
    facts = {name: value for name, value in facts.items() if is_open or name in taken}
    while True:
        try:
            return make("model", node, nn.Module, **facts)
        except ConfigError as error:  # of what **kwargs are handed to
            refused = [name for name in facts if f"unexpected keyword argument '{name}'" in str(error)]
            if not is_open or not refused:
                raise
            del facts[refused[0]]


def measure(net: nn.Module, input_shape: Sequence[int], num_classes: int) -> list[Layer]:
    """The layers of any network, from what they make of two blank images; it is left as it was.

    A layer is a module that has weights of its own or no modules inside. Multiply-adds are those of
    convolutions, linear layers and batch norm. What `forward` computes without a module has no row.

    Raises:
        CnnLabError: when the network fails, with the lines of its code that do, or makes no logits.
    """
    called: list[tuple[str, nn.Module, tuple[int, ...]]] = []
    modes = {module: module.training for module in net.modules()}
    hooks = [
        module.register_forward_hook(lambda *call, name=name: called.append((name, call[0], _size(call[2]))))
        for name, module in net.named_modules()
        if not list(module.children()) or list(module.parameters(recurse=False))
    ]
    shape = (2, *input_shape)
    what = f"{type(net).__module__}.{type(net).__qualname__}, given images {shape},"
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=()):
            logits = net.eval()(torch.zeros(shape))
    except Exception as error:
        raise CnnLabError(f"{what} fails: {type(error).__name__}: {error}{list_own_lines(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    made = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    if made != (2, num_classes) and (num_classes, made) != (2, (2, 1)):  # one logit may stand for two classes
        raise CnnLabError(f"{what} returns {made}: it must return {(2, num_classes)}, one logit per class")
    counted: set[nn.Parameter] = set()
    rows = [_describe(name or type(net).__name__, module, size, counted) for name, module, size in called]
    rest = sum(weights.numel() for weights in net.parameters() if weights not in counted)
    return [*rows, Layer("other weights", "", (), rest)] if rest else rows


def _size(output: Any) -> tuple[int, ...]:
    first = output[0] if isinstance(output, tuple) else output
    return tuple(first.shape[1:]) if isinstance(first, Tensor) else ()


def _describe(name: str, module: nn.Module, size: tuple[int, ...], counted: set[nn.Parameter]) -> Layer:
    """A row of the layer table; weights that several modules share are counted in the first."""
    weights = [item for item in module.parameters(recurse=False) if item not in counted]
    counted.update(weights)
    is_sliding = isinstance(module, SLIDING) and module.weight is not None
    multiply_adds = module.weight.numel() * math.prod(size) // len(module.weight) if is_sliding else 0
    kernel = getattr(module, "kernel_size", ())  # of a convolution or a pool
    sides = "x".join(map(str, kernel if isinstance(kernel, tuple) else (kernel,)))
    operation = f"{type(module).__name__} {sides}".rstrip()
    return Layer(name, operation, size, sum(item.numel() for item in weights), multiply_adds)
