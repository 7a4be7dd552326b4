import importlib.util
import itertools
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from cnn_lab.model import CNN

DIGITS = {"input_shape": (1, 28, 28), "num_classes": 10}
SPACE = [
    {"channels": channels, "pool": pool, "norm": norm, "hidden": hidden, "activation": activation}
    for (channels, pool), norm, (hidden, activation) in itertools.product(
        [([4], "none"), ([4, 6], "max"), ([4, 6, 8], "avg"), ([4, 6, 8, 10], ["max", "none", None, "avg"])],
        ["none", "batch"],
        [([], "relu"), ([12], "gelu"), ([12, 8], "tanh"), ([8], "leaky_relu"), ([8], "elu"), ([8], "silu")],
    )
]
KERNELS = [
    {"kernel_sizes": 1},
    {"kernel_sizes": [5, 3]},
    {"kernel_sizes": 4},
    {"strides": 2},
    {"strides": [1, 3], "paddings": [0, 2]},
    {"paddings": ["same", 0]},
    {"input_shape": (3, 32, 24), "num_classes": 4},
]


def article_network() -> nn.Sequential:
    """The article's network from PyTorch's own layers."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10),
    )  # fmt: skip


def test_the_default_is_the_article_with_pytorchs_initialisation() -> None:
    torch.manual_seed(3)
    ours = CNN(**DIGITS)
    torch.manual_seed(3)
    plain = article_network()
    assert sum(parameter.numel() for parameter in ours.parameters()) == 421_642
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("training", [False, True])
def test_the_default_is_the_same_function_with_the_same_gradients(training: bool) -> None:
    images = torch.randn(5, 1, 28, 28)
    plain, ours = article_network(), CNN(**DIGITS)
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        mine.data.copy_(theirs)
    outputs = []
    for net in (ours.train(training), plain.train(training)):
        torch.manual_seed(0)
        logits = net(images)
        logits.square().sum().backward()
        outputs.append(logits)
    torch.testing.assert_close(*outputs)
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [*SPACE, *KERNELS], ids=str)
def test_every_network_of_the_space_trains(settings: dict) -> None:
    settings = {"channels": [4, 6], **DIGITS, **settings}
    net = CNN(**settings)
    outputs = {}
    for name, module in net.named_modules():
        module.register_forward_hook(lambda _m, _i, out, name=name: outputs.update({name: out}))
    logits = net(torch.randn(3, *settings["input_shape"]))
    assert logits.shape == (3, settings["num_classes"])
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0 or "conv.bias" in name, name
    counted = sum(layer.parameters for layer in net.layers)
    assert counted == sum(parameter.numel() for parameter in net.parameters())
    for number in range(len(settings["channels"])):
        planned = [layer for layer in net.layers if layer.name.startswith(f"block {number + 1} ")]
        assert outputs[f"blocks.{number}.conv"].shape[1:] == planned[0].output
        assert outputs[f"blocks.{number}"].shape[1:] == planned[-1].output


def test_maps_are_channels_last_from_the_first_convolution_on() -> None:
    net = CNN(**DIGITS)
    convolved = net.blocks[0].conv(net._to_channels_last(torch.randn(8, 1, 28, 28)))
    assert convolved.stride() == (32 * 28 * 28, 1, 28 * 32, 32)


def test_max_pooling_comes_before_an_activation_only_where_that_changes_nothing() -> None:
    orders = {
        (pool, activation): [
            name for name, _ in CNN(pool=pool, activation=activation, **DIGITS).blocks[0].named_children()
        ]
        for pool, activation in (("max", "relu"), ("max", "gelu"), ("avg", "relu"))
    }
    pooled_last = ["conv", "activation", "pool"]
    assert orders == {
        ("max", "relu"): ["conv", "pool", "activation"], ("max", "gelu"): pooled_last, ("avg", "relu"): pooled_last
    }  # fmt: skip


def test_a_number_is_one_hidden_layer() -> None:
    one, listed = (str(CNN(hidden=hidden, **DIGITS)) for hidden in (128, [128]))
    assert one == listed
    assert "in_features=128, out_features=10" in one


def test_the_network_imports_nothing_but_pytorch() -> None:
    waiting, imported = ["cnn_lab.model"], set()
    while waiting:
        source = Path(importlib.util.find_spec(waiting.pop()).origin).read_text()
        names = re.findall(r"^(?:from|import) ([\w.]+)", source, re.MULTILINE)
        waiting += [name for name in names if name.startswith("cnn_lab.")]
        imported |= {name.partition(".")[0] for name in names}
    assert imported - sys.stdlib_module_names == {"cnn_lab", "torch"}
