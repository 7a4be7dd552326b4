"""The animated pictures of explain.html: a kernel on its way over an image, one dot product after another."""

import io

import numpy as np
from PIL import Image, ImageDraw

from cnn_lab.explain.numbers import MINUS, TIMES, draw_grid, draw_map, number, write_formula
from cnn_lab.explain.story import Slide
from cnn_lab.pictures.sheets import MARGIN
from cnn_lab.pictures.style import load_font

SMALL = 14  # pixels, as high as captions are


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
