"""Two networks on the same test images: what is counted, what is computed, and what is drawn."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnn_lab.commands.compare import choose_runs
from cnn_lab.errors import ConfigError
from cnn_lab.pictures.style import BLUE, GRAY, ORANGE
from cnn_lab.use.comparison import Comparison, compare, find_interval
from conftest import TrainedRun, run_script

BEST = Path("checkpoints", "best.ckpt")


@pytest.fixture(scope="module")
def worse(trained: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained run with two of its classes mixed up."""
    run = shutil.copytree(trained.path, tmp_path_factory.mktemp("worse") / "run")
    checkpoint = torch.load(run / BEST, weights_only=True)
    bias = next(value for name, value in reversed(checkpoint["state_dict"].items()) if name.endswith("bias"))
    bias[[3, 5]] += torch.tensor([2.0, -2.0])
    torch.save(checkpoint, run / BEST)
    return run


def test_two_runs_are_compared(trained: TrainedRun, worse: Path, tmp_path: Path) -> None:
    runs, sheet = [str(trained.path), str(worse)], tmp_path / "new" / "sheet.png"
    done = run_script("compare.py", *runs, "--json", "--output", str(sheet))
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    right, images = found["right"], found["images"]
    assert (sum(right.values()), images, found["dataset"]) == (10_000, 10_000, "MNIST")
    assert found["accuracy"] == pytest.approx(
        [(right["both"] + right["only A"]) / images, (right["both"] + right["only B"]) / images]
    )
    assert right["only A"] > right["only B"] > 0
    assert found["difference"] == pytest.approx(found["accuracy"][0] - found["accuracy"][1])
    assert found["interval"][0] < found["difference"] < found["interval"][1]
    with Image.open(sheet) as picture:
        assert picture.width > 800


def make_comparison(trained: TrainedRun, counts: tuple[int, int, int, int]) -> Comparison:
    """With so many images that both, only A, only B and neither get right, which then differ, too."""
    networks = compare(trained.path / BEST, trained.path / BEST).networks
    labels = np.zeros(sum(counts), int)
    guesses = np.repeat(np.array([[0, 0, 1, 1], [0, 1, 0, 2]]), counts, axis=1)
    return Comparison(networks, np.zeros((len(labels), 1, 28, 28), np.uint8), labels, guesses)


def test_its_words_and_numbers(trained: TrainedRun, tmp_path: Path) -> None:
    found = make_comparison(trained, (9_000, 30, 15, 955))
    assert list(found.describe()) == [
        "correct on: both 9,000, only A 30, only B 15, neither 955",
        "A's accuracy minus B's: +0.15 percentage points (95% interval +0.02 to +0.28)",
        (
            "Only one network is right on 45 images: A on 30, B on 15. McNemar's exact test: p = 0.036, the probability of "
            "a split at least this uneven if A and B were equally good"
        ),
        (
            "This compares these two trained networks on these test images. It does not say how networks with other seeds "
            "would differ: for that, sweep over seeds"
        ),
    ]
    assert make_comparison(trained, (3, 0, 0, 1)).as_dict()["p_value"] == 1.0
    assert found.draw(tmp_path / "sheet.png") == 1_000
    with Image.open(tmp_path / "sheet.png") as picture:
        colors = {tuple(color) for color in np.asarray(picture).reshape(-1, 3)}
    for color in (BLUE, ORANGE, GRAY):  # of each kind some are shown
        assert tuple(int(color[start : start + 2], 16) for start in (1, 3, 5)) in colors


def test_the_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    for images, shares in ((10_000, (0.008, 0.005)), (500, (0.03, 0.03)), (200, (0.1, 0.02))):
        drawn = generator.multinomial(images, [*shares, 1 - sum(shares)], size=2_000)
        intervals = [find_interval(int(a), int(b), images) for a, b, _ in drawn]
        covered = np.mean([low <= shares[0] - shares[1] <= high for low, high in intervals])
        assert 0.935 < covered < 0.985


def test_other_test_images_are_refused(trained: TrainedRun, tmp_path: Path) -> None:
    checkpoint = torch.load(trained.path / BEST, weights_only=True)
    names = next(name for name in ("class_names", "classes") if name in checkpoint["config"]["data"])
    checkpoint["config"]["data"][names][0] = "zero"
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(ConfigError, match=r"the test images differ: \S+ has 10,000 of MNIST in 10 classes, "):
        compare(trained.path / BEST, tmp_path / "other.ckpt")
    done = run_script("compare.py", *[str(trained.path)] * 3)
    assert done.stderr == (
        "Error: two networks are compared at a time, and there are 3; give two runs or a sweep\n"
    )


def test_of_a_sweep_the_best_runs_of_its_two_best_settings_are_compared(
    trained: TrainedRun, worse: Path, tmp_path: Path
) -> None:
    sweep = tmp_path / "sweep"
    for name, run, dropout, accuracy in (
        ("0-a", trained.path, 0.5, 0.7), ("1-b", trained.path, 0.25, 0.9), ("2-b", worse, 0.25, 0.91),
        ("3-c", worse, 0.0, 0.8),
    ):  # fmt: skip
        shutil.copytree(run, sweep / name)
        result = json.loads((run / "result.json").read_text())
        result |= {"best": {"val/accuracy": accuracy, "epoch": 1}}
        (sweep / name / "result.json").write_text(json.dumps(result))
        text = (run / "config.yaml").read_text()
        assert "dropout: 0.5" in text
        text = text.replace("dropout: 0.5", f"dropout: {dropout}").replace("\nseed: 0", f"\nseed: {name[0]}")
        (sweep / name / "config.yaml").write_text(text)
    (sweep / "sweep.yaml").write_text("kind: grid\nswept: {}\nsettings: {}\n")
    done = run_script("compare.py", str(sweep), "--output", str(tmp_path / "sheet.png"))
    assert (done.returncode, done.stderr) == (0, "")
    first, second = (line for line in done.stdout.splitlines() if re.match("[AB]  accuracy", line))
    assert first.endswith(f"{sweep}/2-b/checkpoints/best.ckpt")
    assert second.endswith(f"{sweep}/3-c/checkpoints/best.ckpt")


def test_of_a_sweep_without_validation_two_runs_have_to_be_named(trained: TrainedRun, tmp_path: Path) -> None:
    for number in range(2):
        shutil.copytree(trained.path, tmp_path / f"{number}-a")
        result = {**trained.result, "best": None}
        (tmp_path / f"{number}-a" / "result.json").write_text(json.dumps(result))
    (tmp_path / "sweep.yaml").write_text("kind: grid\nswept: {}\nsettings: {}\n")
    with pytest.raises(
        ConfigError, match=r"does not say which two runs .* 0 of its settings .* Name two runs"
    ):
        choose_runs(tmp_path)
