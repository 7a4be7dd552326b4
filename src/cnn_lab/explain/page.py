"""The text of explain.html: what the template asks for, as words and numbers, and the data of its script."""

import base64
import json
import re
import string
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from cnn_lab.explain import arithmetic
from cnn_lab.explain import drawings as drawn
from cnn_lab.explain.numbers import TIMES, count, number, percent, small, write_formula, write_shape
from cnn_lab.explain.story import BY_HAND, MOVED, Story
from cnn_lab.pictures.digits import DIGIT_SHARE
from cnn_lab.pictures.style import BLUE, ORANGE

TEMPLATE = Path(__file__).with_name("page.html")
MARKER = re.compile(r"\{\{([#^])([^{}]+)\}\}(.*?)\{\{/\2\}\}|\{\{(&?)([^{}:]+):?([^{}]*)\}\}", re.DOTALL)
WORDS = {nn.LeakyReLU: "leaky ReLU", nn.Tanh: "tanh", nn.BatchNorm2d: "batch norm"}


def fill_page(story: Story, pictures: Mapping[str, bytes], folder: str) -> str:
    """The template's page about this digit, whose pictures also lie as files in `folder` beside it."""
    embedded = {name: embed(name, content) for name, content in pictures.items()}
    values = {
        "story": story,
        "folder": folder,
        "total": count_parameters(story.net),
        "probability": percent(story.probabilities[story.guess], "more than"),
        "difference": small(story.difference),
        "pictures": embedded,
        "files": [{"file": name, "more": name != list(pictures)[-1]} for name in pictures],
        "blocks": tell_blocks(story, embedded),
        "data": json.dumps(collect_data(story)).replace("<", "\\u003c"),
    }
    for tell in (tell_image, tell_kernels, tell_pooling, tell_layers, tell_linear, tell_softmax):
        values |= tell(story)
    return fill(TEMPLATE.read_text(encoding="utf-8"), values)


def fill(template: str, values: Mapping[str, Any]) -> str:
    """Replace each {{field:format}}, as of `str.format`, by its value as text, and {{&field}} by it as HTML.

    {{#field}}...{{/field}} is repeated for each of a list of values, and kept once for another that is not
    empty; {{^field}}...{{/field}} is kept for an empty one.
    """

    def look_up(name: str) -> Any:
        return string.Formatter().get_field(name, (), values)[0]

    def replace(match: re.Match[str]) -> str:
        kind, section, inner, raw, name, style = match.groups()
        if name:
            text = format(look_up(name), style)
            return text if raw else escape(text)
        items = look_up(section)
        if kind == "^" or not isinstance(items, list):
            items = [{}] if bool(items) == (kind == "#") else []
        return "".join(fill(inner, {**values, **item}) for item in items)

    return MARKER.sub(replace, template)


def tell_image(story: Story) -> dict[str, Any]:
    pixels, data, k = story.example.pixels, story.trained.data, len(story.trained.classes)
    black, white = arithmetic.normalise(np.array([0, 255]), data.mean, data.std)
    moved, side = story.example.moved
    image = arithmetic.normalise(moved, data.mean, data.std)[None]
    shares = arithmetic.softmax(arithmetic.run_network(story.net, image)[-1].output)
    guess = int(shares.argmax())
    return {
        "given": draw_given(story),
        "n": len(pixels),
        "size": pixels.size,
        "box": round(DIGIT_SHARE * len(pixels)),
        "moved": MOVED,
        "black": number(black),
        "white": number(white),
        "gray": 255 * data.mean,
        "linear_parameters": f"{pixels.size} · {k} + {k} = {(pixels.size + 1) * k:,}",
        "side": side,
        "bright": (pixels > 127).sum(),
        "still": ((pixels > 127) & (moved > 127)).sum(),
        "moved_guess": story.trained.classes[guess],
        "moved_probability": percent(shares[guess], "more than"),
        "differs": guess != story.guess or abs(shares[guess] - story.probabilities[guess]) >= 0.01,
    }


def draw_given(story: Story) -> str:
    """The picture that was given, if one was."""
    if not story.example.given:
        return ""
    picture = story.example.given.convert("RGB")
    picture.thumbnail((260, 260))
    return embed("given.png", drawn.to_png(picture))


def tell_kernels(story: Story) -> dict[str, Any]:
    conv, f = story.first, story.first.kernel_size[0]
    second = story.net.blocks[1].conv if len(story.net.blocks) > 1 else conv
    slices, f2 = second.in_channels, second.kernel_size[0]
    return {
        "f": f,
        "weights": count(f * f, "weight"),
        "learned_shown": "The other one was" if conv.out_channels == 1 else "The others were",
        "first_parameters": f"{conv.out_channels} · ({f} · {f} + 1) = {count_parameters(conv):,}",
        "first_padding": sum(arithmetic.padding_of(conv)) / 2,
        "colour_weights": 3 * f * f,
        "second": second is not conv and second,
        "maps": count(slices, "map"),
        "slices": count(slices, "slice"),
        "f2": f2,
        "second_weights": slices * f2 * f2,
    }


def tell_pooling(story: Story) -> dict[str, Any]:
    pools = [pool_word(block) for block in story.net.blocks]
    kinds = [step.kind for step in story.steps]
    if not any(pools):
        text = "This network does not pool; the page does it to show it."
    elif len(set(pools)) == 1:
        text = f"This network takes {pools[0]} in {'every block' if len(pools) > 1 else 'its block'}."
    else:
        each = [f"{word or 'nothing'} in block {index}" for index, word in enumerate(pools, 1)]
        text = f"This network takes {', '.join(each)}."
    first = any(pools) and kinds[kinds.index("pool") + 1] == "activation"
    word = describe_layer(story.net.blocks[0].activation)
    return {"pooling": text, "pool_first": first, "activation": word}


def pool_word(block: nn.Module) -> str:
    """What a block's pool takes; empty without one."""
    pool = dict(block.named_children()).get("pool")
    return "" if pool is None else f"the {describe_layer(pool).split()[0]}"


def tell_layers(story: Story) -> dict[str, Any]:
    """Rows of the table of convolutions, remarks below it, and rows of the table of all layers."""
    convolutions, n = [], story.image.shape[1]
    for index, block in enumerate(story.net.blocks, 1):
        conv, steps = block.conv, story.block_steps(index)
        f, s, (before, after) = conv.kernel_size[0], conv.stride[0], arithmetic.padding_of(conv)
        p, parameters = (before + after) / 2, f"{count_parameters(conv):,}"
        convolutions.append({
            "name": f"block {index}", "n": n, "p": p, "f": f, "s": s, "before": before, "after": after,
            "formula": write_formula(n, f, p, s),
            "output": write_shape(steps[0].output.shape),
            "weights": f"{conv.out_channels} · ({conv.in_channels} · {f} · {f} + 1) = {parameters}",
        })  # fmt: skip
        n = steps[-1].output.shape[1]
    uneven = {row["p"]: row for row in convolutions if row["before"] != row["after"]}
    layers = [{**vars(layer), "shape": write_shape(layer.output)} for layer in story.net.layers]
    return {"convolutions": convolutions, "uneven": [uneven[p] for p in sorted(uneven)], "layers": layers}


def tell_blocks(story: Story, pictures: Mapping[str, str]) -> list[dict[str, Any]]:
    blocks, shape = [], story.image.shape
    for index, block in enumerate(story.net.blocks, 1):
        maps = story.block_steps(index)[-1].output
        path = " → ".join(describe_layer(layer) for layer in block)
        blocks.append({
            "index": index,
            "input": write_shape(shape),
            "output": write_shape(maps.shape),
            "path": path[0].upper() + path[1:],
            "size": maps.size,
            "positive": 100 * (maps > 0).mean(),
            "scale": number(drawn.block_scale(maps)),
            "maps": drawn.count_maps(maps),
            "picture": pictures[f"8-block-{index}.png"],
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


def tell_linear(story: Story) -> dict[str, Any]:
    (_, flat), *rows = story.linear_rows
    layers, inputs, total = [], flat.size, count_parameters(story.net)
    for name, values in rows:
        parameters = (inputs + 1) * values.size
        layers.append({
            "name": name.capitalize(),
            "size": values.size,
            "inputs": inputs,
            "parameters": parameters,
            "percent": 100 * parameters / total,
            "hidden": name != "logits",
            "on": (values > 0).sum(),
        })  # fmt: skip
        inputs = values.size
    shape = story.block_steps(len(story.net.blocks))[-1].output.shape
    last_maps = " · ".join(map(str, shape))
    return {"last_maps": last_maps, "flat": flat.size, "flat_on": (flat > 0).sum(), "linear": layers}


def tell_softmax(story: Story) -> dict[str, Any]:
    logits, shares, classes = story.logits, story.probabilities, story.trained.classes
    powers = np.exp(logits - logits.max())
    bars = [
        {
            "name": name,
            "best": index == story.guess,
            "logit": number(logits[index]),
            "sign": "positive" if logits[index] > 0 else "negative",
            "size": abs(logits[index]) / np.abs(logits).max(),
            "power": small(powers[index]),
            "share": shares[index],
            "percent": percent(shares[index]),
        }
        for index, name in enumerate(classes)
    ]
    second, first = np.argsort(logits, kind="stable")[-2:]
    lead = logits[first] - logits[second]
    return {
        "bars": bars,
        "largest": number(logits.max()),
        "powers": small(powers.sum()),
        "runner_up": classes[second],
        "runner_up_logit": number(logits[second]),
        "lead": number(lead),
        "times": f"{np.exp(lead):,.0f}" if lead > 5 else number(np.exp(lead)),
        "between": percent(arithmetic.sigmoid(np.array(lead)), "more than"),
    }


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
