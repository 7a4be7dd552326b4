"""The package as `pip install` leaves it: a wheel, an empty folder, and the user's own files beside the results."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_lab.settings.places import PROJECT
from conftest import ENVIRONMENT, WAITING, only_run

pytestmark = pytest.mark.slow
TINY = (
    "data.train_size=200", "data.val_size=100", "trainer.max_epochs=1", "trainer.accelerator=cpu",
    "trainer.limit_val_batches=1", "trainer.limit_test_batches=1", "pictures.enabled=false",
)  # fmt: skip
NETWORK = """
from torch import nn

class Tiny(nn.Sequential):
    def __init__(self, input_shape, num_classes, width=4):
        super().__init__(nn.Flatten(), nn.LazyLinear(width), nn.ReLU(), nn.Linear(width, num_classes))
"""
Installed = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Runs `cnn-lab` of a wheel that lies alone in a folder, with the libraries of this environment."""
    place = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(place), str(PROJECT)], check=True)
    (wheel,) = place.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(place / "site"), str(wheel)], check=True)

    def run(folder: Path, *typed: str) -> subprocess.CompletedProcess[str]:
        variables = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(place / "site")}
        command = [sys.executable, str(place / "site" / "bin" / "cnn-lab"), *typed]
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)
        done.stderr = WAITING.sub("", done.stderr)
        return done

    return run


def test_every_command_works_in_an_empty_folder(installed: Installed, tmp_path: Path) -> None:
    done = installed(tmp_path, "train", *TINY, "model.channels=[2]")
    assert (done.returncode, done.stderr) == (0, "")
    run = only_run(tmp_path / "outputs")
    assert f": cnn-lab evaluate outputs/runs/{run.name}\n" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]

    swept = installed(tmp_path, "sweep", *TINY, "model.channels=[2]", "seed=0,1", "hydra/launcher=joblib")
    assert (swept.returncode, swept.stderr) == (0, "")
    assert "Train it again: cnn-lab train data.train_size=200 " in swept.stdout
    assert installed(tmp_path, "report").stdout.count("Report: outputs/sweeps/") == 1
    runs = [str(path.parent) for path in tmp_path.glob("outputs/sweeps/*/*/result.json")]
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(tmp_path / "black.png")
    for command in (
        ["evaluate", "--json", str(run)],
        ["predict", "black.png", "--json", "--run", str(run)],
        ["compare", "--json", *runs],
    ):
        used = installed(tmp_path, *command)
        assert used.returncode == 0, used.stderr
        assert json.loads(used.stdout)
    assert installed(tmp_path, "export", str(run), "--format", "torch").returncode == 0
    assert installed(tmp_path, "explain", str(run)).returncode == 0
    assert "cnn-lab train model=lenet" in (run / "explain.html").read_text()
    assert installed(tmp_path, "draw", "--help").stdout.startswith("usage: cnn-lab draw ")


def test_the_user_s_options_and_modules_are_found_there(installed: Installed, tmp_path: Path) -> None:
    (tmp_path / "my_nets.py").write_text(NETWORK)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "optimizer").mkdir()
    (tmp_path / "conf" / "model" / "tiny.yaml").write_text("_target_: my_nets.Tiny\nwidth: 8\n")
    (tmp_path / "conf" / "optimizer" / "sgd.yaml").write_text("_target_: torch.optim.SGD\nlr: 0.5\n")
    done = installed(tmp_path, "train", *TINY, "model=tiny", "optimizer=sgd")
    assert (done.returncode, done.stderr) == (0, "")
    run = only_run(tmp_path / "outputs")
    assert "width: 8\n" in (run / "config.yaml").read_text()
    assert "lr: 0.5\n" in (run / "config.yaml").read_text()
    refused = installed(tmp_path, "evaluate", str(run))  # only options of the package itself are trusted
    assert (refused.returncode, "my_nets.Tiny" in refused.stderr) == (2, True)
    assert installed(tmp_path, "evaluate", str(run), "--trust").returncode == 0


def test_what_lies_in_the_folder_already_breaks_nothing(installed: Installed, tmp_path: Path) -> None:
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "cnn.yaml").write_text("_target_: src.nets.Net\n")
    (tmp_path / "conf" / "config.yaml").write_text("defaults: [model: cnn]\n")
    shown = installed(tmp_path, "train", "--cfg", "job", "--package", "model")
    assert (shown.returncode, "_target_: cnn_lab.model.CNN\n" in shown.stdout) == (0, True)
    assert shown.stderr.startswith(
        f"{tmp_path / 'conf'} is not used: config.yaml in it belongs to another project"
    )
    assert shown.stderr.count("\n") == 1
    (tmp_path / "outputs").touch()
    for command, code, problem in (
        ("train", 1, "Not a directory; choose another place with output_dir=DIR\n"),
        (
            "evaluate",
            2,
            f"Error: {tmp_path / 'outputs'} contains no run; train one first: cnn-lab train\n",
        ),
        ("report", 2, f"Error: {tmp_path / 'outputs'} contains no sweep; start one with -m\n"),
    ):
        refused = installed(tmp_path, command)
        assert (refused.returncode, refused.stdout) == (code, "")
        assert refused.stderr.endswith(problem)
        assert refused.stderr.count("Error: ") == 1
