"""Two classes, which a network tells apart with one output, in everything that is done with it."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from cnn_lab.datasets import Split
from cnn_lab.explain.explain import find_test_image
from cnn_lab.explain.story import tell_story
from cnn_lab.runs.trained import Trained, load_trained
from cnn_lab.settings.config import check_config
from cnn_lab.training import train
from cnn_lab.use.evaluation import evaluate
from cnn_lab.use.export import FILES, export
from conftest import compose_config, read_result

SETTINGS = [
    "data.name=Sides", "data.class_names=[left,right]", "data.val_size=40", "data.batch_size=16", "model.channels=[4]",
    "model.hidden=[8]", "model.dropout=0", "optimizer.lr=0.01", "trainer.accelerator=cpu", "trainer.max_epochs=2", "trainer.log_every_n_steps=1",
]  # fmt: skip


def make_split(size: int, seed: int) -> Split:
    """Noise, brighter on the side of the class; some labels are wrong, so that no answer is sure."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 100, (size, 1, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.arange(size) % 2
    for index, label in enumerate(labels):
        images[index, ..., 14 * label : 14 * (label + 1)] += 100
    labels[::20] = 1 - labels[::20]
    return Split(images, labels)


def read_sides() -> dict[str, Split]:
    return {"train": make_split(240, 0), "test": make_split(60, 1)}


@pytest.fixture(autouse=True, scope="module")
def source() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnn_lab.sources.idx.read_mnist", read_sides)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sides")
    train(check_config(compose_config(*SETTINGS)), path, quiet=True)
    return path


@pytest.fixture(scope="module")
def sides(run: Path) -> Trained:
    return load_trained(run / "checkpoints" / "best.ckpt")


def test_the_one_output_is_shown_and_its_answers_are_counted_by_class(run: Path, sides: Trained) -> None:
    assert sides.net.layers[-1].output == sides.net.head[-1].bias.shape == (1,)
    assert re.search(r"^logits +linear +1 +9 +8$", (run / "train.log").read_text(), re.MULTILINE)
    result = evaluate(sides.path)
    assert result["accuracy"] == read_result(run)["test/accuracy"] == pytest.approx(0.95)
    assert result["confusion"] == [[27, 0], [3, 30]]
    assert result["class_accuracy"] == pytest.approx([1, 30 / 33])


def test_there_is_a_probability_for_each_class(sides: Trained) -> None:
    images, _ = sides.read_test_images()
    with torch.inference_mode():
        expected = sides.net(sides.normalise(images)).sigmoid()[:, 0].numpy()
    probabilities = sides.predict(images)
    assert probabilities == pytest.approx(np.stack([1 - expected, expected], axis=1), abs=1e-6)
    story = tell_story(sides, "", find_test_image(sides, 3))
    assert story.probabilities == pytest.approx(probabilities[3], abs=1e-5)
    assert story.answer == "right"


@pytest.mark.parametrize("kind", FILES)
def test_both_probabilities_are_exported(kind: str, run: Path, sides: Trained, tmp_path: Path) -> None:
    exported = export(run, sides.path, kind, tmp_path / FILES[kind])  # compares all probabilities
    assert (exported.images, exported.trained.classes) == (60, ["left", "right"])
