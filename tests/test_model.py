import importlib.util
import itertools
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from cnn_lab.assembly import make
from cnn_lab.model import CNN, Conv, ResNet, to_channels_last
from cnn_lab.settings.config import PROJECT, check_config
from conftest import compose_config

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
    {"head": "average"},
    {"head": "average", "hidden": [], "input_shape": (3, 32, 32)},
    *(
        {"channels": [], "hidden": hidden, "input_shape": shape}
        for hidden in ([], [12])
        for shape in ((1, 28, 28), (3, 32, 32))
    ),
]
PARAMETERS = {  # for 1 x 28 x 28 and for 3 x 32 x 32
    "model=linear": (7_850, 30_730),
    "model=mlp": (101_770, 394_634),
    "model=cnn": (421_642, 545_098),
    "model=cnn_average": (28_426, 29_002),
    "model=lenet": (61_706, 83_126),
    "model=lenet model.paddings=0": (44_426, 62_006),
    "model=alexnet": (1_279_242, 1_739_594),
    "model=vgg": (585_066, 815_018),
    "model=resnet": (269_434, 269_722),
    "model=resnet model.depth=18 model.widths=[64,128,256,512] model.shortcut=conv": (11_172_810, 11_173_962),
}


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
    convolved = net.blocks[0].conv(to_channels_last(torch.randn(8, 1, 28, 28)))
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


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)], ids=str)
@pytest.mark.parametrize("typed", PARAMETERS)
def test_every_network_of_conf_has_its_parameters_and_learns_a_batch(typed: str, shape: tuple) -> None:
    config = check_config(compose_config(*typed.split(), f"data.input_shape={json.dumps(shape)}"))
    torch.manual_seed(0)
    net = make("model", config["model"], nn.Module, input_shape=shape, num_classes=10)
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count == PARAMETERS[typed][shape[0] == 3] == sum(layer.parameters for layer in net.layers)
    images, labels = torch.randn(10, *shape), torch.arange(10)
    optimizer = torch.optim.Adam(net.parameters())
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # so that the loss falls with every step
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        losses.append(nn.functional.cross_entropy(net(images), labels))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert net.eval().embed(images).shape[1] == net.layers[-2].output[0]


def test_every_file_of_conf_is_counted() -> None:
    names = {path.stem for path in (PROJECT / "conf" / "model").glob("*.yaml")}
    assert names - {"own"} == {typed.split()[0].removeprefix("model=") for typed in PARAMETERS}


def test_an_average_head_sees_each_map_as_its_mean() -> None:
    net = CNN(head="average", hidden=[], **DIGITS)
    images = torch.randn(4, 1, 28, 28)
    torch.testing.assert_close(net.embed(images), net.feature_maps(images)[-1].mean(dim=(2, 3)))
    assert [layer.name for layer in net.layers][-2:] == ["average", "logits"]


@pytest.mark.parametrize("shortcut", ["pad", "conv"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 15, 9)], ids=str)
def test_a_resnet_is_what_its_table_says(shortcut: str, shape: tuple) -> None:
    net = ResNet(depth=14, widths=[4, 4, 6], shortcut=shortcut, input_shape=shape, num_classes=5)
    images = torch.randn(3, *shape)
    maps = net.feature_maps(images)
    planned = [layer.output for layer in net.layers if "conv 2" in layer.name or layer.name == "stem"]
    assert [tuple(item.shape[1:]) for item in maps] == [planned[0], *planned[2::2]]
    assert all(item.is_contiguous(memory_format=torch.channels_last) for item in maps)
    net(images).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())


@pytest.mark.parametrize("inputs", [1, 4])
@pytest.mark.parametrize("padding", [0, 2])
def test_a_convolution_of_single_pixels_with_a_stride_has_the_right_gradients(
    inputs: int, padding: int
) -> None:
    torch.manual_seed(0)
    conv = Conv(inputs, 6, 1, stride=2, padding=padding)
    true = nn.Conv2d(inputs, 6, 1, stride=2, padding=padding, dtype=torch.float64)
    true.load_state_dict(conv.state_dict())
    images = to_channels_last(torch.randn(16, inputs, 15, 28))
    results = []
    for module, maps in (conv, images), (true, images.double()):
        out = module(maps.requires_grad_())
        out.square().sum().backward()
        results.append([out, module.weight.grad, module.bias.grad, maps.grad])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-3)


def test_a_residual_block_without_change_hands_on_what_it_is_given() -> None:
    net = ResNet(widths=[4, 6], depth=6, **DIGITS)
    for module in net.stages.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
    stem, first, second = net.eval().feature_maps(torch.randn(2, 1, 28, 28))
    assert torch.equal(first, stem)
    assert torch.equal(second[:, :4], stem[:, :, ::2, ::2])
    assert not second[:, 4:].any()


def test_the_networks_import_nothing_but_pytorch() -> None:
    waiting, imported = ["cnn_lab.model"], set()
    while waiting:
        source = Path(importlib.util.find_spec(waiting.pop()).origin).read_text()
        names = re.findall(r"^(?:from|import) ([\w.]+)", source, re.MULTILINE)
        waiting += [name for name in names if name.startswith("cnn_lab.")]
        imported |= {name.partition(".")[0] for name in names}
    assert imported - sys.stdlib_module_names == {"cnn_lab", "torch"}
