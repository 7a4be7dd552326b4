"""What a CNN computes, in plain NumPy and written to be read: every layer of `cnn_lab.model.CNN`.

Images and feature maps are (channels, height, width), features are (features,); one image at a time. PyTorch
only says which layers there are and with which weights, and computes the activations.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn

from cnn_lab.model import CNN
from cnn_lab.shapes import POOL_SIZE


@dataclass
class Step:
    """One layer at work.

    Attributes:
        name: its block or linear layer, as in the layer table, and what it does: "block 1 conv", "hidden 1".
        kind: conv, norm, activation, pool, flatten or linear.
        output: (channels, height, width) or (features,).
    """

    name: str
    kind: str
    output: np.ndarray


def run_network(net: CNN, image: np.ndarray) -> list[Step]:
    """Every step from a normalised image (channels, height, width) to the logits, in the network's order."""
    steps = []
    values = np.asarray(image, dtype=float)
    for number, block in enumerate(net.blocks, 1):
        for name, layer in block.named_children():
            values = run_layer(layer, values)
            steps.append(Step(f"block {number} {name}", name, values))
    hidden = iter(range(1, len(net.head)))
    name = "flatten"
    for layer in net.head:
        if isinstance(layer, nn.Dropout):  # only training drops features
            continue
        values = run_layer(layer, values)
        if isinstance(layer, nn.Linear):
            name = "logits" if layer is net.head[-1] else f"hidden {next(hidden)}"
            steps.append(Step(name, "linear", values))
        elif isinstance(layer, nn.Flatten):
            steps.append(Step(name, "flatten", values))
        else:
            steps.append(Step(f"{name} activation", "activation", values))
    return steps


def run_layer(layer: nn.Module, values: np.ndarray) -> np.ndarray:
    """What a layer of a CNN makes of its input, as in evaluation."""
    match layer:
        case nn.Conv2d():
            weights, bias = to_array(layer.weight), to_array(layer.bias)
            return conv2d(values, weights, bias, layer.stride[0], padding_of(layer))
        case nn.BatchNorm2d():
            statistics = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
            mean, variance, weight, bias = (to_array(item)[:, None, None] for item in statistics)
            return (values - mean) / np.sqrt(variance + layer.eps) * weight + bias
        case nn.MaxPool2d():
            return max_pool(values)
        case nn.AvgPool2d():
            return avg_pool(values)
        case nn.Flatten():
            return values.reshape(-1)
        case nn.Linear():
            return to_array(layer.weight) @ values + to_array(layer.bias)
    return layer(torch.from_numpy(values)).numpy()


def to_array(tensor: Tensor | None) -> np.ndarray:
    """A layer's numbers in float64."""
    assert tensor is not None  # noqa: S101 (the CNN's convolutions have a bias, its norms have statistics)
    return tensor.detach().cpu().double().numpy()


def padding_of(layer: nn.Conv2d) -> tuple[int, int]:
    """Pixels (before, after) each row and column. PyTorch's "same" puts an odd one after."""
    if layer.padding == "same":
        both = layer.kernel_size[0] - 1
        return both // 2, both - both // 2
    return layer.padding[0], layer.padding[0]  # type: ignore[return-value]


def normalise(pixels: np.ndarray, mean: float, std: float) -> np.ndarray:
    """Bytes to what the network takes: 0 to 1, then less the mean, in units of the standard deviation."""
    return (pixels / 255 - mean) / std


def conv2d(
    image: np.ndarray,
    kernels: np.ndarray,
    bias: np.ndarray,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
) -> np.ndarray:
    """Slide kernels over an image: at every position the dot product with the window, plus the bias.

    Args:
        image: (channels, height, width).
        kernels: (out, channels, f, f). As everywhere in this field, they are not flipped.
        bias: (out,).
        padding: zeros around the image, on each side or (before, after).

    Returns:
        (out, rows, columns), with floor((height + before + after - f) / stride) + 1 rows.
    """
    sides = (padding, padding) if isinstance(padding, int) else padding
    padded = np.pad(image, ((0, 0), sides, sides))
    windows = sliding_window_view(padded, kernels.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
    products = np.tensordot(kernels, windows, axes=([1, 2, 3], [0, 3, 4]))  # multiplied and summed
    return products + bias[:, None, None]


def max_pool(maps: np.ndarray) -> np.ndarray:
    """The largest of every 2 x 2 window; an odd last row or column is left out."""
    return _pool_windows(maps).max(axis=(2, 4))


def avg_pool(maps: np.ndarray) -> np.ndarray:
    """The mean of every 2 x 2 window; an odd last row or column is left out."""
    return _pool_windows(maps).mean(axis=(2, 4))


def _pool_windows(maps: np.ndarray) -> np.ndarray:
    """Windows side by side: (channels, rows, 2, columns, 2)."""
    channels, rows, columns = len(maps), maps.shape[1] // POOL_SIZE, maps.shape[2] // POOL_SIZE
    whole = maps[:, : rows * POOL_SIZE, : columns * POOL_SIZE]
    return whole.reshape(channels, rows, POOL_SIZE, columns, POOL_SIZE)


def make_class_logits(outputs: np.ndarray) -> np.ndarray:
    """One logit a class: with a single output z, of two classes, they are 0 and z."""
    return np.array([0, *outputs]) if len(outputs) == 1 else outputs


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities that sum to 1. Only differences count, and less the largest no exponential overflows."""
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()
