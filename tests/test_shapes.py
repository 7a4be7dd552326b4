import itertools

import pytest
import torch
from torch import nn

from cnn_lab.errors import ConfigError
from cnn_lab.shapes import output_size, plan_cnn, plan_resnet

ARTICLE = {
    "channels": [32, 64],
    "kernel_sizes": 3,
    "strides": 1,
    "paddings": "same",
    "pool": "max",
    "activation": "relu",
    "norm": "none",
    "head": "flatten",
    "hidden": [128],
    "dropout": 0.5,
    "input_shape": (1, 28, 28),
    "num_classes": 10,
}

ADVICE = "; use fewer blocks, a smaller kernel, model.paddings=same or model.pool=none"


def test_the_formula_is_what_pytorch_does() -> None:
    checked = 0
    for n, f, p, s in itertools.product(range(1, 12), range(1, 6), range(3), range(1, 4)):
        size = output_size(n, f, p, s)
        if size >= 1:
            assert nn.Conv2d(1, 1, f, padding=p, stride=s)(torch.zeros(1, 1, n, n)).shape[-1] == size
            checked += 1
    assert checked > 400


def test_the_article_layer_by_layer() -> None:
    _, layers = plan_cnn(**ARTICLE)
    assert [(layer.name, layer.output, layer.parameters, layer.multiply_adds) for layer in layers] == [
        ("block 1 conv", (32, 28, 28), 320, 225_792),
        ("block 1 pool", (32, 14, 14), 0, 0),
        ("block 2 conv", (64, 14, 14), 18_496, 3_612_672),
        ("block 2 pool", (64, 7, 7), 0, 0),
        ("flatten", (3136,), 0, 0),
        ("hidden 1", (128,), 401_536, 401_408),
        ("logits", (10,), 1_290, 1_280),
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"channels": [8, 8, 8], "kernel_sizes": 7, "paddings": [3, 3, 0], "input_shape": (1, 12, 12)},
            "model: block 3: a 7x7 kernel does not fit its 3x3 input" + ADVICE,
        ),
        (
            {"kernel_sizes": 31, "paddings": 1},
            "model: block 1: a 31x31 kernel does not fit its 28x28 input with padding 1" + ADVICE,
        ),
        (
            {"channels": [4] * 5},
            "model: block 5: a 2x2 pool does not fit its 1x1 input; use fewer blocks or model.pool=none",
        ),
        (
            {"kernel_sizes": 4, "strides": 2},
            (
                "model: block 1: model.paddings=same with a stride above 1 needs an odd kernel size, not 4; "
                "give the padding as a number"
            ),
        ),
        ({"head": "mean"}, "model.head=mean is not an option. Did you mean 'average'?"),
        (
            {"channels": [], "pool": ["max"]},
            "model.pool has 1 value and model.channels 0: give one value for all blocks or one per block",
        ),
        (
            {"strides": [1, 1, 1]},
            "model.strides has 3 values and model.channels 2: give one value for all blocks or one per block",
        ),
        (
            {"paddings": "sane"},
            "model.paddings=sane is not an option. Did you mean 'same'?",
        ),
        (
            {"activation": "relo"},
            ("model.activation=relo is not an option. Did you mean 'relu'?"),
        ),
        ({"norm": "layer"}, "model.norm=layer is not an option (choose from none, batch)"),
        ({"hidden": [128, 0]}, "model.hidden=0 is out of range: it must be at least 1"),
    ],
)
def test_impossible_networks_are_refused_by_name(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_cnn(**{**ARTICLE, **settings})
    assert str(caught.value) == message


RESNET = {
    "depth": 20,
    "widths": [16, 32, 64],
    "shortcut": "pad",
    "input_shape": (1, 28, 28),
    "num_classes": 10,
}


def test_a_resnet_lists_as_many_layers_with_weights_as_it_is_deep() -> None:
    for shortcut, more in (("pad", 0), ("conv", 2)):
        count, layers = plan_resnet(**RESNET | {"shortcut": shortcut})
        assert count == 3
        assert sum(layer.parameters > 0 for layer in layers) == 20 + more
    found = {layer.name: (layer.operation, layer.output, layer.parameters) for layer in layers}
    assert found["stem"] == ("conv 3x3, batch norm", (16, 28, 28), 16 * 9 + 32)
    assert found["stage 2 block 1 conv 1"] == (
        "conv 3x3, stride 2, batch norm",
        (32, 14, 14),
        16 * 32 * 9 + 64,
    )
    assert found["stage 2 block 1 shortcut"] == ("conv 1x1, stride 2, batch norm", (32, 14, 14), 16 * 32 + 64)
    assert found["stage 3 block 3 conv 2"] == ("conv 3x3, batch norm", (64, 7, 7), 64 * 64 * 9 + 128)
    assert found["average"] == ("64 x 7 x 7", (64,), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"depth": 22},
            "model.depth=22 does not give whole blocks: with 3 model.widths it must be 6 * n + 2, as in model.depth=20",
        ),
        (
            {"depth": 2},
            "model.depth=2 does not give whole blocks: with 3 model.widths it must be 6 * n + 2, as in model.depth=8",
        ),
        ({"depth": 6002}, "model.depth=6002 is out of range: it must be at least 1 and at most 1202"),
        ({"widths": []}, "model.widths is empty: give the channels of each stage, as in [16,32,64]"),
        ({"widths": [16, 0, 4]}, "model.widths=0 is out of range: it must be at least 1"),
        (
            {"widths": [16, 8, 32]},
            "model.widths=[16, 8, 32] must not decrease with model.shortcut=pad, which only adds maps",
        ),
        (
            {"shortcut": "cov"},
            "model.shortcut=cov is not an option. Did you mean 'conv'?",
        ),
        (
            {"depth": 16, "widths": [4] * 7},
            (
                "model: stage 7 cannot halve maps of 1 x 1: the network is too deep for its images; "
                "give at most 6 model.widths"
            ),
        ),
        (
            {"widths": [2000, 4000, 8000]},
            "model: this network would have 4,176,270,010 parameters, and 500,000,000 is the most: use ",
        ),
    ],
)
def test_impossible_resnets_are_refused_by_name(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_resnet(**RESNET | settings)
    assert str(caught.value).startswith(message)
    assert str(caught.value) == message or message.endswith(" use ")
