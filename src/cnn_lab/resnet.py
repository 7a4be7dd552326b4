"""Residual networks for small images: blocks that add what they compute to what they are given."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from cnn_lab.model import to_channels_last
from cnn_lab.shapes import plan_resnet


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
        *,
        input_shape: Sequence[int],
        num_classes: int,
    ) -> None:
        super().__init__()
        count, self.layers = plan_resnet(
            depth=depth, widths=widths, shortcut=shortcut, input_shape=input_shape, num_classes=num_classes
        )
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
        self.head = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, channels, height, width), normalised, to logits (batch, classes)."""
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
            conv = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
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
