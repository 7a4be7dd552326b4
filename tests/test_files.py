"""Files that a user relies on: whole or not there, and one message where they cannot be written."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from cnn_lab.errors import CnnLabError, ConfigError
from cnn_lab.files import WriteError, replacing, write_file
from cnn_lab.pictures.sheets import save_picture
from cnn_lab.pictures.style import make_figure, save_figure
from conftest import full_disk

PICTURE = Image.effect_noise((60, 60), 50)
FIGURE, _ = make_figure("title", 2, 2)
WRITERS: dict[str, Callable[[Path], None]] = {
    "report.csv": lambda path: write_file(path, "a,b\n" * 1000),
    "model.onnx": lambda path: write_file(path, bytes(2000)),
    "guess.jpg": lambda path: save_picture(PICTURE, path),
    "curves.png": lambda path: save_figure(FIGURE, path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_file_whole_and_nothing_else(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("old")
    with (
        full_disk(500),
        pytest.raises(WriteError, match=rf"^{path} cannot be written: File too large$") as caught,
    ):
        WRITERS[name](path)
    assert caught.value.exit_code == 1
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "old")]
    WRITERS[name](path)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert path.stat().st_size > 500


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("folder.d", "Is a directory"),
        ("file/{}", "Not a directory"),
        ("none/{}", "No such file or directory"),
    ],
)
def test_a_path_that_cannot_be_a_file_is_a_mistake_in_what_was_typed(
    name: str, place: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / place.format(name).replace(".d", Path(name).suffix)
    (tmp_path / "file").touch()
    if place == "folder.d":
        path.mkdir()
    with pytest.raises(WriteError, match=rf"^{path} cannot be written: {reason}$") as caught:
        WRITERS[name](path)
    assert caught.value.exit_code == 2
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("name", ["guess", "guess.xyz", "guess.psd", "."])
def test_a_picture_needs_a_format(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no ending of a picture file\. Type one, such as"):
        save_picture(PICTURE, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_what_fails_for_another_reason_keeps_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "file") as aside:
        aside.write_text(str(1 / 0))
    with pytest.raises(CnnLabError, match="not about files"), replacing(tmp_path / "file"):
        raise CnnLabError("not about files") from OSError("hidden")
    assert not list(tmp_path.iterdir())
