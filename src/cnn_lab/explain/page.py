"""The text of explain.html: what its template asks for, and the data of its script."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from torch import nn

from cnn_lab.explain import arithmetic
from cnn_lab.explain import drawings as drawn
from cnn_lab.explain.numbers import TIMES, number, percent, small, write_formula, write_shape
from cnn_lab.explain.story import BY_HAND, MOVED, Story
from cnn_lab.pictures.digits import DIGIT_SHARE
from cnn_lab.pictures.style import BLUE, ORANGE
from cnn_lab.settings.places import name_command

TEMPLATE = Path(__file__).with_name("page.html")
WORDS = {nn.LeakyReLU: "leaky ReLU", nn.Tanh: "tanh", nn.BatchNorm2d: "batch norm"}


def fill_page(story: Story, pictures: Mapping[str, bytes], folder: str) -> str:
    """The template's page about this digit, whose pictures also lie as files in `folder` beside it."""
    templates = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    templates.filters |= {
        "number": number,
        "percent": percent,
        "small": small,
        "shape": write_shape,
        "describe": describe_layer,
        "padding": arithmetic.padding_of,
        "parameters": count_parameters,
    }
    given = story.example.given
    return templates.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        story=story,
        command=name_command,
        folder=folder,
        pictures={name: embed(name, content) for name, content in pictures.items()},
        given=given and embed("given.png", drawn.to_png(given)),
        digit_share=DIGIT_SHARE,
        write_formula=write_formula,
        computed=collect_data(story),
        told=tell_blocks(story),
        pool_words=[pool_word(block) for block in story.net.blocks],
        **tell_moved(story),
        **tell_softmax(story),
    )


def tell_moved(story: Story) -> dict[str, Any]:
    """What becomes of the bright pixels, and of the probabilities, when the digit is moved."""
    (moved, side), data = story.example.moved, story.trained.data
    image = arithmetic.normalise(moved, *data.levels[0])[None]
    bright = story.example.pixels > 127
    return {
        "pixels_moved": MOVED,
        "side": side,
        "bright": bright.sum(),
        "still": (bright & (moved > 127)).sum(),
        "moved": arithmetic.softmax(
            arithmetic.make_class_logits(arithmetic.run_network(story.net, image)[-1].output)
        ),
    }


def tell_blocks(story: Story) -> list[dict[str, Any]]:
    """Of each block its convolution, and the shapes and maps that it is given and hands on."""
    blocks, shape = [], story.image.shape
    for index, block in enumerate(story.net.blocks, 1):
        steps = story.block_steps(index)
        maps = steps[-1].output
        blocks.append({
            "conv": block.conv,
            "padding": arithmetic.padding_of(block.conv),
            "path": " → ".join(describe_layer(layer) for layer in block),
            "input": shape,
            "output": steps[0].output.shape,
            "maps": maps,
            "scale": drawn.block_scale(maps),
            "shown": drawn.count_maps(maps),
        })  # fmt: skip
        shape = maps.shape
    return blocks


def describe_layer(layer: nn.Module) -> str:
    """A layer of a block in words."""
    match layer:
        case nn.Conv2d():
            return f"convolution {layer.kernel_size[0]} {TIMES} {layer.kernel_size[0]}"
        case nn.MaxPool2d():
            return f"maximum of 2 {TIMES} 2"
        case nn.AvgPool2d():
            return f"average of 2 {TIMES} 2"
    return WORDS.get(type(layer), type(layer).__name__)


def pool_word(block: nn.Module) -> str:
    """What a block's pool takes."""
    pool = dict(block.named_children()).get("pool")
    return f"the {describe_layer(pool).split()[0]}" if pool else "nothing"


def tell_softmax(story: Story) -> dict[str, Any]:
    """The way from the logits to the probabilities, and how far the best class leads the second."""
    next_best, best = np.argsort(story.logits, kind="stable")[-2:]
    lead = story.logits[best] - story.logits[next_best]
    powers = np.exp(story.logits - story.logits.max())
    return {"powers": powers, "next_best": next_best, "lead": lead, "times": np.exp(lead)}


def collect_data(story: Story) -> dict[str, Any]:
    """What the page's own script computes with."""
    weights, biases = arithmetic.to_array(story.first.weight)[:, 0], arithmetic.to_array(story.first.bias)
    kernels = [
        (f"learned {index + 1}", weights[index], biases[index]) for index in story.order[: drawn.MAPS_SHOWN]
    ]
    kernels += [(f"{name}, by hand", kernel, 0) for name, kernel in BY_HAND.items()]
    own, other = story.slides
    name, values, patch = story.pooled
    return {
        "image": short(story.image[0]),
        "kernels": [{"name": title, "weights": short(k), "bias": short(bias)} for title, k, bias in kernels],
        "stride": own.stride,
        "padding": own.padding,
        "other": {"stride": other.stride, "padding": other.padding[0]},
        "pooled": {"name": name, "map": short(values), "patch": patch},
        "colors": {"negative": BLUE, "positive": ORANGE},
    }


def short(values: np.ndarray | float) -> Any:
    """Plain numbers, as exact as float32."""
    return np.round(values, 7).tolist()


def count_parameters(layer: nn.Module) -> int:
    return sum(parameter.numel() for parameter in layer.parameters())


def embed(name: str, content: bytes) -> str:
    """A file as an address that holds its content."""
    return f"data:image/{Path(name).suffix[1:]};base64,{base64.b64encode(content).decode()}"
