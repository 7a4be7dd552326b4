"""Pictures that are not MNIST's: how they are brought to its convention, and what predict.py says of them."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from cnn_lab.errors import ConfigError
from cnn_lab.pictures.digits import find_digit, read_picture
from cnn_lab.runs.trained import Trained, load_trained
from cnn_lab.sources.decode import FORMATS
from cnn_lab.sources.idx import read_mnist
from cnn_lab.use.likeness import Likeness
from cnn_lab.use.prediction import draw_predictions, predict, read_pictures
from conftest import TrainedRun, run_script

SIDE = 28
FONT = Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


def write_digit(
    digit: int | str = 3, side: int = 200, size: float = 0.6, ink: int = 0, paper: int = 255,
    shift: tuple[float, float] = (0.0, 0.0),
) -> Image.Image:  # fmt: skip
    picture = Image.new("L", (side, side), paper)
    middle = (side * (0.5 + shift[0]), side * (0.5 + shift[1]))
    font = ImageFont.truetype(FONT, side * size)
    ImageDraw.Draw(picture).text(middle, str(digit), fill=ink, font=font, anchor="mm")
    return picture


def see(picture: Image.Image) -> np.ndarray:
    digit = find_digit(picture, SIDE)
    assert digit.problem == ""
    return digit.pixels.astype(int)


def test_a_digit_is_brought_to_the_convention() -> None:
    pixels = see(write_digit(7, side=333, shift=(0.2, -0.1)))
    assert (pixels.shape, pixels.min(), pixels.max()) == ((28, 28), 0, 255)
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    assert ndimage.center_of_mass(pixels) == pytest.approx((13.5, 13.5), abs=0.6)
    larger = find_digit(write_digit(7), 56).pixels
    assert larger.shape == (56, 56)
    assert max(np.ptp(np.flatnonzero(larger.any(axis=axis))) for axis in (0, 1)) + 1 == 40


REFERENCE = {"side": 280}
SAME = {
    "light on dark": {"ink": 255, "paper": 0, **REFERENCE},
    "low contrast": {"ink": 90, "paper": 150, **REFERENCE},
    "elsewhere": {"shift": (0.15, -0.15), **REFERENCE},
    "larger": {"size": 0.75, **REFERENCE},
    "huge": {"side": 2000},
}


@pytest.mark.parametrize("change", SAME)
def test_the_same_digit_is_seen_the_same_way(change: str) -> None:
    expected = see(write_digit(**REFERENCE))
    assert np.abs(see(write_digit(**SAME[change])) - expected).mean() < 6


def test_thin_and_thick_pens_come_near_to_the_pens_of_mnist() -> None:
    shares = []
    for width in (1, 3, 8, 20):
        picture = Image.new("L", (200, 200), 255)
        ImageDraw.Draw(picture).line([(60, 40), (140, 40), (90, 160)], fill=0, width=width, joint="curve")
        shares.append((see(picture) > 127).mean())
    images, labels = read_mnist()["train"]
    typical = (images[labels == 7] > 127).mean(axis=(1, 2, 3))
    assert all(np.quantile(typical, 0.01) < share < np.quantile(typical, 0.99) for share in shares), shares


def test_images_of_mnist_stay_as_they_are() -> None:
    images = read_mnist()["test"].images[:50, 0]
    differences = [np.abs(see(Image.fromarray(image)) - image).mean() for image in images]
    assert np.median(differences) < 3


def test_transparent_pictures_have_the_paper_that_shows_them() -> None:
    expected = see(write_digit(5))
    for ink in ((20, 30, 120), (250, 240, 200)):
        letter = np.asarray(write_digit(5))
        picture = Image.new("RGBA", (200, 200), (*ink, 0))
        picture.putalpha(Image.fromarray(255 - letter))
        assert np.abs(see(picture) - expected).mean() < 4


def rule(picture: Image.Image, line: int, squares: bool = False) -> Image.Image:
    """Lines that rise a little, every 30 pixels, in the tone `line`; under the ink."""
    page = np.asarray(picture).astype(int)
    y, x = np.mgrid[: picture.height, : picture.width]
    lines = (y + 0.02 * x) % 30 < 2
    if squares:
        lines |= (x - 0.02 * y) % 30 < 2
    darker = page.mean() > line
    ruled = np.where(lines, np.minimum(page, line) if darker else np.maximum(page, line), page)
    return Image.fromarray(ruled.astype(np.uint8))


def cast_shadow(picture: Image.Image) -> Image.Image:
    """A shadow whose edge crosses the whole picture, and the digit."""
    y, x = np.mgrid[: picture.height, : picture.width]
    return Image.fromarray(
        (np.asarray(picture) * np.where(x + y / 3 > picture.width * 0.6, 0.5, 1)).astype(np.uint8)
    )


PAPERS = {
    "lined": lambda picture: rule(picture, 170),
    "squared": lambda picture: rule(picture, 170, squares=True),
    "lines as dark as the ink": lambda picture: rule(picture, 30),
    "shadow": cast_shadow,
    "lines in a shadow": lambda picture: cast_shadow(rule(picture, 170)),
}


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("size", [0.14, 0.6])
def test_a_digit_is_seen_through_lines_and_shadows(paper: str, size: float) -> None:
    differences = []
    for digit in range(10):
        picture = write_digit(digit, side=400, size=size, ink=30, paper=235)
        differences.append(np.abs(see(PAPERS[paper](picture)) - see(picture)).mean())
    assert np.median(differences) < 12, differences
    assert max(differences) < 40, differences


@pytest.mark.parametrize("paper", PAPERS)
def test_an_empty_page_has_no_digit(paper: str) -> None:
    page = PAPERS[paper](Image.new("L", (400, 400), 235))
    assert find_digit(page, SIDE).problem == "the picture is empty"


def test_letters_are_unlike_digits_and_digits_are_not() -> None:
    data = read_mnist()
    likeness = Likeness(data["train"].images[:10_000, 0])
    assert likeness.is_like(data["test"].images[:1_000, 0]).mean() > 0.97
    letters = np.stack([see(write_digit(letter)) for letter in "ACEFHJKMNRTUVWXYadefhkmnprtw"])
    digits = np.stack([see(write_digit(digit)) for digit in range(10)])
    assert likeness.is_like(letters).sum() <= 7
    assert likeness.is_like(digits).all()


def test_light_from_one_side_and_noise_do_no_harm() -> None:
    paper = np.asarray(write_digit(2), dtype=float) * np.linspace(1, 0.4, 200)
    noisy = (paper + np.random.default_rng(0).normal(0, 6, paper.shape)).clip(0, 255).astype(np.uint8)
    assert np.abs(see(Image.fromarray(noisy)) - see(write_digit(2))).mean() < 8


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "RGB", "RGBA", "P", "CMYK", "I", "I;16", "F", "YCbCr", "HSV"]
)
def test_every_mode_of_pillow_is_read(mode: str) -> None:
    gray = write_digit(4)
    picture = (
        Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
        if mode == "I;16"
        else gray.convert(mode if mode != "HSV" else "RGB").convert(mode)
    )
    assert np.abs(see(picture) - see(gray)).mean() < 4


NOTHING = {
    "white": Image.new("L", (100, 100), 255),
    "black": Image.new("L", (28, 28)),
    "paper": Image.fromarray((235 + np.random.default_rng(0).normal(0, 5, (200, 200))).astype(np.uint8)),
    "noise": Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200), dtype=np.uint8)),
    "gradient": Image.linear_gradient("L"),
    "one pixel": Image.new("L", (1, 1), 255),
    "a line": Image.new("L", (1, 500), 255),
    "two digits": write_digit("42"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_where_there_is_no_digit_nothing_is_seen(name: str) -> None:
    digit = find_digit(NOTHING[name], SIDE)
    assert digit.problem
    assert not digit.pixels.any()


@pytest.mark.parametrize(("content", "message"), [
    (b"", "it is not a picture in one of these formats: PNG, JPEG, GIF, "),
    (b"hello", "it is not a picture in one of these formats: PNG, JPEG, GIF, "),
    (b"\x89PNG\r\n\x1a\nbroken", "file.png cannot be read: "),
])  # fmt: skip
def test_files_that_are_no_pictures(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.png").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_picture(tmp_path / "file.png", SimpleNamespace(ink=True, input_shape=(1, SIDE, SIDE)), None)


@pytest.fixture(scope="module")
def network(trained: TrainedRun) -> Trained:
    return load_trained(trained.path / "checkpoints" / "best.ckpt")


def test_most_digits_of_a_font_are_recognised(network: Trained) -> None:
    """By a network of three epochs on 4,000 images, which is not the same on every processor; of digits that are
    turned about or misplaced it would read two. The figures in README are of a better one."""
    digits = [
        find_digit(write_digit(digit, ink=ink, paper=255 - ink), SIDE)
        for digit in range(10)
        for ink in (0, 255)
    ]
    guesses = [prediction.ranking[0][0] for prediction in predict(network, digits)]
    assert guesses[::2] == guesses[1::2]  # dark on light, and light on dark
    assert sum(guess == str(index // 2) for index, guess in enumerate(guesses)) >= 12


def test_unsure_where_no_class_has_half_of_the_probability(network: Trained) -> None:
    (prediction,) = predict(network, [find_digit(write_digit(3), SIDE)])
    prediction.shares = dict.fromkeys(prediction.shares, 0.1)
    assert (prediction.guess, prediction.as_dict()["prediction"]) == (None, None)


def test_the_picture_of_predictions(network: Trained, tmp_path: Path) -> None:
    digits = [
        find_digit(write_digit(7, ink=200, paper=10), SIDE, "seven.png"),
        find_digit(NOTHING["white"], SIDE, "white.png"),
    ]
    draw_predictions(predict(network, digits), tmp_path / "show.png")
    with Image.open(tmp_path / "show.png") as picture:
        pixels = np.asarray(picture)
    assert (pixels[: len(pixels) // 2] == 0).all(axis=2).sum() > 10_000  # what the network saw of the first
    assert (pixels[len(pixels) // 2 :] == 0).all(axis=2).sum() < 3_000


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_digit(1).save(folder / "one.png")
    write_digit(0, side=60, ink=255, paper=0).save(folder / "zero.jpg")
    NOTHING["white"].save(folder / "blank.gif")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture, and not looked at")
    return folder


def test_a_folder_gives_a_row_a_picture(trained: TrainedRun, pictures: Path, tmp_path: Path) -> None:
    show = tmp_path / "show.png"
    done = run_script("predict.py", str(pictures), "--run", str(trained.path), "--show", str(show))
    assert (done.returncode, done.stderr) == (0, "")
    network, _, head, blank, broken, one, zero, *_, last = done.stdout.splitlines()
    assert network == f"{trained.path / 'checkpoints' / 'best.ckpt'}, trained on MNIST"
    assert head.split() == ["image", "prediction", "probability", "runner-up"]
    assert blank.rstrip().split(maxsplit=2)[1:] == ["unsure", "the picture is empty"]
    assert "unsure" in broken
    assert "not a picture" in broken
    assert one.split()[0] == str(pictures / "one.png")
    assert zero.split()[1] == "0"
    assert last == f"Picture: {show}"
    assert show.stat().st_size > 5_000


def test_all_numbers_as_json(trained: TrainedRun, pictures: Path) -> None:
    path = str(pictures / "zero.jpg")
    done = run_script("predict.py", path, "--json", "--run", str(trained.path))
    assert (done.returncode, done.stderr) == (0, "")
    (image,) = json.loads(done.stdout)["images"]
    assert (image["image"], image["prediction"], image["problem"]) == (path, "0", None)
    assert list(image["probabilities"]) == [str(digit) for digit in range(10)]
    assert sum(image["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def test_standard_input_is_read(network: Trained, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (pictures / "zero.jpg").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        (digit,) = read_pictures(["-"], network)
    expected = read_picture(pictures / "zero.jpg", network.data, None)
    assert (digit.name, digit.problem) == ("standard input", "")
    assert (digit.pixels == expected.pixels).all()


def test_mistakes_get_one_message(trained: TrainedRun, pictures: Path, tmp_path: Path) -> None:
    for path, message in {
        pictures
        / "notes.txt": f"cannot be read: it is not a picture in one of these formats: {', '.join(FORMATS)}",
        pictures / "none.png": "cannot be read: No such file or directory",
    }.items():
        done = run_script("predict.py", str(path), "--run", str(trained.path))
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"Error: {path} {message}\n")
    done = run_script("predict.py", str(tmp_path), "--run", str(trained.path))
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"Error: the folder {tmp_path} has no pictures, such as files ending in .png or .jpg"
    )
