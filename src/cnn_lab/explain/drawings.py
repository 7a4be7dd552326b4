"""The pictures of explain.html as files. Their numbers are those of the page's sections."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from cnn_lab.errors import count
from cnn_lab.explain import arithmetic
from cnn_lab.explain.animation import SMALL, draw_slide
from cnn_lab.explain.numbers import draw_grid, draw_map, number
from cnn_lab.explain.story import BY_HAND, PATCH, Slide, Story
from cnn_lab.pictures.sheets import GAP, MARGIN, Tile, draw_sheet, enlarge
from cnn_lab.pictures.style import BLUE, DPI, GRAY, ORANGE, TEXT, load_font, make_figure, shade
from cnn_lab.shapes import POOL_SIZE

MAPS_SHOWN = 64
LEARNED_SHOWN = 4  # kernels beside those by hand
SLICES_SHOWN = 4
WIDTH = 640  # pixels of a picture, about the page's column


def draw_pictures(story: Story) -> dict[str, bytes]:
    """The content of every file, by its name."""
    slide, other = story.slides
    blocks = range(1, len(story.net.blocks) + 1)
    pictures = {
        "1-image.png": draw_image(story.example.pixels),
        "2-flattened.png": draw_flattened(story),
        "3-convolution.gif": draw_slide(slide),
        "4-stride-padding.gif": draw_slide(other),
        "5-kernels.png": draw_kernels(story),
        **({"6-channels.png": draw_channels(story)} if len(blocks) > 1 else {}),
        "7-pooling.png": draw_pooling(story),
        **{f"8-block-{number}.png": draw_block(story, number) for number in blocks},
        "9-linear.png": draw_linear(story),
        "10-softmax.png": draw_softmax(story),
    }
    return {
        name: picture if isinstance(picture, bytes) else to_png(picture) for name, picture in pictures.items()
    }


def to_png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "png", optimize=True)
    return file.getvalue()


def draw_image(pixels: np.ndarray) -> Image.Image:
    """Each pixel as a square of its gray with its number in it."""
    cell, font = 26, load_font(11)
    picture = enlarge(pixels, cell * len(pixels))
    draw = ImageDraw.Draw(picture)
    for (row, column), value in np.ndenumerate(pixels):
        middle = ((column + 0.5) * cell, (row + 0.5) * cell)
        color = "black" if value > 127 else "white" if value else "#777777"
        draw.text(middle, str(value), fill=color, font=font, anchor="mm")
    return picture


def draw_flattened(story: Story) -> Image.Image:
    """The digit and the moved digit, and each as a row of its numbers."""
    pixels, (moved, _) = story.example.pixels, story.example.moved
    strips = [("the digit, and the digit moved", enlarge(np.hstack([pixels, moved]), 392))]
    for name, picture in (("the digit", pixels), ("the moved digit", moved)):
        row = np.repeat(picture.reshape(1, -1), 44, axis=0)
        strips.append((f"{name}, row after row: {picture.size} numbers", Image.fromarray(row)))
    return stack_pictures(strips)


def draw_kernels(story: Story) -> Image.Image:
    """Kernels by hand and learned ones in a row, and below each what it makes of the image."""
    side = 110
    weights = arithmetic.to_array(story.first.weight)[:, 0]
    learned = {f"learned {index + 1}": weights[index] for index in story.order[:LEARNED_SHOWN]}
    kernels, results = BY_HAND | learned, []
    for kernel in kernels.values():
        both = len(kernel) - 1  # pixels of padding that keep the image's size
        result = Slide("", story.image[0], kernel, padding=(both // 2, both - both // 2)).output
        results.append(Tile(shade(result), f"{number(result.min(), 1)} to {number(result.max(), 1)}"))
    tiles = [grid_tile(kernel, side, None, name) for name, kernel in kernels.items()]
    return draw_sheet(tiles + results, len(kernels), side, text_size=SMALL)


def grid_tile(values: np.ndarray, side: int, scale: float | None, caption: str) -> Tile:
    return Tile(np.asarray(draw_grid(values, side, scale)), caption)


def draw_channels(story: Story) -> Image.Image:
    """One kernel of the second convolution: its strongest slices with their maps and results, and the sum."""
    side, conv = 116, story.net.blocks[1].conv
    maps, sums = story.block_steps(1)[-1].output, story.block_steps(2)[0].output
    index = int(sums.max(axis=(1, 2)).argmax())
    kernel, total = arithmetic.to_array(conv.weight)[index], sums[index]
    settings = 0, conv.stride[0], arithmetic.padding_of(conv)
    results = np.stack([Slide("", *pair, *settings).output for pair in zip(maps, kernel, strict=True)])
    strongest = np.argsort(-np.abs(results).max(axis=(1, 2)), kind="stable")[:SLICES_SHOWN]
    shown, rest = results[strongest], np.delete(results, strongest, axis=0)
    map_scale, kernel_scale, scale, total_scale = (
        float(np.abs(values).max()) for values in (maps, kernel, shown, total)
    )
    tiles = [
        *(Tile(shade(maps[c], map_scale), f"map {c + 1}") for c in strongest),
        Tile(shade(shown.sum(axis=0), total_scale), f"these {len(shown)} added"),
        *(grid_tile(kernel[c], side, kernel_scale, f"slice {c + 1}") for c in strongest),
        Tile(shade(rest.sum(axis=0), total_scale), f"{len(rest)} others added"),
        *(Tile(shade(result, scale), "its result") for result in shown),
        Tile(shade(total, total_scale), "all, and bias"),
    ]
    return draw_sheet(tiles, len(shown) + 1, side, f"Kernel {index + 1} of block 2", SMALL)


def draw_pooling(story: Story) -> Image.Image:
    """A map and both of its pools, and below the numbers of a patch."""
    name, values, (top, left) = story.pooled
    patch = values[top : top + PATCH, left : left + PATCH]
    scale, side = float(np.abs(values).max()), 196
    half = (top // POOL_SIZE, left // POOL_SIZE, PATCH // POOL_SIZE)
    tiles = [Tile(np.asarray(draw_map(values, side, scale, (top, left, PATCH))), name)]
    grids = [grid_tile(patch, side, scale, "the patch")]
    for title, pool in (("max-pooled", arithmetic.max_pool), ("average-pooled", arithmetic.avg_pool)):
        tiles.append(Tile(np.asarray(draw_map(pool(values[None])[0], side, scale, half)), title))
        grids.append(grid_tile(pool(patch[None])[0], side, scale, f"the patch, {title}"))
    return draw_sheet(tiles + grids, 3, side, text_size=SMALL)


def draw_block(story: Story, index: int) -> Image.Image:
    """What a block hands on, map by map, in one scale of colours."""
    maps = story.block_steps(index)[-1].output
    tiles = [Tile(colors) for colors in shade(maps[:MAPS_SHOWN], block_scale(maps))]
    return draw_sheet(tiles, 8, 72, f"Block {index}: {count_maps(maps)}", SMALL)


def block_scale(maps: np.ndarray) -> float:
    """The number of the full colour: few are larger."""
    return float(np.quantile(np.abs(maps), 0.995)) or float(np.abs(maps).max())


def count_maps(maps: np.ndarray) -> str:
    """How many maps of which size, and how many of them are shown."""
    size = f"{maps.shape[1]} x {maps.shape[2]}"
    if len(maps) > MAPS_SHOWN:
        return f"{MAPS_SHOWN} of {len(maps)} maps of {size}"
    return f"{count(len(maps), 'map')} of {size}"


def draw_linear(story: Story) -> Image.Image:
    """The rows of numbers from flatten to the logits, each with its colours."""
    strips = []
    for name, values in story.linear_rows:
        columns = min(len(values), 128 if len(values) > 1024 else 64)
        padded = np.pad(values, (0, -len(values) % columns)).reshape(-1, columns)
        picture = enlarge(shade(padded, block_scale(values)), columns * min(32, WIDTH // columns))
        strips.append((f"{name}: {count(len(values), 'number')}", picture))
    return stack_pictures(strips)


def stack_pictures(pictures: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Pictures one below the other, each with its caption above."""
    font, line = load_font(20), 30
    width = max(picture.width for _, picture in pictures) + 2 * MARGIN
    height = sum(picture.height + line + GAP for _, picture in pictures) + 2 * MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    y = MARGIN
    for caption, picture in pictures:
        draw.text((MARGIN, y), caption, fill="black", font=font)
        sheet.paste(picture, (MARGIN, y + line))
        box = (MARGIN - 1, y + line - 1, MARGIN + picture.width, y + line + picture.height)
        draw.rectangle(box, outline=GRAY)
        y += line + picture.height + GAP
    return sheet


def draw_softmax(story: Story) -> bytes:
    """Logits and probabilities as bars, as a PNG file."""
    figure, (left, right) = make_figure(f"It says {story.answer}", 8, 3.6, columns=2)
    colors = [ORANGE if value > 0 else BLUE for value in story.logits]
    for axes, values, kind, color in (
        (left, story.logits, "logit", colors),
        (right, story.probabilities * 100, "probability, %", ORANGE),
    ):
        bars = axes.barh(story.trained.classes, values, color=color)
        axes.bar_label(bars, [number(value) for value in values], padding=3, fontsize=TEXT - 1)
        axes.invert_yaxis()
        axes.margins(x=0.2)
        axes.set_xlabel(kind)
    right.set_xlim(0, 122)
    right.set_xticks(range(0, 101, 25))
    file = io.BytesIO()
    figure.savefig(file, dpi=DPI)
    return file.getvalue()
