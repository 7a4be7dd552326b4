"""Accuracy on digits that are not MNIST's, on many kinds of paper; and what is said where there is no digit.

    python benchmarks/digits.py [RUN]

Every picture goes the way of a user's (`cnn_lab.pictures.digits`, `cnn_lab.use.prediction`). "Unsure" counts as wrong on
digits and as right on all else. The pens follow ten hand-made outlines, each turned, slanted, stretched and shaken.
"""

import argparse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from cnn_lab.pictures.digits import find_digit
from cnn_lab.runs.directory import find_run
from cnn_lab.runs.trained import Trained, load_trained
from cnn_lab.terminal.command import run_command
from cnn_lab.use.prediction import learn_likeness, predict

SIDE = 600  # pixels of a picture
PENS = 10  # hands of each digit
HEIGHTS = (0.1, 0.3, 0.9)  # of the digit, of the picture's
EMPTY = 60  # empty pages of each paper
SHAPES = 100  # of discs, and of crosses
FONTS = (
    "Sans",
    "Sans-Bold",
    "Sans-Oblique",
    "SansMono",
    "SansMono-Bold",
    "Serif",
    "Serif-Bold",
    "Serif-Italic",
)
# Without those that a person may take for a digit: D O Q o (0), I i j l (1), Z z (2), S s (5), G b (6), B (8), g q (9).
LETTERS = "ACEFHJKLMNPRTUVWXYacdefhkmnprtuvwxy"

# Strokes of each digit, from (0, 0) at the top left to (1, 1); the points are joined by smooth curves.
OUTLINES = {
    0: [[(0.5, 0), (0.1, 0.25), (0.1, 0.75), (0.5, 1), (0.9, 0.75), (0.9, 0.25), (0.5, 0)]],
    1: [[(0.5, 0), (0.5, 0.33), (0.5, 0.66), (0.5, 1)]],
    2: [[(0.1, 0.2), (0.45, 0), (0.85, 0.2), (0.7, 0.5), (0.1, 1)], [(0.1, 1), (0.5, 0.97), (0.9, 1)]],
    3: [
        [(0.15, 0.1), (0.55, 0), (0.85, 0.22), (0.45, 0.46)],
        [(0.45, 0.46), (0.9, 0.7), (0.6, 1), (0.1, 0.9)],
    ],
    4: [
        [(0.2, 0), (0.12, 0.3), (0.1, 0.55)],
        [(0.1, 0.55), (0.5, 0.55), (0.9, 0.52)],
        [(0.75, 0.05), (0.73, 0.5), (0.7, 1)],
    ],
    5: [
        [(0.85, 0), (0.5, 0.01), (0.2, 0.02)],
        [(0.2, 0.02), (0.18, 0.2), (0.16, 0.42)],
        [(0.16, 0.42), (0.6, 0.38), (0.88, 0.65), (0.6, 0.98), (0.1, 0.92)],
    ],
    6: [[(0.7, 0), (0.3, 0.35), (0.12, 0.75), (0.45, 1), (0.82, 0.78), (0.55, 0.52), (0.16, 0.7)]],
    7: [[(0.1, 0.05), (0.5, 0.03), (0.9, 0)], [(0.9, 0), (0.65, 0.4), (0.45, 1)]],
    8: [
        [
            (0.75, 0.12),
            (0.4, 0),
            (0.2, 0.22),
            (0.5, 0.47),
            (0.85, 0.76),
            (0.5, 1),
            (0.15, 0.78),
            (0.5, 0.48),
            (0.8, 0.25),
            (0.75, 0.12),
        ]
    ],
    9: [
        [(0.82, 0.25), (0.5, 0), (0.18, 0.25), (0.45, 0.48), (0.82, 0.25)],
        [(0.84, 0.2), (0.8, 0.6), (0.72, 1)],
    ],
}

# Draws on a canvas around a middle, so many pixels high, with an ink.
Pen = Callable[[ImageDraw.ImageDraw, tuple[float, float], float, int], None]
Paper = Callable[[np.random.Generator], tuple[np.ndarray, int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "run", nargs="?", type=Path, help="run directory or checkpoint (default: the latest run)"
    )
    parser.add_argument("--wrong", type=Path, help="folder for the pictures that are answered wrong")
    arguments = parser.parse_args()
    trained = load_trained(find_run(arguments.run)[1])
    answer = make_answer(trained)
    digits = [*fonts("0123456789"), *pens()]
    print(f"{trained.path}\nread right, of {len(digits)} pictures each; the digit's height in the picture's:")
    print(f"{'':36}" + "".join(f"{height:>9.0%}" for height in HEIGHTS))
    for name, paper in PAPERS.items():
        shares = [
            measure(answer, f"{name} {height}", draw_all(digits, paper, height), arguments.wrong)
            for height in HEIGHTS
        ]
        print(f"{name:36}" + "".join(f"{share:9.1%}" for share in shares), flush=True)
    for name, change in CONDITIONS.items():
        pictures = [(label, change(pen)) for label, pen in digits]
        print(f"{name:36}{measure(answer, name, pictures, arguments.wrong):9.1%}", flush=True)
    print("\nunsure, as it should be, and the number of pictures:")
    for name, pictures in no_digits().items():
        print(
            f"{name:36}{measure(answer, name, pictures, arguments.wrong):9.1%}{len(pictures):6}", flush=True
        )


def make_answer(trained: Trained) -> Callable[[list[Image.Image]], list[str]]:
    """What predict.py says of pictures: classes, or "" for unsure."""
    side, likeness = trained.require_gray("this benchmark"), learn_likeness(trained)

    def answer(pictures: list[Image.Image]) -> list[str]:
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(lambda picture: find_digit(picture, side), pictures))
        return [prediction.guess or "" for prediction in predict(trained, found, likeness)]

    return answer


def measure(answer: Callable, name: str, pictures: list, wrong: Path | None) -> float:
    """The share of pictures with their label as the answer; the others are kept in `wrong`."""
    answers = answer([picture for _, picture in pictures])
    for number, ((label, picture), given) in enumerate(zip(pictures, answers, strict=True)):
        if wrong and label != given:
            wrong.mkdir(parents=True, exist_ok=True)
            picture.save(wrong / f"{name.replace(' ', '-')}-{number}-{label}-as-{given or 'unsure'}.png")
    return float(np.mean([label == given for (label, _), given in zip(pictures, answers, strict=True)]))


def no_digits() -> dict[str, list[tuple[str, Image.Image]]]:
    """Pictures that have no digit, by what they have instead."""
    generator = np.random.default_rng(4)
    pictures = {
        f"empty: {name}": [("", finish(*paper(generator)[:1], generator)) for _ in range(EMPTY)]
        for name, paper in PAPERS.items()
    }
    for name, make in {"discs": make_disc, "crosses": make_cross}.items():
        drawn = [("", make(generator)) for _ in range(SHAPES)]
        pictures[name] = draw_all(drawn, PAPERS["plain paper"], 0.5)
    letters = [("", pen) for _, pen in fonts(LETTERS)]
    pictures["letters"] = draw_all(letters, PAPERS["plain paper"], 0.5)
    return pictures


def draw_all(pens: list[tuple[str, Pen]], paper: Paper, height: float) -> list[tuple[str, Image.Image]]:
    """Each on a page of its own, somewhere, `height` of the page high."""
    generator = np.random.default_rng(3)
    pictures = []
    for label, pen in pens:
        page, ink = paper(generator)
        mask = Image.new("L", (SIDE, SIDE))
        room = SIDE * (1 - height) / 2 * 0.8
        middle = tuple(SIDE / 2 + generator.uniform(-room, room, 2))
        pen(ImageDraw.Draw(mask), middle, SIDE * height, 255)
        cover = np.asarray(mask) / 255
        light = page / page.max() if ink < 128 else 1  # a shadow lies on the ink too
        pictures.append((label, finish(page * (1 - cover) + ink * light * cover, generator)))
    return pictures


def finish(page: np.ndarray, generator: np.random.Generator) -> Image.Image:
    """What a camera makes of a page: noise."""
    noisy = page + generator.normal(0, 5, page.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def plain(generator: np.random.Generator) -> tuple[np.ndarray, int]:
    return np.full((SIDE, SIDE), 235.0), int(generator.integers(20, 90))


def shade_with_edge(page: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A shadow over a part of the page, with a straight edge that is sharp or soft."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    angle = generator.uniform(0, 2 * np.pi)
    distance = x * np.cos(angle) + y * np.sin(angle) - generator.uniform(-0.6, 0.6)
    inside = np.clip(distance / generator.uniform(0.005, 0.08) + 0.5, 0, 1)
    return page * (1 - generator.uniform(0.3, 0.55) * inside) * (1 - 0.1 * (y + 1))


def shadow(generator: np.random.Generator) -> tuple[np.ndarray, int]:
    page, ink = plain(generator)
    return shade_with_edge(page, generator), ink


def rule(
    generator: np.random.Generator, paper: int, line: int, squares: bool = False, margin: bool = False
) -> np.ndarray:
    """Paper with lines, a little turned."""
    page = np.full((SIDE, SIDE), float(paper))
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    turn = generator.normal(0, 0.02)
    along, across = x + turn * y, y - turn * x
    gap, width = SIDE / generator.uniform(6, 16), generator.uniform(1.2, 3.2)
    directions = [across, along] if squares else [across]
    for direction in directions:
        away = np.abs((direction + generator.uniform(0, gap)) % gap - gap / 2)
        page += (line - paper) * np.clip(width / 2 + 0.5 - away, 0, 1)
    if margin:
        page += (line - paper) * np.clip(1.5 - np.abs(along - 0.15 * SIDE), 0, 1)
    return page.clip(min(paper, line), max(paper, line))


def lined(generator: np.random.Generator) -> tuple[np.ndarray, int]:
    return rule(generator, 235, 170, margin=True), int(generator.integers(20, 90))


def squared(generator: np.random.Generator) -> tuple[np.ndarray, int]:
    return rule(generator, 235, 180, squares=True), int(generator.integers(20, 90))


def dark_lines(generator: np.random.Generator) -> tuple[np.ndarray, int]:
    return rule(generator, 235, 60), int(generator.integers(20, 90))


def blackboard(generator: np.random.Generator) -> tuple[np.ndarray, int]:
    return rule(generator, 40, 110), int(generator.integers(200, 250))


def lined_in_shadow(generator: np.random.Generator) -> tuple[np.ndarray, int]:
    page, ink = lined(generator)
    return shade_with_edge(page, generator), ink


def make_disc(generator: np.random.Generator) -> Pen:
    flat = generator.uniform(0.7, 1)

    def draw(canvas: ImageDraw.ImageDraw, middle: tuple[float, float], height: float, ink: int) -> None:
        x, y = middle
        canvas.ellipse(
            (x - height * flat / 2, y - height / 2, x + height * flat / 2, y + height / 2), fill=ink
        )

    return draw


def make_cross(generator: np.random.Generator) -> Pen:
    """Two straight strokes that halve each other, upright or on their feet, a little turned."""
    turn = generator.choice([0, np.pi / 4]) + generator.normal(0, 0.08)
    width, ratio = generator.uniform(0.04, 0.14), generator.uniform(0.8, 1.2)

    def draw(canvas: ImageDraw.ImageDraw, middle: tuple[float, float], height: float, ink: int) -> None:
        for angle, length in ((turn, height / 2), (turn + np.pi / 2, height / 2 * ratio)):
            dx, dy = np.cos(angle) * length, np.sin(angle) * length
            ends = [(middle[0] - dx, middle[1] - dy), (middle[0] + dx, middle[1] + dy)]
            canvas.line(ends, fill=ink, width=max(1, round(width * height)))

    return draw


def fonts(characters: str) -> Iterator[tuple[str, Pen]]:
    """Each character in each of Matplotlib's fonts."""
    for font, character in product(FONTS, characters):
        name = str(Path(get_data_path(), "fonts", "ttf", f"DejaVu{font}.ttf"))
        yield character, make_font_pen(name, character)


def make_font_pen(name: str, character: str) -> Pen:
    _, top, _, bottom = ImageFont.truetype(name, 100).getbbox(character)

    def draw(canvas: ImageDraw.ImageDraw, middle: tuple[float, float], height: float, ink: int) -> None:
        font = ImageFont.truetype(name, 100 * height / (bottom - top))
        left, top_now, right, bottom_now = font.getbbox(character)
        corner = (middle[0] - (left + right) / 2, middle[1] - (top_now + bottom_now) / 2)
        canvas.text(corner, character, fill=ink, font=font)

    return draw


def pens() -> Iterator[tuple[str, Pen]]:
    """Each digit by ten hands."""
    generator = np.random.default_rng(0)
    for digit, outline in OUTLINES.items():
        for _ in range(PENS):
            yield str(digit), make_hand(outline, generator)


def make_hand(outline: list, generator: np.random.Generator) -> Pen:
    turn, slant = generator.normal(0, 0.1), generator.normal(0.1, 0.15)
    narrow, width = generator.uniform(0.5, 0.8), generator.uniform(0.02, 0.12)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = matrix @ np.array([[narrow, -slant], [0, 1]])
    strokes = []
    for stroke in outline:
        points = np.array(stroke) - 0.5 + generator.normal(0, 0.02, (len(stroke), 2))
        strokes.append(smooth(points) @ matrix.T)

    def draw(canvas: ImageDraw.ImageDraw, middle: tuple[float, float], height: float, ink: int) -> None:
        thick = max(1, width * height)
        for stroke in strokes:
            for x, y in stroke * (height - thick) * 0.93 + np.array(middle):
                canvas.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=ink)

    return draw


def smooth(points: np.ndarray, steps: int = 60) -> np.ndarray:
    """A Catmull-Rom curve (n, 2) through the points."""
    ends = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.linspace(0, 1, steps)[:, None]
    return np.concatenate([
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(ends, ends[1:], ends[2:], ends[3:], strict=False)
    ])  # fmt: skip


def on(background: int, ink: int, side: int = SIDE, height: float = 0.5) -> Callable[[Pen], Image.Image]:
    def change(draw: Pen) -> Image.Image:
        picture = Image.new("L", (side, side), background)
        draw(ImageDraw.Draw(picture), (side / 2, side / 2), side * height, ink)
        return picture

    return change


def in_corner(draw: Pen) -> Image.Image:
    picture = Image.new("L", (SIDE, SIDE), 255)
    picture.paste(on(255, 0, side=SIDE // 2)(draw), (5, SIDE // 2 - 5))
    return picture


PAPERS = {
    "plain paper": plain,
    "shadow with an edge": shadow,
    "lined paper": lined,
    "squared paper": squared,
    "lines as dark as the ink": dark_lines,
    "lined blackboard": blackboard,
    "lined paper, shadow with an edge": lined_in_shadow,
}
CONDITIONS = {
    "black on white": on(255, 0),
    "white on black": on(0, 255),
    "low contrast": on(170, 120),
    "in a corner": in_corner,
    "tiny (28 pixels)": on(255, 0, side=28, height=0.7),
    "huge (1,500 pixels)": on(255, 0, side=1500),
}

if __name__ == "__main__":
    run_command(main)
