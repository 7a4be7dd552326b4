"""Every kind of picture becomes the same bytes in training as in predict.py and explain.py."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageCms

from cnn_lab.errors import CnnLabError, ConfigError
from cnn_lab.explain.explain import read_own_image
from cnn_lab.pictures.digits import read_picture
from cnn_lab.runs.trained import Trained
from cnn_lab.settings.config import check_config
from cnn_lab.sources import folder
from cnn_lab.sources.folder import read_folder
from cnn_lab.use.prediction import learn_likeness, read_pictures
from conftest import compose_config

RAMP = np.linspace(0, 1, 40 * 60).reshape(40, 60)  # from black to white
COLOURS = np.stack([RAMP, RAMP**2, RAMP**0.5], axis=2)
BYTES = (COLOURS * 255).astype(np.uint8)
PHOTO, GRAY = Image.fromarray(BYTES), Image.fromarray(BYTES[..., 0])
TURNED = Image.Exif()
TURNED[0x0112] = 6


def make_transparent(mode: str) -> Image.Image:
    picture = PHOTO.convert(mode)
    picture.putalpha(Image.fromarray(255 - BYTES[..., 1] // 2))
    return picture


def make_lab() -> Image.Image:
    profiles = (ImageCms.createProfile(name) for name in ("sRGB", "LAB"))
    return ImageCms.profileToProfile(PHOTO, *profiles, outputMode="LAB")


def scale(top: float, kind: str) -> Image.Image:
    return Image.fromarray((RAMP * top).astype(kind))


# The picture, the ending of its file, how it is saved, and what is white in it if that has to be said.
KINDS = {
    "gray": (GRAY, "png", {}, None),
    "gray upright": (GRAY, "png", {"exif": TURNED}, None),
    "gray and alpha": (make_transparent("LA"), "png", {}, None),
    "one bit": (GRAY.convert("1"), "png", {}, None),
    "one bit TIFF": (GRAY.convert("1"), "tif", {"compression": "group4"}, None),
    "colour": (PHOTO, "png", {}, None),
    "colour and alpha": (make_transparent("RGBA"), "png", {}, None),
    "alpha WEBP": (make_transparent("RGBA"), "webp", {"lossless": True}, None),
    "one transparent colour": (PHOTO, "png", {"transparency": (0, 255, 255)}, None),
    "palette": (PHOTO.quantize(16), "png", {}, None),
    "palette with a transparent colour": (PHOTO.quantize(16), "gif", {"transparency": 3}, None),
    "palette with alphas": (PHOTO.quantize(16), "png", {"transparency": bytes(range(0, 256, 16))}, None),
    "JPEG": (PHOTO.resize((900, 600)), "jpg", {}, None),
    "JPEG on its side": (PHOTO.resize((900, 600)), "jpeg", {"exif": TURNED}, None),
    "gray JPEG": (GRAY.resize((900, 600)), "jpg", {}, None),
    "CMYK JPEG": (PHOTO.convert("CMYK"), "jpg", {}, None),
    "CMYK TIFF": (PHOTO.convert("CMYK"), "tiff", {}, None),
    "YCbCr TIFF": (PHOTO.convert("YCbCr"), "tif", {"compression": "jpeg"}, None),
    "LAB TIFF": (make_lab(), "tif", {}, None),
    "TIFF on its side": (PHOTO, "tif", {"exif": TURNED}, None),
    "16 bits": (scale(65_535, "uint16"), "png", {}, None),
    "16 bits on their side": (scale(65_535, "uint16"), "tif", {"exif": TURNED}, None),
    "16 bits, upper byte first": (scale(65_535, ">u2"), "tif", {}, None),
    "16 bits PGM": (scale(65_535, "uint16"), "pgm", {}, None),
    "12 bits in 16": (scale(4_095, "uint16"), "png", {}, 4_095),
    "10 bits in 16": (scale(1_023, "uint16"), "tif", {}, 1_023),
    "8 bits in 16": (scale(255, "uint16"), "png", {}, 255),
    "int32": (scale(100_000, "int32"), "tif", {}, 100_000),
    "floats to 1": (scale(1, "float32"), "tif", {}, 1),
    "floats to 255": (scale(255, "float32"), "tif", {}, None),
    "BMP": (PHOTO, "bmp", {}, None),
    "PPM": (PHOTO, "ppm", {}, None),
    "JPEG 2000": (PHOTO, "jp2", {"irreversible": False}, None),
    "AVIF": (PHOTO, "avif", {}, None),
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder._read_once.cache_clear()


def write(root: Path, picture: Image.Image, ending: str = "png", **options: object) -> Path:
    """A data set of the same picture in two classes."""
    for place in ("train/a", "train/b", "test/a"):
        (root / place).mkdir(parents=True, exist_ok=True)
        picture.save(root / place / f"picture.{ending}", **options)
    return root


def refuse(root: Path, *typed: str) -> str:
    with pytest.raises(CnnLabError) as caught:
        check_config(compose_config("data=folder", f"data.root={root}", *typed))
    return str(caught.value).replace(f"data.root={root}", "ROOT")


def pretend_trained(shape: tuple[int, ...], max_value: float | None) -> SimpleNamespace:
    data = SimpleNamespace(ink=False, input_shape=shape, name="own")
    return SimpleNamespace(data=data, max_value=max_value, require_pictures=lambda purpose: None)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_training_and_predictions_read_the_same_bytes(kind: str, channels: int, tmp_path: Path) -> None:
    picture, ending, options, max_value = KINDS[kind]
    root = write(tmp_path / "root", picture, ending, **options)
    splits = read_folder(root, size=(16, 20), channels=channels, max_value=max_value)
    expected = splits["train"].images[0]
    found = splits["settings"]["max_value"]
    assert np.ptp(expected) > 190  # neither black nor of one tone
    trained = pretend_trained((channels, 16, 20), found)
    (digit,) = read_pictures([str(root / "test" / "a")], trained)
    assert digit.problem == ""
    assert np.array_equal(np.atleast_3d(digit.pixels).transpose(2, 0, 1), expected)
    assert np.array_equal(
        read_own_image(root / "test" / "a" / f"picture.{ending}", trained).pixels, digit.pixels
    )


@pytest.mark.parametrize("kind", [kind for kind, (*_, max_value) in KINDS.items() if max_value])
def test_values_that_would_be_black_are_refused_and_their_range_is_said(kind: str, tmp_path: Path) -> None:
    picture, ending, options, max_value = KINDS[kind]
    root = write(tmp_path / "root", picture, ending, **options)
    assert f"values of more than 8 bits go from 0 to {max_value:,}, where " in refuse(root)
    assert refuse(root).endswith(f"train with data.max_value={max_value}")
    typed = [f"data.root={root}", f"data.max_value={max_value}"]
    assert check_config(compose_config("data=folder", *typed))["data"]["mean"] > 0.4
    with pytest.raises(ConfigError, match=r"png cannot be read|tif cannot be read"):
        read_picture(root / "test" / "a" / f"picture.{ending}", pretend_trained((1, 8, 8), None).data, None)


def test_a_dark_picture_among_others_of_16_bits_is_read_as_in_training(tmp_path: Path) -> None:
    root = write(tmp_path / "root", scale(65_535, "uint16"))
    dark = scale(9_000, "uint16")
    dark.save(root / "train" / "b" / "picture.png")
    data = check_config(compose_config("data=folder", f"data.root={root}"))["data"]
    assert repr(data["max_value"]) == "65535.0"
    folder._read_once.cache_clear()
    again = check_config(compose_config("data=folder", f"data.root={root}"))["data"]
    assert repr(again["max_value"]) == "65535.0"  # from the cache, which must not make another run of it
    trained = pretend_trained((1, 40, 60), data["max_value"])
    (digit,) = read_pictures([str(root / "train" / "b")], trained)
    assert np.array_equal(digit.pixels, np.asarray(dark) >> 8)


def test_pictures_without_anything_on_them_are_refused(tmp_path: Path) -> None:
    assert "all pixels of all train images are 0" in refuse(write(tmp_path / "black", Image.new("L", (8, 8))))
    deep = write(tmp_path / "deep", Image.fromarray(BYTES[..., 0].astype(np.uint16) + 100))
    Image.fromarray(RAMP.astype(np.float32)).save(deep / "train" / "a" / "picture.tif")
    assert "where 255 or 65,535 is white" in refuse(deep)


@pytest.mark.parametrize(
    ("ending", "content"), [("eps", b"%!PS-Adobe-3.0 EPSF-3.0\n"), ("heic", b"ftypheic"), ("psd", b"8BPS")]
)
def test_other_formats_are_named_instead_of_left_out(ending: str, content: bytes, tmp_path: Path) -> None:
    root = write(tmp_path / "root", PHOTO)
    path = root / "train" / "a" / f"other.{ending}"
    path.write_bytes(content)
    problem = "cannot be read: it is not a picture in one of these formats: PNG, JPEG, "
    assert problem in refuse(root)
    with pytest.raises(ConfigError, match=problem):
        read_picture(path, pretend_trained((1, 8, 8), None).data, None)


@pytest.mark.parametrize("channels", [2, 4])
def test_a_network_of_other_images_than_pictures_says_so(channels: int) -> None:
    trained = Trained(Path(), {}, pretend_trained((channels, 8, 8), None).data, None, 1)
    with pytest.raises(ConfigError, match=rf"^predict reads .* and the images of own have {channels}; "):
        read_pictures(["nothing.png"], trained)


def test_strokes_are_found_without_the_images_that_the_network_was_trained_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def read_moved(**_: object) -> None:
        raise ConfigError("data.root=x does not exist")

    trained = SimpleNamespace(data=SimpleNamespace(ink=True), load_data=read_moved)
    assert learn_likeness(trained) is None
    assert (
        capsys.readouterr().err == "Pictures without a digit may not be noticed: data.root=x does not exist\n"
    )
