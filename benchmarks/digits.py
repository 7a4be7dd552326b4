"""Accuracy on digits that are not MNIST's: fonts and pen strokes, drawn in many ways.

    python benchmarks/digits.py [RUN]

Every digit goes the way of a user's picture (`cnn_lab.pictures.digits`): it is found, scaled and centred, then guessed.
"Unsure" counts as wrong. The pens follow ten hand-made outlines, each turned, slanted, stretched and shaken.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from cnn_lab.pictures.digits import find_digit
from cnn_lab.runs.directory import find_run
from cnn_lab.runs.trained import Trained, load_trained
from cnn_lab.terminal.command import run_command
from cnn_lab.use.prediction import predict

SIDE = 300
PENS = 20  # hands of each digit
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

Pen = Callable[[ImageDraw.ImageDraw, float, int], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "run", nargs="?", type=Path, help="run directory or checkpoint (default: the latest run)"
    )
    parser.add_argument("--wrong", type=Path, help="folder for the pictures that are guessed wrong")
    arguments = parser.parse_args()
    trained = load_trained(find_run(arguments.run)[1])
    print(f"{trained.path}\n{'':36}{'fonts':>12}{'pens':>12}")
    for condition, change in CONDITIONS.items():
        shares = []
        for source in (list(fonts()), list(pens())):
            guesses = [
                (label, picture, guess_of(trained, picture))
                for label, draw in source
                for picture in [change(draw)]
            ]
            shares.append(np.mean([label == guess for label, _, guess in guesses]))
            if arguments.wrong:
                keep_wrong(guesses, arguments.wrong, condition)
        print(f"{condition:36}" + "".join(f"{share:12.1%}" for share in shares))
    print(f"of {len(list(fonts()))} and {len(list(pens()))} pictures each")


def guess_of(trained: Trained, picture: Image.Image) -> int:
    """The digit, or -1 for unsure."""
    digit = find_digit(picture, trained.require_gray("this benchmark"))
    return int(predict(trained, [digit])[0].guess or -1)


def keep_wrong(guesses: list, folder: Path, condition: str) -> None:
    """Save the pictures of wrong answers under names that say what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (label, picture, guess) in enumerate(guesses):
        if label != guess:
            picture.save(
                folder / f"{condition.replace(' ', '-')}-{len(guesses)}-{number}-{label}-as-{guess}.png"
            )


def fonts() -> Iterator[tuple[int, Pen]]:
    """Each digit in each of Matplotlib's fonts."""
    for font in FONTS:
        name = str(Path(get_data_path(), "fonts", "ttf", f"DejaVu{font}.ttf"))
        for digit in range(10):
            yield digit, make_font_pen(name, digit)


def make_font_pen(name: str, digit: int) -> Pen:
    def draw(canvas: ImageDraw.ImageDraw, side: float, ink: int) -> None:
        middle = (canvas.im.size[0] / 2, canvas.im.size[1] / 2)
        canvas.text(middle, str(digit), fill=ink, font=ImageFont.truetype(name, side), anchor="mm")

    return draw


def pens() -> Iterator[tuple[int, Pen]]:
    """Each digit by twenty hands."""
    generator = np.random.default_rng(0)
    for digit, outline in OUTLINES.items():
        for _ in range(PENS):
            yield digit, make_hand(outline, generator)


def make_hand(outline: list, generator: np.random.Generator) -> Pen:
    turn, slant = generator.normal(0, 0.1), generator.normal(0.1, 0.15)
    narrow, width = generator.uniform(0.5, 0.8), generator.uniform(0.02, 0.12)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = matrix @ np.array([[narrow, -slant], [0, 1]])
    strokes = []
    for stroke in outline:
        points = np.array(stroke) - 0.5 + generator.normal(0, 0.02, (len(stroke), 2))
        strokes.append(smooth(points) @ matrix.T)

    def draw(canvas: ImageDraw.ImageDraw, side: float, ink: int) -> None:
        middle = np.array(canvas.im.size) / 2
        thick = max(1, width * side)
        for stroke in strokes:
            for x, y in stroke * side * 0.8 + middle:
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


def on(background: int, ink: int, side: int = SIDE, size: float = 0.6) -> Callable[[Pen], Image.Image]:
    def change(draw: Pen) -> Image.Image:
        picture = Image.new("L", (side, side), background)
        draw(ImageDraw.Draw(picture), side * size, ink)
        return picture

    return change


def off_centre(draw: Pen) -> Image.Image:
    picture = Image.new("L", (SIDE, SIDE), 255)
    picture.paste(on(255, 0, side=SIDE // 2, size=0.7)(draw), (5, SIDE // 2 - 5))
    return picture


def photo(draw: Pen) -> Image.Image:
    """Blue ink on paper, lit from one side, with noise, as a JPEG camera gives it."""
    paper = np.asarray(on(235, 70)(draw), dtype=float)
    light = np.linspace(1, 0.5, SIDE)[:, None] * np.linspace(0.9, 1, SIDE)
    noise = np.random.default_rng(1).normal(0, 6, paper.shape)
    return Image.fromarray((paper * light + noise).clip(0, 255).astype(np.uint8))


CONDITIONS = {
    "dark on light": on(255, 0),
    "light on dark": on(0, 255),
    "low contrast": on(170, 120),
    "in a corner": off_centre,
    "tiny (20 pixels)": on(255, 0, side=28, size=0.75),
    "huge (1,500 pixels)": on(255, 0, side=1500),
    "filling the picture": on(255, 0, size=0.95),
    "photo with shadow and noise": photo,
}

if __name__ == "__main__":
    run_command(main)
