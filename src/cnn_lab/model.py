"""The networks: a stack of blocks, and a residual one. Images in, logits out; no Lightning."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnn_lab.shapes import ACTIVATIONS, POOL_SIZE, Block, Each, Listed, Named, plan_cnn, plan_resnet

# Where a larger input never gives a smaller output, max-pooling first selects the same values.
MONOTONE = {"relu", "leaky_relu", "elu", "tanh"}
POOLS = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}


class CNN(nn.Module):
    """Blocks of conv -> (norm) -> activation -> (pool), then linear layers with dropout, then logits.

    Without blocks it is a multilayer perceptron, and without hidden layers too a linear classifier. The
    defaults are the network of "Visual Machine Learning: From Linear Networks to Convolutional Architectures,
    part 2": 421,642 parameters, initialised as PyTorch initialises its layers.

    Args:
        channels: output channels of each block; its length is the number of blocks, which may be 0.
        kernel_sizes: side of the square kernels; like `strides`, `paddings` and `pool`, one value for all
            blocks or a list of one a block.
        paddings: pixels on each side, or "same" for `(kernel - 1) / 2`.
        pool: "max", "avg" or "none" (also `None`): 2 x 2 windows, side by side.
        activation: relu, leaky_relu, elu, gelu, silu or tanh.
        norm: "batch" or "none" (also `None`).
        head: what becomes of the last maps: "flatten" keeps every value, "average" one number a map.
        hidden: features of each hidden linear layer; one number for one layer, an empty list for none.
        dropout: share of each hidden layer's features that training sets to zero, in [0, 1).
        num_outputs: logits. `None` for one a class, but of two classes for a single one, whose sigmoid is the
            probability of the second.
        input_shape: (channels, height, width) of an image.

    Attributes:
        layers: the network's layers with their sizes and costs, see `cnn_lab.shapes.Layer`.

    Raises:
        ConfigError: for settings that make no network, see `cnn_lab.shapes.plan_cnn`.
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64),
        kernel_sizes: Each[int] = 3,
        strides: Each[int] = 1,
        paddings: Each[int | str] = "same",
        pool: Each[Named] = "max",
        activation: str = "relu",
        norm: Named = None,
        head: str = "flatten",
        hidden: Listed[int] = (128,),
        dropout: float = 0.5,
        num_outputs: int | None = None,
        *,
        input_shape: Sequence[int],
        num_classes: int,
    ) -> None:
        super().__init__()
        self.input_shape = tuple(input_shape)
        blocks, self.layers = plan_cnn(
            channels=channels, kernel_sizes=kernel_sizes, strides=strides, paddings=paddings, pool=pool,
            activation=activation, norm=norm, head=head, hidden=hidden, dropout=dropout,
            num_outputs=num_outputs, input_shape=input_shape, num_classes=num_classes,
        )  # fmt: skip
        self.blocks = nn.Sequential(*(_make_block(block, activation, norm) for block in blocks))
        *hidden_features, last, logits = (layer.output[0] for layer in self.layers if len(layer.output) == 1)
        average = [nn.AdaptiveAvgPool2d(1)] if head == "average" else []
        self.head = nn.Sequential(*average, nn.Flatten())
        for inputs, outputs in pairwise([*hidden_features, last]):
            self.head.extend(
                [nn.Linear(inputs, outputs), getattr(nn, ACTIVATIONS[activation])(), nn.Dropout(dropout)]
            )
        self.head.append(nn.Linear(last, logits))

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, channels, height, width), normalised, to logits (batch, num_outputs)."""
        return self.head(self.blocks(to_channels_last(images)))

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """What each block makes of images (batch, channels, height, width): (batch, out, height, width)."""
        maps = [to_channels_last(images)]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps[1:]

    def embed(self, images: Tensor) -> Tensor:
        """What the last linear layer takes of images: (batch, features)."""
        return self.head[:-1](self.blocks(to_channels_last(images)))


def to_channels_last(images: Tensor) -> Tensor:
    """Lay images (batch, channels, height, width) out in memory with channels last, which pools faster.

    With one channel both layouts are the same bytes, and PyTorch keeps the one that the strides name;
    hence the channel is moved, which `.contiguous(memory_format=torch.channels_last)` does not do.
    """
    if images.shape[1] > 1:
        return images.contiguous(memory_format=torch.channels_last)
    return images.contiguous().squeeze(1).unsqueeze(3).permute(0, 3, 1, 2)


class Conv(nn.Conv2d):
    """PyTorch's convolution, but of 1x1 kernels with a stride: these are given only the pixels that they use.

    On CPUs, with channels last and fewer input channels than a vector register holds, the gradients of the
    strided one are wrong and other memory is overwritten (https://github.com/uxlfoundation/oneDNN/issues/6035).
    """

    def forward(self, maps: Tensor) -> Tensor:
        if self.kernel_size != (1, 1) or self.stride == (1, 1):
            return super().forward(maps)
        stride, padding = self.stride[0], self.padding[0]
        used = F.pad(maps, [padding] * 4)[:, :, ::stride, ::stride]
        return F.conv2d(used, self.weight, self.bias)


class ResNet(nn.Module):
    """A 3x3 convolution, stages of residual blocks, the average of each map, then logits.

    The defaults are ResNet-20 of He et al. 2015 (arXiv:1512.03385, section 4.2), with 269,434 parameters for
    MNIST; `depth=18 widths=[64,128,256,512] shortcut=conv` is the ResNet-18 that is usual for small images.
    Initialised as in He et al. 2015 (arXiv:1502.01852).

    Args:
        depth: layers with weights on the longest way: 2 * stages * n + 2, with n blocks in each stage.
        widths: channels of each stage's maps; each stage but the first halves their sides.
        shortcut: "pad" drops every second pixel and adds maps of zeros where a stage changes the size; "conv"
            has a 1x1 convolution there.
        num_outputs: as of `CNN`.
        input_shape: (channels, height, width) of an image.

    Attributes:
        layers: the network's layers with their sizes and costs, see `cnn_lab.shapes.Layer`.

    Raises:
        ConfigError: for settings that make no network, see `cnn_lab.shapes.plan_resnet`.
    """

    def __init__(
        self,
        depth: int = 20,
        widths: Sequence[int] = (16, 32, 64),
        shortcut: str = "pad",
        num_outputs: int | None = None,
        *,
        input_shape: Sequence[int],
        num_classes: int,
    ) -> None:
        super().__init__()
        count, self.layers = plan_resnet(
            depth=depth, widths=widths, shortcut=shortcut, num_outputs=num_outputs,
            input_shape=input_shape, num_classes=num_classes,
        )  # fmt: skip
        self.stem = nn.Sequential(
            nn.Conv2d(input_shape[0], widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        )
        self.stages = nn.ModuleList()
        inputs = widths[0]
        for number, width in enumerate(widths):
            first = Residual(inputs, width, 2 if number else 1, shortcut)
            others = (Residual(width, width) for _ in range(count - 1))
            self.stages.append(nn.Sequential(first, *others))
            inputs = width
        self.head = nn.Linear(widths[-1], *self.layers[-1].output)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, channels, height, width), normalised, to logits (batch, num_outputs)."""
        return self.head(self.embed(images))

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """What the stem and each stage make of images (batch, channels, height, width), of the same shape."""
        maps = [self.stem(to_channels_last(images))]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps

    def embed(self, images: Tensor) -> Tensor:
        """What the last layer takes of images (batch, channels, height, width): (batch, features)."""
        return self.feature_maps(images)[-1].mean(dim=(2, 3))


class Residual(nn.Module):
    """conv -> norm -> ReLU -> conv -> norm, added to the input, then ReLU.

    Where the stride is 2, `shortcut` says what becomes of the input, see `ResNet`.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, shortcut: str = "pad") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        if stride == 1:
            self.shortcut = nn.Identity()
        elif shortcut == "pad":
            self.shortcut = Pad(outputs - inputs, stride)
        else:
            conv = Conv(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, inputs, height, width) to (batch, outputs, height / stride, width / stride), rounded up."""
        change = F.relu(self.norm1(self.conv1(maps)))
        return F.relu(self.norm2(self.conv2(change)) + self.shortcut(maps))


class Pad(nn.Module):
    """Every `stride`-th pixel of each map, and as many maps of zeros as are missing."""

    def __init__(self, missing: int, stride: int) -> None:
        super().__init__()
        self.missing = missing
        self.stride = stride

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, inputs, height, width) to (batch, inputs + missing, height / stride, width / stride)."""
        return F.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.missing))


def _make_block(block: Block, activation: str, norm: str | None) -> nn.Sequential:
    padding = block.padding
    if padding == "same" and block.kernel_size % 2:
        padding = (block.kernel_size - 1) // 2  # PyTorch's own "same" refuses strides above 1
    modules: dict[str, nn.Module] = {
        "conv": Conv(
            block.in_channels, block.out_channels, block.kernel_size, stride=block.stride, padding=padding
        )
    }
    if norm == "batch":
        modules["norm"] = nn.BatchNorm2d(block.out_channels)
    modules["activation"] = getattr(nn, ACTIVATIONS[activation])()
    if block.pool != "none":
        modules["pool"] = POOLS[block.pool](POOL_SIZE)
        if block.pool == "max" and activation in MONOTONE:
            # The same function, with a quarter of the activations to compute and to keep for backward.
            modules["activation"] = modules.pop("activation")
    sequence = nn.Sequential()
    for name, module in modules.items():
        sequence.add_module(name, module)
    return sequence
