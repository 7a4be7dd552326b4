"""Whatever is done with a trained network, on images that are as little like MNIST's as can be."""

import functools
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from cnn_lab.datasets import Split
from cnn_lab.errors import ConfigError, DataError
from cnn_lab.explain.explain import explain
from cnn_lab.runs.trained import load_trained
from cnn_lab.settings.config import check_config
from cnn_lab.sources.idx import read_idx
from cnn_lab.training import train
from cnn_lab.use.drawing import build_page
from cnn_lab.use.evaluation import evaluate
from cnn_lab.use.export import FILES, describe_input, export
from cnn_lab.use.prediction import draw_predictions, predict, read_pictures
from conftest import ENVIRONMENT, compose_config, read_result

CLASSES = ["T-shirt/top", "<b>green", "blue", "black"]  # the last one has no test images
SIZE = (3, 12, 16)
SETTINGS = [
    "data.name=Colours", "data.ink=false", "data.input_shape=[3,12,16]", f"data.class_names={json.dumps(CLASSES)}",
    "data.mean=[0.3,0.3,0.2]", "data.std=[0.3,0.3,0.25]", "data.val_size=20", "data.batch_size=16",
    "model.channels=[8,8]", "model.hidden=[16]", "model.dropout=0", "optimizer.lr=0.01",
    "trainer.accelerator=cpu", "trainer.max_epochs=2", "trainer.log_every_n_steps=1",
]  # fmt: skip


def make_split(size: int, classes: int, seed: int) -> Split:
    """Noise with much of one colour: that of the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % classes
    images = torch.randint(0, 80, (size, *SIZE), generator=generator, dtype=torch.uint8)
    for image, label in zip(images, labels, strict=True):
        if label < SIZE[0]:
            image[label] += 170
    return Split(images, labels)


def read_colours() -> dict[str, Split]:
    return {"train": make_split(420, 4, 0), "test": make_split(60, 3, 1)}


@dataclass
class Colours:
    """A run on them, with what TensorBoard was given."""

    path: Path
    events: EventAccumulator

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoints" / "best.ckpt"

    def read_text(self, name: str) -> str:
        (event,) = self.events.Tensors(f"{name}/text_summary")
        return event.tensor_proto.string_val[0].decode()

    def read_picture(self, name: str) -> np.ndarray:
        encoded = self.events.Images(f"pictures/{name}")[-1].encoded_image_string
        return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Colours:
    path = tmp_path_factory.mktemp("colours")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnn_lab.sources.idx.read_mnist", read_colours)
        overrides = ["optimizer.lr=0.01", "model.channels=[8,8]"]
        train(check_config(compose_config(*SETTINGS)), path, overrides=overrides, quiet=True)
    return Colours(path, EventAccumulator(str(path), size_guidance={"images": 0}).Reload())


@pytest.fixture(autouse=True)
def source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnn_lab.sources.idx.read_mnist", read_colours)


def test_it_is_measured_and_a_class_without_images_has_no_accuracy(colours: Colours) -> None:
    result = evaluate(colours.checkpoint)
    assert result["accuracy"] == read_result(colours.path)["test/accuracy"] > 0.9
    assert (result["classes"], result["dataset"], result["images"]) == (CLASSES, "Colours", 60)
    assert result["class_accuracy"][3] is None
    assert np.mean(result["class_accuracy"][:3]) == pytest.approx(result["accuracy"])
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("kind", FILES)
def test_it_is_exported(kind: str, colours: Colours, tmp_path: Path) -> None:
    exported = export(colours.path, colours.checkpoint, kind, tmp_path / FILES[kind])
    assert exported.images == 60
    assert describe_input(exported.trained) == "uint8 (batch, 3, 12, 16), 0 to 255, such as those of Colours"


def test_tensorboard_shows_colours_and_the_names_of_classes(colours: Colours) -> None:
    scalars = {tag for tag in colours.events.Tags()["scalars"] if tag.startswith("class_accuracy")}
    assert len(scalars) == 4
    assert "class_accuracy/T-shirt_top" in scalars
    samples = colours.read_picture("samples")
    for channel in range(3):
        others = np.delete(samples, channel, axis=2).max(axis=2)
        assert (samples[..., channel] - others > 80).sum() > 1_000
    kernels = colours.read_picture("kernels")
    assert (np.ptp(kernels, axis=2) > 30).sum() > 1_000
    features = colours.path / "00000" / "last_hidden_layer"
    assert (features / "metadata.tsv").read_text().splitlines()[1].split("\t")[0] == "T-shirt/top"
    with Image.open(features / "sprite.png") as sprite:
        assert np.ptp(np.asarray(sprite.convert("RGB")).astype(int), axis=2).max() > 150


def test_tensorboard_has_the_layer_table_and_first_in_hparams_what_was_typed(colours: Colours) -> None:
    head, _, first, *_, last = colours.read_text("layers").splitlines()
    assert head == "| layer | operation | output | parameters | multiply-adds |"
    assert first == "| block 1 conv | conv 3x3, padding 1 | 8 x 12 x 16 | 224 | 41,472 |"
    assert last.startswith("| total |")
    content = colours.events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    settings = HParamsPluginData.FromString(content).experiment.hparam_infos
    shown = {setting.name for setting in settings if setting.differs}
    assert shown == {"lr", "channels"}


def test_what_needs_gray_squares_says_so_at_once(colours: Colours, tmp_path: Path) -> None:
    trained = load_trained(colours.checkpoint)
    uses = {
        "explain": lambda: explain(trained, colours.path, tmp_path),
        "draw": lambda: build_page(trained, ""),
    }
    for name, use in uses.items():
        with pytest.raises(ConfigError) as caught:
            use()
        assert str(caught.value) == (
            f"{name} needs square gray images, but those of Colours have 3 channels of 12 x 16 pixels; "
            "give a run on other data"
        )
    assert list(tmp_path.iterdir()) == []


def test_pictures_in_colour_are_scaled_and_cropped_as_they_are(colours: Colours, tmp_path: Path) -> None:
    tones = {"green": (0, 230, 0), "blue": (10, 0, 220), "black": (0, 0, 0)}
    for name, tone in tones.items():
        Image.new("RGB", (300, 100), tone).save(tmp_path / f"{name}.png")
    Image.new("RGBA", (90, 90), (0, 220, 0, 255)).save(tmp_path / "opaque.png")
    trained = load_trained(colours.checkpoint)
    found = predict(trained, read_pictures([str(tmp_path)], trained))
    assert [row.digit.pixels.shape for row in found] == [(12, 16, 3)] * 4
    assert [row.digit.pixels[5, 5].tolist() for row in found] == [
        [0, 0, 0],
        [10, 0, 220],
        [0, 230, 0],
        [0, 220, 0],
    ]
    assert [row.ranking[0][0] for row in found] == ["black", "blue", "<b>green", "<b>green"]
    draw_predictions(found, tmp_path / "show.png")
    with Image.open(tmp_path / "show.png") as picture:
        assert (np.asarray(picture) == tones["blue"]).all(axis=2).sum() > 10_000


def test_two_classes_with_shuffled_pixels_in_a_fold(tmp_path: Path) -> None:
    typed = [
        "data.classes=[blue,T-shirt/top]",
        "data.shuffle_pixels=true",
        "data.fold=1",
        "pictures.enabled=false",
    ]
    train(check_config(compose_config(*SETTINGS, *typed)), tmp_path, quiet=True)
    assert read_result(tmp_path)["dataset"]["sizes"] == {"train": 168, "val": 42, "test": 40}
    checkpoint = tmp_path / "checkpoints" / "best.ckpt"
    result = evaluate(checkpoint)
    assert result["classes"] == ["blue", "T-shirt/top"]
    assert result["accuracy"] == read_result(tmp_path)["test/accuracy"] > 0.9
    assert export(tmp_path, checkpoint, "torch").images == 40
    with pytest.raises(
        ConfigError, match=r"^explain needs images in their usual order; give a run without data.shuf"
    ):
        explain(load_trained(checkpoint), tmp_path, tmp_path)


def test_a_run_of_eight_gpus_is_used_where_there_is_none(colours: Colours, tmp_path: Path) -> None:
    checkpoint = torch.load(colours.checkpoint, weights_only=True)
    hardware = {"accelerator": "cuda", "devices": 8, "strategy": "ddp", "sync_batchnorm": True}
    checkpoint["config"]["trainer"] |= hardware
    torch.save(checkpoint, tmp_path / "best.ckpt")
    assert evaluate(tmp_path / "best.ckpt")["accuracy"] == evaluate(colours.checkpoint)["accuracy"]
    assert export(tmp_path, tmp_path / "best.ckpt", "torch").path.is_file()


def test_nothing_is_written_to_the_data_folder_that_a_checkpoint_names(
    colours: Colours, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.setenv(name, ENVIRONMENT[name])
    monkeypatch.setattr("cnn_lab.runs.trained.DATA", tmp_path / "project" / "data")
    named = tmp_path / "named" / "FashionMNIST" / "raw"
    named.mkdir(parents=True)
    trained = load_trained(colours.checkpoint)
    trained.data.root = str(tmp_path / "named")
    trained.config["data"]["source"]["_target_"] = "cnn_lab.sources.idx.read_idx"
    trained.data.source = functools.partial(read_idx, dataset="FashionMNIST")
    own = tmp_path / "project" / "data" / "FashionMNIST" / "raw"
    with pytest.raises(DataError, match=rf"is not in {re.escape(str(own))} and could not be downloaded"):
        trained.load_data()
    assert list((tmp_path / "named").rglob("*")) == [named.parent, named]
