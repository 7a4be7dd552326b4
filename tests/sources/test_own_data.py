"""Images that somebody brings along: arrays, a function, pictures in folders."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_lab.assembly import make
from cnn_lab.data import ImageDataModule
from cnn_lab.datasets import read_source
from cnn_lab.errors import CnnLabError, ConfigError, DataError
from cnn_lab.settings.config import check_config
from cnn_lab.settings.meaning import identify
from cnn_lab.settings.places import PROJECT
from cnn_lab.sources import folder
from cnn_lab.sources.arrays import read_arrays
from cnn_lab.sources.folder import read_folder
from cnn_lab.splitting import stratified_split
from cnn_lab.sweeps.results import Record, compare
from conftest import compose_config, only_run, read_result, run_script, train_command

GENERATOR = np.random.default_rng(0)
BYTES = GENERATOR.integers(256, size=(30, 8, 9, 3), dtype=np.uint8)
LABELS = np.arange(30) % 3
ARRAYS = {"x_train": BYTES, "y_train": LABELS, "x_test": BYTES[:9], "y_test": LABELS[:9, None]}
GIVE_BYTES = "own: train images are float64; give bytes from 0 to 255: "
CLASSES = ["class 2", "class 10", "été", "red"]
FAST = ["trainer.accelerator=cpu", "trainer.max_epochs=2", "model.channels=[4,4]", "optimizer.lr=0.01", "data.batch_size=8"]  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pictures are kept, in place of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder._read_once.cache_clear()
    return tmp_path / "cache" / "cnn-lab"


def check(data: str, root: Path, *typed: str) -> dict[str, Any]:
    """The data settings that a command would have, or the message that it would end with."""
    return check_config(compose_config(f"data={data}", f"data.root={root}", *typed))["data"]


def refuse(data: str, root: Path, *typed: str) -> str:
    with pytest.raises(CnnLabError) as caught:
        check(data, root, *typed)
    return str(caught.value).replace(f"data.root={root}", "ROOT").replace(str(root), "ROOT")


def write_arrays(path: Path, **changes: Any) -> Path:
    np.savez(path, **{key: value for key, value in (ARRAYS | changes).items() if value is not None})
    return path


def test_facts_are_found_from_arrays_and_stay_where_they_are_typed(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "shapes.npz")
    found = check("arrays", path, "data.std=[0.1,0.2,0.3]")
    assert (found["name"], found["input_shape"], found["class_names"]) == (
        "shapes",
        [3, 8, 9],
        ["0", "1", "2"],
    )
    assert found["mean"] == pytest.approx(BYTES.mean(axis=(0, 1, 2)) / 255, abs=6e-5)
    assert found["std"] == [0.1, 0.2, 0.3]
    assert check("arrays", path)["std"] == pytest.approx(BYTES.std(axis=(0, 1, 2)) / 255, abs=6e-5)
    assert (
        check_config(check_config(compose_config("data=arrays", f"data.root={path}")))["data"]["name"]
        == "shapes"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "ROOT has no y_test (there are x_train, y_train, x_test)"),
        ({"y_val": LABELS}, "ROOT has no x_val (there are x_train, y_train, x_test, y_test, y_val)"),
        ({"x_train": BYTES / 255}, GIVE_BYTES + '(images * 255.0).round().astype("uint8"), since these go from 0 to 1'),
        ({"x_train": BYTES / 1}, GIVE_BYTES + 'images.round().astype("uint8"), since these go from 0 to 255'),
        ({"x_train": BYTES * 16.0 + 15}, GIVE_BYTES + '(images // 16).astype("uint8"), since these go from 15 to 4095'),
        ({"x_train": BYTES / 127.5 - 1}, GIVE_BYTES + '((images - -1) / 2 * 255).round().astype("uint8"), since these go from -1 to 1'),
        ({"x_train": BYTES[..., 0, 0]}, "own: train images are 30 x 8; give n x height x width, or "),
        ({"x_test": BYTES[:9, :3]}, "own: test images are 9 x 3 x 9 x 3; give n x height x width, or "),
        ({"y_train": LABELS / 1}, 'own: train labels are float64, 30; give whole numbers from 0: labels.astype("int64")'),
        ({"y_train": LABELS / 2}, "own: train labels are float64, 30; give whole numbers from 0: class_names, labels = numpy.unique(labels, return_inverse=True)"),
        ({"y_train": np.array(["a", "b", "c"])[LABELS]}, "own: train labels are <U1, 30; give whole numbers from 0: class_names, labels = numpy.unique(labels, return_inverse=True)"),
        ({"y_train": LABELS[None]}, "own: train labels are int64, 1 x 30; give one number per image: labels.ravel()"),
        ({"y_train": np.eye(3)[LABELS]}, "own: train labels are float64, 30 x 3; give one number per image: labels.argmax(axis=1)"),
        ({"y_test": LABELS[:9] + 1}, "own is not as its settings state: test labels are 3 numbers from 1 to 3 instead of 3 from 0 to 2 (give labels - 1)"),
        ({"x_train": BYTES * 0}, "own is not as its settings state: all pixels of all train images are 0"),
        ({"class_names": ["disc", "disc", "ring"]}, "the source of own names the class disc more than once"),
        ({"class_names": ["a", "b", "${seed}"]}, "the source of own: no class can have the name '${seed}': rename it"),
        ({"y_train": LABELS[1:]}, "own is not as its settings state: there are 30 train images and 29 labels"),
        ({"x_train": BYTES.astype(object)}, "ROOT is not a file of arrays written by numpy.savez"),
    ],
)  # fmt: skip
def test_arrays_that_are_none_of_images_get_one_message(changes: dict, message: str, tmp_path: Path) -> None:
    found = refuse("arrays", write_arrays(tmp_path / "own.npz", **changes))
    assert found == message or (message.endswith(" ") and found.startswith(message))


def test_validation_images_and_names_of_classes_are_taken_from_arrays(tmp_path: Path) -> None:
    more = {"x_val": BYTES[:6], "y_val": LABELS[:6], "class_names": np.array([7, 8, 9])}
    path = write_arrays(tmp_path / "own.npz", **more)
    assert check("arrays", path)["class_names"] == ["7", "8", "9"]
    assert len(read_arrays(path)["val"][1]) == 6


def test_a_class_that_the_arrays_lack(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "own.npz")
    assert check("arrays", path, "data.classes=[2,0]")["classes"] == ["2", "0"]
    assert refuse("arrays", path, "data.classes=[2,3]") == (
        "data.classes=[2,3]: own has no class '3' (choose from 0, 1, 2)"
    )
    assert refuse("arrays", tmp_path / "nothing.npz").startswith("ROOT does not exist")
    assert refuse("arrays", tmp_path / "nothing.npz", "model.pool=maxi").startswith("ROOT does not exist")
    (tmp_path / "bad.npz").write_text("what nobody looks at before the rest is checked")
    assert refuse("arrays", tmp_path / "bad.npz", "model.pool=maxi").startswith(
        "model.pool=maxi is not an option"
    )


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 3, 1, 2)])
def test_channels_are_found_on_the_second_or_the_last_axis(axes: tuple[int, ...]) -> None:
    found = read_source(lambda: {"train": (BYTES.transpose(axes), LABELS)}, None, "own")["train"]
    assert np.array_equal(found.images, BYTES.transpose(0, 3, 1, 2))
    gray = read_source(lambda: {"train": (BYTES[..., 0], LABELS.astype(np.uint8))}, None, "own")["train"]
    assert gray.images.shape == (30, 1, 8, 9)
    assert gray.labels.dtype == np.int64


def test_the_function_that_the_guide_shows_is_a_data_set(tmp_path: Path) -> None:
    text = (PROJECT / "docs" / "own.md").read_text()
    (tmp_path / "my_data.py").write_text(re.search(r"```python\n(# my_data.py\n.*?)```", text, re.DOTALL)[1])
    command = re.search(r"python scripts/train.py (data=own .*)", text)[1].split()
    places = [
        f"output_dir={tmp_path}",
        "trainer.accelerator=cpu",
        "trainer.max_epochs=2",
        "pictures.enabled=false",
    ]
    done = train_command(*command, *places, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    result = read_result(only_run(tmp_path))
    assert result["dataset"] == {"name": "my_data.read", "sizes": {"train": 900, "val": 100, "test": 200}}
    assert result["test/accuracy"] > 0.9
    measured = run_script("evaluate.py", str(only_run(tmp_path)), "--trust", cwd=tmp_path)
    assert f"{result['test/accuracy']:.2%}" in measured.stdout, measured.stderr
    explained = run_script("explain.py", str(only_run(tmp_path)), "--trust", cwd=tmp_path)
    assert explained.returncode == 0, explained.stderr
    assert "It says <b>" in (only_run(tmp_path) / "explain.html").read_text()


def test_a_function_that_fails_is_told_with_its_own_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, code, problem in (
        (
            "bad_import",
            "import nothing_here\n\ndef read(): ...",
            "ModuleNotFoundError: No module named 'nothing_here'",
        ),
        ("bad_number", "def read():\n    return 1 / 0", "ZeroDivisionError: division by zero"),
    ):
        Path(f"{name}.py").write_text(code)
        with pytest.raises(DataError) as caught:
            check_config(compose_config("data=own", f"data.source._target_={name}.read"))
        assert str(caught.value).startswith(f"the source of {name}.read fails: {problem}\n  {name}.py, line ")
    with pytest.raises(
        ConfigError, match=r"^data.source has no _target_: name a class or function, as in data\.source"
    ):
        check_config(compose_config("data=own"))


def draw(label: int, height: int = 12, width: int = 16) -> Image.Image:
    """Noise that is bright in the channel of its class, or for the last one in the middle."""
    pixels = GENERATOR.integers(0, 80, size=(height, width, 3), dtype=np.uint8)
    pixels[..., label] += 150
    return Image.fromarray(pixels)


def write_pictures(folder: Path, count: int, classes: list[str] = CLASSES[:3], **size: int) -> Path:
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            draw(label, **size).save(folder / name / f"{number}.{('png', 'bmp', 'tiff')[number % 3]}")
    return folder


def test_pictures_of_every_layout_are_read(tmp_path: Path) -> None:
    alone = write_pictures(tmp_path / "alone", 10)
    found = check("folder", alone)
    assert (found["name"], found["class_names"], found["input_shape"]) == ("alone", CLASSES[:3], [3, 12, 16])
    splits = read_folder(str(alone))
    assert np.bincount(splits["train"].labels).tolist() == [8, 8, 8]
    assert np.bincount(splits["test"].labels).tolist() == [2, 2, 2]
    for part in ("train", "test"):
        assert len(np.unique(splits[part].labels[:6])) > 1  # the classes are mixed
        assert np.array_equal(splits[part].images.mean(axis=(2, 3)).argmax(axis=1), splits[part].labels)
    other = read_folder(str(alone), split_seed=1, size=6, channels=1)
    assert other["test"].images.shape == (6, 1, 6, 6)
    for part, count in {"train": 4, "val": 2, "test": 1}.items():
        write_pictures(tmp_path / "parts" / part, count)
    parts = read_folder(str(tmp_path / "parts"))
    assert {part: len(parts[part].labels) for part in ("train", "val", "test")} == {
        "train": 12,
        "val": 6,
        "test": 3,
    }
    shutil.rmtree(tmp_path / "parts" / "test")
    folder._read_once.cache_clear()
    assert len(read_folder(str(tmp_path / "parts"))["test"].labels) == 2


def test_a_report_names_what_was_typed_of_pictures_not_what_follows(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "root", 5)
    typed = [["data.size=6"], ["data.size=8"], ["data.size=8", "data.mean=0.5"]]
    found = [{f"data.{key}": value for key, value in check("folder", root, *own).items()} for own in typed]
    records = [Record(tmp_path, {}, "completed", settings, identify(settings)) for settings in found]
    assert set(compare(records[:2])[0]) == {"data.size"}
    assert set(compare(records)[0]) == {"data.size", "data.mean"}


def test_pictures_become_upright_bytes_of_one_size(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_pictures(tmp_path / part, 3, ["a", "b"])
    deep = np.arange(0, 65536, 512, dtype=np.uint16).reshape(8, 16)
    Image.fromarray(deep).save(tmp_path / "train" / "a" / "a16bits.png")
    quarters = Image.new("L", (16, 16))
    quarters.paste(255, (0, 0, 16, 8))  # bright above
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown turned to the right
    quarters.rotate(90).save(tmp_path / "train" / "a" / "b.png", exif=turned)
    Image.new("RGBA", (8, 8), (9, 9, 9, 0)).save(tmp_path / "train" / "a" / "c.webp", lossless=True)
    Image.new("L", (300, 100), 200).save(tmp_path / "train" / "a" / "d.jpg")
    images = read_folder(str(tmp_path), size=(8, 16), channels=1)["train"].images
    (gradient,) = (image for image in images[:, 0] if np.array_equal(image[0], np.arange(0, 32, 2)))
    assert np.array_equal(gradient, deep >> 8)
    assert sum(image[:3].min() > 250 and image[-3:].max() < 5 for image in images[:, 0]) == 1  # bright above
    assert sum(image.min() == 255 for image in images) == 1  # transparent, on white
    assert sum(abs(image.astype(float) - 200).max() < 3 for image in images) == 1


def test_pictures_are_decoded_once_and_anew_when_they_change(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = write_pictures(tmp_path / "pictures", 5)
    first = read_folder(str(pictures))
    (kept,) = cache.iterdir()
    folder._read_once.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", lambda *_, **__: pytest.fail("a picture is opened"))
        again = read_folder(str(pictures))
    assert all(
        np.array_equal(*pair)
        for part in ("train", "test")
        for pair in zip(first[part], again[part], strict=True)
    )
    draw(2).save(pictures / CLASSES[0] / "0.png")
    kept_before = kept.read_bytes()
    for damage in (lambda: None, lambda: kept.write_bytes(kept_before[:2_000])):
        damage()
        folder._read_once.cache_clear()
        changed = read_folder(str(pictures))["train"].images
        assert (
            sum(not np.array_equal(*pair) for pair in zip(changed, first["train"].images, strict=True)) <= 1
        )
        assert list(cache.iterdir()) == [kept]
        assert kept.read_bytes() != kept_before


def test_folders_that_make_no_data_set_get_one_message(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "empty").mkdir(parents=True)
    needs = "it needs two or more folders of pictures, one per class, directly in it or in train/ and test/"
    assert refuse("folder", root) == f"ROOT has no folders with pictures: {needs}"
    write_pictures(root, 3, ["cat"])
    assert refuse("folder", root) == "ROOT: the folder empty has no pictures: put some there or delete it"
    (root / "empty").rmdir()
    assert refuse("folder", root) == f"ROOT has one class, cat: {needs}"
    (root / "dog").symlink_to(write_pictures(tmp_path / "other", 1, ["dog"]) / "dog")
    assert (
        refuse("folder", root)
        == f"ROOT has one class, cat: {needs}; 1 links that lead out of it are not followed"
    )
    (root / "dog").unlink()
    write_pictures(root, 1, ["dog"], width=20)
    assert refuse("folder", root) == (
        "ROOT: the pictures have 2 different sizes. Type data.size=12 to scale and crop each of them to 12 x 12 pixels"
    )
    assert check("folder", root, "data.size=10")["input_shape"] == [3, 10, 10]
    assert check("folder", root, "data.size=[10,11]")["input_shape"] == [3, 10, 11]
    (root / "\x1b[2Jbird").mkdir()
    assert refuse("folder", root) == "ROOT: the folder [2Jbird cannot name a class: rename it"
    (root / "\x1b[2Jbird").rmdir()
    write_pictures(root / "train", 3, ["cat", "dog"])
    write_pictures(root / "test", 3, ["cat", "dgo"])
    assert refuse("folder", root) == "ROOT: test/dgo is a class that train/ lacks. Did you mean 'dog'?"
    assert refuse("folder", root / "dog" / "0.png") == "ROOT is not a folder"


def test_broken_pictures_are_named_or_left_out_and_bombs_are_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_pictures(tmp_path / "root", 4)
    path = root / CLASSES[0] / "0.png"
    path.write_bytes(path.read_bytes()[:-60])
    bomb = root / CLASSES[1] / "bomb.png"
    Image.new("1", (20_000, 10_000)).save(bomb)
    message = (
        r"ROOT/class {}\.png cannot be read: .*{}.*\. Mend it, delete it, or type data\.skip_broken=true to leave out the "
        "{} of {} pictures of that kind"
    )
    assert re.fullmatch(message.format("10/bomb", "too many pixels", 2, 13), refuse("folder", root))
    splits = read_folder(str(root), skip_broken=True)
    assert sum(len(splits[part].labels) for part in ("train", "test")) == 11
    assert capsys.readouterr().err == "2 of 13 pictures cannot be read and are left out\n"
    bomb.unlink()
    assert re.fullmatch(message.format("2/0", "truncated", 1, 12), refuse("folder", root))


def test_every_script_works_with_pictures_in_folders(tmp_path: Path) -> None:
    root = tmp_path / "Colours"
    for part, count in {"train": 20, "val": 4, "test": 5}.items():
        write_pictures(root / part, count)
    places = [f"data.root={root}", f"output_dir={tmp_path}"]
    done = train_command("-m", "data=folder", "seed=0,1", *places, *FAST)
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "sweeps").iterdir()
    runs = sorted(path.parent for path in sweep.glob("*/result.json"))
    expected = {"name": "Colours", "sizes": {"train": 60, "val": 12, "test": 15}}
    assert [read_result(run)["dataset"] for run in runs] == [expected] * 2
    shutil.move(root, tmp_path / "moved")
    gone = run_script("evaluate.py", str(runs[0]))
    assert (gone.returncode, gone.stderr.count("\n")) == (2, 1)
    assert (
        f"data.root={root} does not exist: if you moved the images, put a link to them there" in gone.stderr
    )
    resumed = train_command(f"resume={runs[0]}", f"data.root={tmp_path / 'moved'}", "trainer.max_epochs=3")
    assert resumed.returncode == 0, resumed.stderr
    root.symlink_to(tmp_path / "moved")
    measured = run_script("evaluate.py", str(runs[0]))
    assert "15 test images of Colours" in measured.stdout
    assert re.search("class 10 +100.00%", measured.stdout)
    exported = run_script("export.py", str(runs[0]), "--format", "torch")
    assert "Checked on 15 test images of Colours" in exported.stdout


@pytest.mark.parametrize("names", [("Train", "Valid", "Test"), ("training", "validation", "testing")])
def test_parts_are_known_by_other_names_and_what_file_managers_leave_is_not_read(
    names: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    for name, count in zip(names, (4, 2, 1), strict=True):
        part = write_pictures(root / name, count)
        for junk in ("__MACOSX", ".ipynb_checkpoints"):
            write_pictures(part, 1, [junk])
        draw(0).save(part / CLASSES[0] / "._0.png")
        for junk in (".DS_Store", "Thumbs.db"):
            (part / junk).write_bytes(b"no picture")
            (part / CLASSES[0] / junk).write_bytes(b"no picture")
    write_pictures(root / "__MACOSX", 1)
    found = read_folder(root)
    sizes = {part: len(found[part].labels) for part in ("train", "val", "test")}
    assert list(found)[:3] == list(sizes)  # the order in which their pictures are mixed
    assert (found["class_names"], sizes) == (CLASSES[:3], {"train": 12, "val": 6, "test": 3})
    assert capsys.readouterr().err == ""
    folder._read_once.cache_clear()
    write_pictures(root / "unlabelled", 1)
    assert len(read_folder(root)["train"].labels) == 12
    assert "these folders are not read: unlabelled" in " ".join(capsys.readouterr().err.split())
    write_pictures(root / "train_", 1).rename(root / "TRAIN")
    assert refuse("folder", root).endswith("both hold train images. Put them into one folder, train/")
    for name in ("TRAIN", names[0]):
        shutil.rmtree(root / name)
    assert refuse("folder", root).endswith(" but no train/: put the training images there")


def test_a_class_keeps_a_training_image_or_is_named(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "root", 4, ["a", "b"])
    singles = [f"single {number}" for number in range(8)]
    for single in singles:
        write_pictures(root, 1, [single])
    splits = read_folder(root)
    assert np.unique(splits["train"].labels).tolist() == list(range(10))
    assert len(splits["test"].labels) == 3  # as many as were asked for, none of them of the singles
    labels = np.array([0] * 4 + [1] * 4 + [*range(2, 10)])
    rest, _ = stratified_split(labels, 6, 0)
    assert len({*labels[rest]}) == 10
    data = {"x_train": BYTES, "y_train": np.minimum(np.arange(30), 2), "x_test": BYTES, "y_test": LABELS}
    settings = check_config(
        compose_config("data=arrays", f"data.root={write_arrays(tmp_path / 'own.npz', **data)}")
    )
    for changes, setting in (({"fold": 0, "folds": 2}, "fold=0"), ({"train_size": 2}, "train_size=2")):
        module = make("data", {**settings["data"], **changes}, ImageDataModule)
        with pytest.raises(
            ConfigError, match=rf"data\.{setting}.* leaves no training image of the class \d, which has 1\."
        ):
            module.setup()
    (root / "single 3" / "0.png").write_bytes(b"no picture")
    folder._read_once.cache_clear()
    with pytest.raises(ConfigError, match="the class single 3 has 1 pictures and keeps none to train on"):
        read_folder(root, skip_broken=True)


OWN = """\
import numpy as np

def read(width, name="mine", std=1, classes=2, split_seed=9):
    assert (width, name, std, classes, split_seed) == EXPECTED
    images = np.arange(30 * 36, dtype=np.uint8).reshape(30, 6, 6)
    labels = np.arange(30) % 2
    return {"train": (images, labels), "test": (images, labels), "class_names": np.array([3, 8])}
"""


@pytest.mark.parametrize(
    ("typed", "expected", "message"),
    [
        (["data.width=5"], (5, "mine", 1, 2, 0), ""),
        (["data.source.width=5", "data.source.std=7", "data.source.name=a"], (5, "a", 7, 2, 0), ""),
        (["data.width=5", "data.source.split_seed=3"], (5, "mine", 1, 2, 3), ""),
        ([], (), "data.source.width is missing: "),
        (["data.width=5", "data.std=0.3"], (), "data.std is a setting of the images, and "),
        (["data.width=5", "data.classes=[3,8]"], (), "data.classes is a setting of the images, and "),
    ],
)  # fmt: skip
def test_the_arguments_of_a_source_are_its_own(
    typed: list[str], expected: tuple, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"own_{abs(hash(str(typed)))}"
    (tmp_path / f"{name}.py").write_text(OWN.replace("EXPECTED", repr(expected)))
    monkeypatch.syspath_prepend(str(tmp_path))
    config = compose_config("data=own", f"data.source._target_={name}.read", "model.num_outputs=2", *typed)
    if message:
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
            check_config(config)
    else:
        assert check_config(config)["data"]["class_names"] == ["3", "8"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("[a,b,a]", "data.class_names names the class a more than once"),
        (r"[a,b,'\${seed}']", "data.class_names: no class can have the name '${seed}': rename it"),
        ("[0,1,two]", ""),
    ],
)
def test_names_of_classes_are_texts_that_differ(typed: str, message: str, tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "own.npz")
    if message:
        assert refuse("arrays", path, f"data.class_names={typed}") == message
    else:
        assert check("arrays", path, f"data.class_names={typed}")["class_names"] == ["0", "1", "two"]
