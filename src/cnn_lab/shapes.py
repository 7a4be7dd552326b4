"""The arithmetic of networks: what size every layer's output has, before any tensor exists.

It needs no torch, so an impossible network is refused while its settings are read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from cnn_lab.errors import ConfigError, check_range, count, suggest

ACTIVATIONS = {  # with PyTorch's name for each
    "relu": "ReLU",
    "leaky_relu": "LeakyReLU",
    "elu": "ELU",
    "gelu": "GELU",
    "silu": "SiLU",
    "tanh": "Tanh",
}
NORMS = ("none", "batch")
HEADS = ("flatten", "average")
SHORTCUTS = ("pad", "conv")
POOLS = ("none", "max", "avg")
POOL_SIZE = 2
# Far more than any small network has, and within the memory of most machines with what training adds.
MOST_DEPTH = 1202  # of the residual networks in He et al. 2015
MOST_PARAMETERS, MOST_VALUES, MOST_MULTIPLY_ADDS = 500_000_000, 20_000_000, 10_000_000_000

T = TypeVar("T")
# Annotations that say which values mean the same; `cnn_lab.settings.signatures` reads them by these names.
Each: TypeAlias = T | Sequence[T]  # one value for all, or a list of one for each
Listed: TypeAlias = T | Sequence[T]  # a list, or the one value of a list of one
Named: TypeAlias = str | None  # None is "none"


@dataclass(frozen=True)
class Layer:
    """One row of the layer table. `output` is (channels, height, width) or (features,)."""

    name: str
    operation: str
    output: tuple[int, ...]
    parameters: int = 0
    multiply_adds: int = 0


@dataclass(frozen=True)
class Block:
    """One block's settings, each resolved to a value. `padding` is in pixels on each side, or 'same'."""

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    padding: int | str
    pool: str


def output_size(n: int, f: int, p: float = 0, s: int = 1) -> int:
    """Pixels along one side after a window of `f` pixels slid over `n` pixels.

    `floor((n + 2p - f) / s) + 1`, with `p` pixels of padding on each side and a stride of `s`.
    A result below 1 says that the window does not fit.
    """
    return math.floor((n + 2 * p - f) / s) + 1


def plan_cnn(
    *,
    channels: Sequence[int],
    kernel_sizes: Each[int],
    strides: Each[int],
    paddings: Each[int | str],
    pool: Each[Named],
    activation: str,
    norm: Named,
    head: str,
    hidden: Listed[int],
    dropout: float,
    num_outputs: int | None = None,
    input_shape: Sequence[int],
    num_classes: int,
) -> tuple[list[Block], list[Layer]]:
    """Work out a CNN from its settings: its blocks, and every layer with its size and cost.

    The settings are those of `cnn_lab.model.CNN`.

    Raises:
        ConfigError: for a value that is no option or out of range, for lists of different lengths, for a
            layer that does not fit its input, which it names, and for a network that no machine trains.
    """
    per_block = {"kernel_sizes": kernel_sizes, "strides": strides, "paddings": paddings, "pool": pool}
    values = {name: _per_block(name, value, len(channels)) for name, value in per_block.items()}
    numbers = {"channels": channels, **values, "hidden": hidden}
    for name in ("channels", "kernel_sizes", "strides", "hidden"):
        check_range(f"model.{name}", numbers[name], "[1, inf)")
    check_range("model.paddings", paddings, "[0, inf)")
    check_range("model.dropout", dropout, "[0, 1)")
    _check_option("activation", activation, [*ACTIVATIONS])
    _check_option("norm", norm or "none", NORMS)
    _check_option("head", head, HEADS)
    values["pool"] = [name or "none" for name in values["pool"]]
    for name in values["pool"]:
        _check_option("pool", name, POOLS)

    maps = [input_shape[0], *channels]
    blocks = [Block(*settings) for settings in zip(maps[:-1], channels, *values.values(), strict=True)]
    layers: list[Layer] = []
    size = (input_shape[1], input_shape[2])
    for number, block in enumerate(blocks, 1):
        rows, size = _block_layers(f"block {number}", block, size, norm or "none")
        layers += rows

    features = maps[-1] * (size[0] * size[1] if head == "flatten" else 1)
    layers.append(Layer(head, f"{maps[-1]} x {size[0]} x {size[1]}", (features,)))
    sizes = [*as_list(hidden), _count_outputs(num_outputs, num_classes)]
    names = [f"hidden {number}" for number in range(1, len(sizes))] + ["logits"]
    for name, outputs in zip(names, sizes, strict=True):
        layers.append(Layer(name, "linear", (outputs,), (features + 1) * outputs, features * outputs))
        features = outputs
    _check_size(layers)
    return blocks, layers


def plan_resnet(
    *,
    depth: int,
    widths: Sequence[int],
    shortcut: str,
    num_outputs: int | None = None,
    input_shape: Sequence[int],
    num_classes: int,
) -> tuple[int, list[Layer]]:
    """Work out a ResNet from its settings: the blocks in each stage, and every layer with its size and cost.

    The settings are those of `cnn_lab.model.ResNet`. Batch norm counts to the convolution before it.

    Raises:
        ConfigError: for a value that is no option or out of range, for a depth that makes no whole blocks,
            for stages that would halve a single pixel, and for a network that no machine trains.
    """
    count = _count_residual_blocks(depth, widths)
    _check_option("shortcut", shortcut, SHORTCUTS)
    channels, *size = input_shape
    layers = [_norm_conv("stem", channels, widths[0], size)]
    channels = widths[0]
    for stage, width in enumerate(widths, 1):
        if stage > 1 and min(size) == 1:
            raise ConfigError(
                f"model: stage {stage} cannot halve maps of {size[0]} x {size[1]}: the network is too deep "
                f"for its images; give at most {stage - 1} model.widths"
            )
        if shortcut == "pad" and width < channels:
            raise ConfigError(
                f"model.widths={list(widths)} must not decrease with model.shortcut=pad, which only adds maps"
            )
        for block in range(1, count + 1):
            name, stride = f"stage {stage} block {block}", 2 if stage > 1 and block == 1 else 1
            layers.append(_norm_conv(f"{name} conv 1", channels, width, size, stride=stride))
            if stride == 2 and shortcut == "conv":
                layers.append(_norm_conv(f"{name} shortcut", channels, width, size, 1, stride))
            size = layers[-1].output[1:]
            layers.append(_norm_conv(f"{name} conv 2", width, width, size))
            channels = width
    layers.append(Layer("average", f"{channels} x {size[0]} x {size[1]}", (channels,)))
    outputs = _count_outputs(num_outputs, num_classes)
    layers.append(Layer("logits", "linear", (outputs,), (channels + 1) * outputs, channels * outputs))
    _check_size(layers)
    return count, layers


def _count_outputs(num_outputs: int | None, num_classes: int) -> int:
    """Logits of a network: the single one of two classes has the sigmoid as its softmax."""
    options = [1, 2] if num_classes == 2 else [num_classes]
    if num_outputs is not None and num_outputs not in options:
        listed = " or ".join(map(str, options))
        raise ConfigError(f"model.num_outputs={num_outputs}: for {num_classes} classes it must be {listed}")
    return num_outputs or options[0]


def _count_residual_blocks(depth: int, widths: Sequence[int]) -> int:
    """Blocks in each stage: the first and last layer aside, each has two convolutions."""
    if not widths:
        raise ConfigError("model.widths is empty: give the channels of each stage, as in [16,32,64]")
    check_range("model.widths", widths, "[1, inf)")
    check_range("model.depth", depth, f"[1, {MOST_DEPTH}]")
    step = 2 * len(widths)
    count = max(1, round((depth - 2) / step))
    if depth != step * count + 2:
        raise ConfigError(
            f"model.depth={depth} does not give whole blocks: with {len(widths)} model.widths it must be "
            f"{step} * n + 2, as in model.depth={step * count + 2}"
        )
    return count


def _norm_conv(
    name: str, inputs: int, outputs: int, size: Sequence[int], kernel: int = 3, stride: int = 1
) -> Layer:
    """The row of a convolution without bias that keeps the size but for its stride, with its batch norm."""
    height, width = (output_size(n, kernel, kernel // 2, stride) for n in size)
    weights = kernel**2 * inputs * outputs
    operation = f"conv {kernel}x{kernel}" + (f", stride {stride}" if stride > 1 else "") + ", batch norm"
    multiply_adds = (weights + outputs) * height * width
    return Layer(name, operation, (outputs, height, width), weights + 2 * outputs, multiply_adds)


def _check_size(layers: Sequence[Layer]) -> None:
    parameters = sum(layer.parameters for layer in layers)
    values = sum(math.prod(layer.output) for layer in layers)
    multiply_adds = sum(layer.multiply_adds for layer in layers)
    limits = {
        "parameters": (parameters, MOST_PARAMETERS),
        "values for each image": (values, MOST_VALUES),
        "multiply-adds for each image": (multiply_adds, MOST_MULTIPLY_ADDS),
    }
    for what, (found, most) in limits.items():
        if found > most:
            raise ConfigError(
                f"model: this network would have {_count(found)} {what}, and {_count(most)} is the most: use "
                "fewer channels and features, smaller kernels and paddings, or more pooling"
            )


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**15 else f"{number:.0e}"


def _block_layers(
    name: str, block: Block, size: tuple[int, int], norm: str
) -> tuple[list[Layer], tuple[int, int]]:
    """The rows of one block, and the (height, width) that it hands on."""
    f, s, out = block.kernel_size, block.stride, block.out_channels
    p = _padding_pixels(name, block)
    height, width = (output_size(n, f, p, s) for n in size)
    if height < 1 or width < 1:
        padded = f" with padding {p:g}" if p else ""
        raise ConfigError(
            f"model: {name}: a {f}x{f} kernel does not fit its {size[0]}x{size[1]} input{padded}; "
            "use fewer blocks, a smaller kernel, model.paddings=same or model.pool=none"
        )
    weights = f * f * block.in_channels * out
    operation = f"conv {f}x{f}" + (f", stride {s}" if s > 1 else "") + (f", padding {p:g}" if p else "")
    rows = [Layer(f"{name} conv", operation, (out, height, width), weights + out, weights * height * width)]
    if norm == "batch":
        rows.append(Layer(f"{name} norm", "batch norm", (out, height, width), 2 * out, out * height * width))
    if block.pool != "none":
        pooled = tuple(output_size(n, POOL_SIZE, s=POOL_SIZE) for n in (height, width))
        if min(pooled) < 1:
            raise ConfigError(
                f"model: {name}: a {POOL_SIZE}x{POOL_SIZE} pool does not fit its {height}x{width} input; "
                "use fewer blocks or model.pool=none"
            )
        height, width = pooled
        window = f"{block.pool} {POOL_SIZE}x{POOL_SIZE}, stride {POOL_SIZE}"
        rows.append(Layer(f"{name} pool", window, (out, height, width)))
    return rows, (height, width)


def _padding_pixels(name: str, block: Block) -> float:
    """Padding on each side. A half pixel says that one side gets one more than the other."""
    if not isinstance(block.padding, str):
        return block.padding
    _check_option("paddings", block.padding, ("same",), "a number")
    if block.kernel_size % 2 == 0 and block.stride > 1:
        raise ConfigError(
            f"model: {name}: model.paddings=same with a stride above 1 needs an odd kernel size, "
            f"not {block.kernel_size}; give the padding as a number"
        )
    return (block.kernel_size - 1) / 2


def as_list(value: T | Sequence[T]) -> list[T]:
    """A setting that takes one value or several, as several."""
    return [value] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)  # type: ignore[list-item]


def _per_block(name: str, value: T | Sequence[T], blocks: int) -> list[T]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * blocks  # type: ignore[list-item]
    if len(value) != blocks:
        raise ConfigError(
            f"model.{name} has {count(len(value), 'value')} and model.channels {blocks}: "
            "give one value for all blocks or one per block"
        )
    return list(value)


def _check_option(name: str, value: Any, options: Sequence[str], *more: str) -> None:
    if value not in options:
        raise ConfigError(f"model.{name}={value} is not an option{suggest(str(value), [*options, *more])}")
