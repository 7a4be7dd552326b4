"""The arithmetic of a CNN: what size every layer's output has, before any tensor exists.

It needs no torch, so an impossible network is refused while its settings are read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cnn_lab.errors import ConfigError, check_range, suggest

ACTIVATIONS = {  # with PyTorch's name for each
    "relu": "ReLU",
    "leaky_relu": "LeakyReLU",
    "elu": "ELU",
    "gelu": "GELU",
    "silu": "SiLU",
    "tanh": "Tanh",
}
NORMS = ("none", "batch")
POOLS = ("none", "max", "avg")
POOL_SIZE = 2
# Far more than any small network has, and within the memory of most machines with what training adds.
MOST_PARAMETERS, MOST_VALUES, MOST_MULTIPLY_ADDS = 500_000_000, 20_000_000, 10_000_000_000

T = TypeVar("T")


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
    kernel_sizes: int | Sequence[int],
    strides: int | Sequence[int],
    paddings: int | str | Sequence[int | str],
    pool: str | Sequence[str | None] | None,
    activation: str,
    norm: str | None,
    hidden: int | Sequence[int],
    dropout: float,
    input_shape: Sequence[int],
    num_classes: int,
) -> tuple[list[Block], list[Layer]]:
    """Work out a CNN from its settings: its blocks, and every layer with its size and cost.

    The settings are those of `cnn_lab.model.CNN`.

    Raises:
        ConfigError: for a value that is no option or out of range, for lists of different lengths, for a
            layer that does not fit its input, which it names, and for a network that no machine trains.
    """
    if not channels:
        raise ConfigError("model.channels is empty: give the output channels of each block, as in [32,64]")
    per_block = {"kernel_sizes": kernel_sizes, "strides": strides, "paddings": paddings, "pool": pool}
    values = {name: _per_block(name, value, len(channels)) for name, value in per_block.items()}
    numbers = {"channels": channels, **values, "hidden": hidden}
    for name in ("channels", "kernel_sizes", "strides", "hidden"):
        check_range(f"model.{name}", numbers[name], "[1, inf)")
    check_range("model.paddings", paddings, "[0, inf)")
    check_range("model.dropout", dropout, "[0, 1)")
    _check_option("activation", activation, [*ACTIVATIONS])
    _check_option("norm", norm or "none", NORMS)
    values["pool"] = [name or "none" for name in values["pool"]]
    for name in values["pool"]:
        _check_option("pool", name, POOLS)

    inputs = [input_shape[0], *channels[:-1]]
    blocks = [Block(*settings) for settings in zip(inputs, channels, *values.values(), strict=True)]
    layers: list[Layer] = []
    size = (input_shape[1], input_shape[2])
    for number, block in enumerate(blocks, 1):
        rows, size = _block_layers(f"block {number}", block, size, norm or "none")
        layers += rows

    features = channels[-1] * size[0] * size[1]
    layers.append(Layer("flatten", f"{channels[-1]} x {size[0]} x {size[1]}", (features,)))
    sizes = [*as_list(hidden), num_classes]
    names = [f"hidden {number}" for number in range(1, len(sizes))] + ["logits"]
    for name, outputs in zip(names, sizes, strict=True):
        layers.append(Layer(name, "linear", (outputs,), (features + 1) * outputs, features * outputs))
        features = outputs
    _check_size(layers)
    return blocks, layers


def _check_size(layers: Sequence[Layer]) -> None:
    parameters = sum(layer.parameters for layer in layers)
    values = sum(math.prod(layer.output) for layer in layers)
    multiply_adds = sum(layer.multiply_adds for layer in layers)
    limits = {
        "parameters": (parameters, MOST_PARAMETERS),
        "values for each image": (values, MOST_VALUES),
        "multiply-adds for each image": (multiply_adds, MOST_MULTIPLY_ADDS),
    }
    for what, (count, most) in limits.items():
        if count > most:
            raise ConfigError(
                f"model: this network would have {_count(count)} {what}, and {_count(most)} is the most: use "
                "fewer channels, a smaller model.hidden, smaller kernels and paddings, or more pooling"
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
    _check_option("paddings", block.padding, ("same",), "or a number")
    if block.kernel_size % 2 == 0 and block.stride > 1:
        raise ConfigError(
            f"model: {name}: model.paddings=same with a stride above 1 needs an odd kernel size, "
            f"not {block.kernel_size}; give the padding as a number"
        )
    return (block.kernel_size - 1) / 2


def as_list(value: T | Sequence[T]) -> list[T]:
    """A setting that takes one value or several, as several."""
    return [value] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)  # type: ignore[list-item]


def _per_block(name: str, value: T | Sequence[T], count: int) -> list[T]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * count  # type: ignore[list-item]
    if len(value) != count:
        raise ConfigError(
            f"model.{name} has {len(value)} values and model.channels {count}: "
            "give one value for all blocks or one a block"
        )
    return list(value)


def _check_option(name: str, value: Any, options: Sequence[str], more: str = "") -> None:
    if value not in options:
        listed = " ".join(filter(None, [", ".join(options), more]))
        raise ConfigError(
            f"model.{name}={value} is not an option{suggest(str(value), options)} (it can be {listed})"
        )
