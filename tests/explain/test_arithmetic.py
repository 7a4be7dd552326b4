"""The page's own arithmetic is PyTorch's, layer by layer."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cnn_lab.explain import arithmetic
from cnn_lab.model import CNN
from cnn_lab.shapes import ACTIVATIONS

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def make_net(**settings: object) -> CNN:
    """A CNN in evaluation mode, whose norms have seen something."""
    torch.manual_seed(0)
    net = CNN(**{"input_shape": (1, 28, 28), "num_classes": 10, **settings})
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
    return net.eval()


@torch.inference_mode()
def run_torch(net: CNN, images: torch.Tensor) -> list[torch.Tensor]:
    """What every layer but dropout gives, by PyTorch."""
    outputs = []
    for layer in [*itertools.chain(*net.blocks), *net.head]:
        images = layer(images)
        if not isinstance(layer, torch.nn.Dropout):
            outputs.append(images[0])
    return outputs


def check(net: CNN) -> list[arithmetic.Step]:
    image = torch.randn(1, *net.input_shape)
    steps = arithmetic.run_network(net, image[0].numpy())
    for step, expected in zip(steps, run_torch(net, image), strict=True):
        assert step.output.shape == expected.shape, step.name
        np.testing.assert_allclose(step.output, expected.numpy(), **CLOSE, err_msg=step.name)
    with torch.inference_mode():
        np.testing.assert_allclose(steps[-1].output, net(image)[0].numpy(), **CLOSE)
    return steps


CONVOLUTIONS = [
    (kernel, stride, padding)
    for kernel in (1, 2, 3, 4, 5, 7)
    for stride in (1, 2, 3)
    for padding in (0, 1, 2, "same")
    if padding != "same" or kernel % 2 or stride == 1  # the others are no network
]


def test_convolutions_of_every_kind() -> None:
    for kernel, stride, padding in CONVOLUTIONS:
        settings = {"kernel_sizes": kernel, "strides": stride, "paddings": padding, "hidden": []}
        check(make_net(channels=[3, 2], pool="none", input_shape=(2, 29, 33), **settings))


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("pool", ["none", "max", "avg"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_pools_activations_and_norms(activation: str, pool: str, norm: str) -> None:
    net = make_net(
        channels=[4, 3], activation=activation, pool=pool, norm=norm, hidden=[9, 8], input_shape=(3, 11, 14)
    )
    steps = check(net)
    assert {step.kind for step in steps} == {"conv", "activation", "flatten", "linear"} | {
        *(["norm"] if norm == "batch" else []), *(["pool"] if pool != "none" else [])
    }  # fmt: skip


def test_the_steps_have_the_names_and_sizes_of_the_layer_table() -> None:
    net = make_net(channels=[4, 6, 5], pool=["max", "none", "avg"], norm="batch", hidden=[7, 6])
    steps = {step.name: step.output.shape for step in check(net)}
    named = {layer.name: layer.output for layer in net.layers}
    assert named.items() <= steps.items()
    assert set(steps) - set(named) == {
        "block 1 activation", "block 2 activation", "block 3 activation",
        "hidden 1 activation", "hidden 2 activation",
    }  # fmt: skip


def test_softmax_does_not_overflow() -> None:
    logits = np.array([3.0, -2.0, 1000.0, 998.5, -1000.0])
    expected = F.softmax(torch.tensor(logits), dim=0).numpy()
    np.testing.assert_allclose(arithmetic.softmax(logits), expected, rtol=1e-12, atol=1e-15)


def test_a_pixel_becomes_what_the_network_is_given() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = torch.tensor(pixels).float().div(255).sub(0.1307).div(0.3081)
    np.testing.assert_allclose(arithmetic.normalise(pixels, 0.1307, 0.3081), expected.numpy(), atol=1e-6)
