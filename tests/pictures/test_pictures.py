"""What TensorBoard shows besides curves, read from the event files of a run."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from cnn_lab.pictures.network import Mistakes
from cnn_lab.pictures.sheets import Tile, draw_confusion, draw_sheet
from cnn_lab.pictures.style import BLUE, ORANGE, shade
from cnn_lab.settings.config import check_config
from cnn_lab.training import train
from cnn_lab.use.evaluation import evaluate
from conftest import SMALL_DATA, TrainedRun, compose_config

PICTURES = {"samples", "kernels", "kernels_change", "block_1", "block_2", "confusion", "mistakes"}
WIDEST = 350  # pixels that TensorBoard shows unchanged


def read_events(run_dir: Path) -> EventAccumulator:
    events = EventAccumulator(str(run_dir), size_guidance={"images": 0, "scalars": 0, "histograms": 0})
    return events.Reload()


@pytest.fixture(scope="module")
def events(trained: TrainedRun) -> EventAccumulator:
    return read_events(trained.path)


def test_every_picture_is_there_at_every_epoch(events: EventAccumulator, trained: TrainedRun) -> None:
    tags = {tag.removeprefix("pictures/"): tag for tag in events.Tags()["images"]}
    assert set(tags) == PICTURES
    steps = [row["step"] for row in trained.read_rows()]
    assert [item.step for item in events.Images(tags["samples"])] == [0]
    assert [item.step for item in events.Images(tags["kernels"])] == [0, *steps]
    for name in ("block_1", "block_2", "confusion", "mistakes"):
        assert [item.step for item in events.Images(tags[name])] == steps
    for tag in tags.values():
        picture = Image.open(io.BytesIO(events.Images(tag)[-1].encoded_image_string))
        assert 200 <= picture.width <= WIDEST
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20)}
        assert len(colors) > 10


def test_the_accuracy_of_each_class_is_that_of_the_confusion_matrix(
    events: EventAccumulator, trained: TrainedRun
) -> None:
    last = [events.Scalars(f"class_accuracy/{digit}")[-1].value for digit in range(10)]
    checkpoint = trained.path / "checkpoints" / "last.ckpt"
    assert last == pytest.approx(evaluate(checkpoint, "val")["class_accuracy"], abs=1e-6)


def test_histograms_of_weights_and_gradients(events: EventAccumulator, trained: TrainedRun) -> None:
    names = set(torch.load(trained.path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    names = {name.removeprefix("net.") for name in names if name.startswith("net.")}
    assert set(events.Tags()["histograms"]) == {
        f"{kind}/{name}" for kind in ("weights", "gradients") for name in names
    }
    assert events.Histograms("weights/blocks.1.conv.weight")[-1].histogram_value.num == 16 * 8 * 3 * 3


def test_the_embedding_is_of_the_last_hidden_layer(trained: TrainedRun) -> None:
    assert "last_hidden_layer" in (trained.path / "projector_config.pbtxt").read_text()
    folder = trained.path / "00000" / "last_hidden_layer"
    features = np.loadtxt(folder / "tensors.tsv")
    assert features.shape == (500, 128)
    header, *rows = (folder / "metadata.tsv").read_text().splitlines()
    assert header == "label\tprediction"
    guesses = [row.split("\t") for row in rows]
    assert np.mean([label == guess for label, guess in guesses]) == pytest.approx(
        trained.result["test/accuracy"]
    )
    with Image.open(folder / "sprite.png") as sprite:
        assert sprite.size == (23 * 28, 23 * 28)  # the smallest square for 500


def test_pictures_change_nothing_that_is_trained(tmp_path: Path) -> None:
    weights = []
    for enabled in ("true", "false"):
        settings = check_config(compose_config(
            *SMALL_DATA, "trainer.accelerator=cpu", "trainer.limit_train_batches=3", "trainer.max_epochs=2", "model.channels=[2,4]",
            "model.norm=batch", "trainer.log_every_n_steps=1", f"pictures.enabled={enabled}",
        ))  # fmt: skip
        (tmp_path / enabled).mkdir()
        train(settings, tmp_path / enabled, quiet=True)
        weights.append(
            torch.load(tmp_path / enabled / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        )
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert read_events(tmp_path / "false").Tags()["images"] == []
    assert not (tmp_path / "false" / "projector_config.pbtxt").exists()


def test_other_networks_go_without_kernels_and_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = check_config(compose_config(
        *SMALL_DATA, "trainer.accelerator=cpu", "trainer.limit_train_batches=2", "trainer.max_epochs=25", "trainer.log_every_n_steps=1",
        "trainer.limit_val_batches=1", "trainer.limit_test_batches=1",
    ))  # fmt: skip

    class Linear(nn.Module):
        def __init__(self, input_shape: tuple[int, ...], num_classes: int, **_: object) -> None:
            super().__init__()
            self.layer = nn.Linear(28 * 28, num_classes)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.layer(images.flatten(1))

    monkeypatch.setattr("cnn_lab.model.CNN", Linear)
    train(settings, tmp_path, quiet=True)
    events = read_events(tmp_path)
    assert {tag.removeprefix("pictures/") for tag in events.Tags()["images"]} == {
        "samples",
        "confusion",
        "mistakes",
    }
    steps = [item.step // 2 for item in events.Images("pictures/confusion")]
    assert steps == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 25]


def test_any_network_with_convolutions_maps_and_features_shows_them(tmp_path: Path) -> None:
    settings = check_config(compose_config(
        *SMALL_DATA, "model=resnet", "model.depth=6", "model.widths=[4,6]", "trainer.accelerator=cpu", "trainer.max_epochs=1",
        "trainer.limit_train_batches=2", "trainer.log_every_n_steps=1",
    ))  # fmt: skip
    train(settings, tmp_path, quiet=True)
    assert {tag.removeprefix("pictures/") for tag in read_events(tmp_path).Tags()["images"]} == PICTURES | {
        "block_3"
    }
    assert np.loadtxt(tmp_path / "00000" / "last_hidden_layer" / "tensors.tsv").shape == (500, 6)


def test_mistakes_are_the_wrong_answers_with_the_highest_probability() -> None:
    mistakes = Mistakes(3)
    generator = torch.Generator().manual_seed(0)
    logits, labels = (
        torch.randn(60, 10, generator=generator) * 3,
        torch.randint(0, 10, (60,), generator=generator),
    )
    images = torch.arange(60.0).reshape(60, 1, 1, 1)
    for start in range(0, 60, 20):
        mistakes.update(*(values[start : start + 20] for values in (images, labels, logits)))
    shares, guesses = logits.softmax(dim=1).max(dim=1)
    wrong = sorted(
        (index for index in range(60) if guesses[index] != labels[index]), key=lambda index: -shares[index]
    )
    assert [int(image) for _, image, _, _ in mistakes.read()] == wrong[:3]
    assert [(label, guess) for *_, label, guess in mistakes.read()] == [
        (int(labels[i]), int(guesses[i])) for i in wrong[:3]
    ]
    mistakes = Mistakes(5)
    mistakes.update(images, guesses, logits)
    assert mistakes.read() == []


def test_signed_numbers_have_one_scale() -> None:
    colors = shade(np.array([-2.0, 0.0, 2.0, 1.0]))
    assert [f"#{bytes(color).hex().upper()}" for color in colors[:3]] == [BLUE, "#FFFFFF", ORANGE]
    assert np.abs(colors[3].astype(int) - (colors[1].astype(int) + colors[2]) / 2).max() <= 1
    assert shade(np.zeros((2, 2))).tolist() == [[[255, 255, 255]] * 2] * 2


def test_sheets_and_matrices_hold_what_they_are_given() -> None:
    tiles = [Tile(np.full((2, 2), value, np.uint8), str(value)) for value in (0, 128, 255)]
    sheet = np.asarray(draw_sheet(tiles, columns=2, side=20, title="three"))
    assert all((sheet == value).all(axis=2).sum() >= 400 for value in (0, 128, 255))
    counts = np.eye(3, dtype=int) * 10 + np.array([[0, 1, 0]] * 3)
    matrix = draw_confusion(counts, ["a", "b", "c"], "")
    assert (np.asarray(matrix) == np.array([225, 225, 225])).all(axis=2).sum() > 3 * 300
