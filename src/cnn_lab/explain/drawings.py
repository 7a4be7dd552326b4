"""The pictures of explain.html as files. Their numbers are those of the page's sections."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from cnn_lab.explain import arithmetic
from cnn_lab.pictures.sheets import GAP, MARGIN, Tile, draw_sheet, enlarge
from cnn_lab.pictures.style import BLUE, DPI, GRAY, ORANGE, TEXT, load_font, make_figure, shade
from cnn_lab.shapes import POOL_SIZE, output_size

if TYPE_CHECKING:
    from cnn_lab.explain.story import Story

MAPS_SHOWN = 64
LEARNED_SHOWN = 4  # kernels beside those by hand
SLICES_SHOWN = 4
WIDTH = 640  # pixels of a picture, about the page's column
SMALL = 14  # pixels, as high as captions are
PATCH = 4  # pixels of the side of what is pooled with numbers
EMPTY = (232, 232, 232)  # of what is not computed yet
MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"

BY_HAND = {
    "edge": np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=float),
    "blur": np.full((3, 3), 1 / 9),
}


def draw_pictures(story: "Story") -> dict[str, bytes]:
    """The content of every file, by its name."""
    slide, other = story.slides
    blocks = range(1, len(story.net.blocks) + 1)
    pictures = {
        "1-image.png": draw_image(story.example.pixels),
        "2-flattened.png": draw_flattened(story.example.pixels),
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


def number(value: float, digits: int = 2) -> str:
    """A number with a real minus sign, and none before zero."""
    return f"{round(float(value), digits) + 0.0:.{digits}f}".replace("-", MINUS)


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


def draw_flattened(pixels: np.ndarray) -> Image.Image:
    """The digit and the moved digit, and each as a row of its numbers."""
    moved, _ = move(pixels)
    strips = [("the digit, and the digit moved", enlarge(np.hstack([pixels, moved]), 392))]
    for name, picture in (("the digit", pixels), ("the moved digit", moved)):
        row = np.repeat(picture.reshape(1, -1), 44, axis=0)
        strips.append((f"{name}, row after row: {picture.size} numbers", Image.fromarray(row)))
    return stack_pictures(strips)


def move(pixels: np.ndarray) -> tuple[np.ndarray, str]:
    """The digit three pixels further to the side that has more room, and that side."""
    used = np.flatnonzero(pixels.any(axis=0))
    if len(used) and used[0] > pixels.shape[1] - 1 - used[-1]:
        return np.pad(pixels[:, 3:], ((0, 0), (0, 3))), "left"
    return np.pad(pixels[:, :-3], ((0, 0), (3, 0))), "right"


class Slide(NamedTuple):
    """A kernel on its way over an image: (h, w), (f, f), and the (before, after) of the padding."""

    title: str
    image: np.ndarray
    kernel: np.ndarray
    bias: float = 0
    stride: int = 1
    padding: tuple[int, int] = (0, 0)

    @property
    def output(self) -> np.ndarray:
        image, kernels, bias = self.image[None], self.kernel[None, None], np.array([self.bias])
        return arithmetic.conv2d(image, kernels, bias, self.stride, self.padding)[0]


def draw_slide(slide: Slide) -> bytes:
    """An animated GIF: quickly to the strongest row, two rows step by step, then quickly to the end."""
    output = slide.output
    rows, columns = output.shape
    start = min(int(output.max(axis=1).argmax()), max(rows - 2, 0)) * columns
    slow = range(start, min(start + 2 * columns, output.size))
    before = range(0, start, max(1, start // 8))
    after = range(slow.stop, output.size, max(1, (output.size - slow.stop) // 8))
    frames = [draw_frame(slide, output, position) for position in (*before, *slow, *after, output.size - 1)]
    durations = [150] * len(before) + [450] * len(slow) + [150] * len(after) + [4_000]
    palette = frames[len(frames) // 2].quantize(96)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    file = io.BytesIO()
    small[0].save(file, "gif", save_all=True, append_images=small[1:], duration=durations, loop=0)
    return file.getvalue()


def draw_frame(slide: Slide, output: np.ndarray, position: int) -> Image.Image:
    """The kernel at one position: image and output map above, window, kernel and products below."""
    f, padded = len(slide.kernel), np.pad(slide.image, slide.padding)
    row, column = divmod(position, output.shape[1])
    top, left = row * slide.stride, column * slide.stride
    window = padded[top : top + f, left : left + f]
    known = np.where(np.arange(output.size).reshape(output.shape) <= position, output, np.nan)
    scale = float(np.abs(slide.image).max())
    zeros = " with its border of zeros" if any(slide.padding) else ""

    grid = 186 if f <= 4 else 252
    side, next_grid = (3 * grid + 20) // 2, grid + 30
    below, right = side + 70, side + 40
    image_map = draw_map(padded, side, scale, (top, left, f))
    output_map = draw_map(known, side, float(np.abs(output).max()), (row, column, 1))
    products = window * slide.kernel
    frame = Image.new("RGB", (3 * grid + 60 + 2 * MARGIN, side + grid + 154), "white")
    draw, font = ImageDraw.Draw(frame), load_font(SMALL)
    draw.text((MARGIN, 8), describe_slide(slide), fill="black", font=load_font(15, bold=True))
    for caption, picture, x, y in (
        (f"the image{zeros}", image_map, 0, 36),
        (f"the output, {len(output)} x {output.shape[1]}", output_map, right, 36),
        ("the window", draw_grid(window, grid, scale), 0, below),
        ("the kernel", draw_grid(slide.kernel, grid), next_grid, below),
        ("the products", draw_grid(products, grid), 2 * next_grid, below),
    ):
        draw.text((MARGIN + x, y), caption, fill="black", font=font)
        frame.paste(picture, (MARGIN + x, y + 22))
    for x, sign in ((next_grid, TIMES), (2 * next_grid, "=")):
        middle = (MARGIN + x - 15, below + 22 + grid / 2)
        draw.text(middle, sign, fill="black", font=load_font(20), anchor="mm")
    text = write_sum(products, slide.bias)
    draw.multiline_text((MARGIN, below + grid + 30), text, fill="black", font=font, spacing=5)
    return frame


def write_sum(products: np.ndarray, bias: float) -> str:
    """The dot product in two lines; products that are too many to write out are counted."""
    terms = [number(value) for value in products.ravel()]
    written = " + ".join(f"({term})" if term.startswith(MINUS) else term for term in terms)
    if len(terms) > 9:
        written = f"the sum of the {len(terms)} products"
    total = products.sum()
    return f"{written}\n= {number(total, 3)};  + bias {number(bias, 3)} = {number(total + bias, 3)}"


def describe_slide(slide: Slide) -> str:
    """Kernel, stride and padding, and the size formula with their numbers."""
    p = sum(slide.padding) / 2
    formula = write_formula(len(slide.image), len(slide.kernel), p, slide.stride)
    return f"{slide.title}, stride {slide.stride}, padding {p:g}: {formula}"


def write_formula(n: int, f: int, p: float, s: int) -> str:
    """The size formula, filled in."""
    return f"floor(({n} + 2·{p:g} {MINUS} {f}) / {s}) + 1 = {output_size(n, f, p, s)}"


def draw_map(
    values: np.ndarray, side: int, scale: float | None = None, box: tuple[int, int, int] | None = None
) -> Image.Image:
    """Numbers as colours, NaN in gray, with a frame around the square `box`: top, left, size."""
    colors = shade(np.nan_to_num(values), scale)
    colors[np.isnan(values)] = EMPTY
    cell = max(1, side // max(values.shape))
    picture = enlarge(colors, cell * max(values.shape))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, picture.width - 1, picture.height - 1), outline=GRAY)
    if box:
        top, left, size = (value * cell for value in box)
        draw.rectangle((left - 1, top - 1, left + size, top + size), outline="black", width=2)
    return picture


def draw_grid(values: np.ndarray, side: int, scale: float | None = None) -> Image.Image:
    """Numbers as colours with the numbers written in, where there is room for them."""
    cell = side / len(values)
    colors = shade(values, scale)
    picture = enlarge(colors, side)
    draw = ImageDraw.Draw(picture)
    size = min(16, int(cell / 3.5))
    for (row, column), value in np.ndenumerate(values):
        left, top = round(column * cell), round(row * cell)
        draw.rectangle((left, top, left + round(cell), top + round(cell)), outline="#cccccc")
        if size >= 9:
            color = "white" if colors[row, column, 0] < 90 else "black"  # on dark blue
            middle = ((column + 0.5) * cell, (row + 0.5) * cell)
            draw.text(middle, number(value), fill=color, font=load_font(size), anchor="mm")
    return picture


def draw_kernels(story: "Story") -> Image.Image:
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


def draw_channels(story: "Story") -> Image.Image:
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


def draw_pooling(story: "Story") -> Image.Image:
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


def draw_block(story: "Story", index: int) -> Image.Image:
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
    return f"{len(maps)} map{'s' if len(maps) > 1 else ''} of {size}"


def draw_linear(story: "Story") -> Image.Image:
    """The rows of numbers from flatten to the logits, each with its colours."""
    strips = []
    for name, values in story.linear_rows:
        columns = min(len(values), 128 if len(values) > 1024 else 64)
        padded = np.pad(values, (0, -len(values) % columns)).reshape(-1, columns)
        picture = enlarge(shade(padded, block_scale(values)), columns * min(32, WIDTH // columns))
        strips.append((f"{name}: {len(values):,} numbers", picture))
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


def draw_softmax(story: "Story") -> bytes:
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
