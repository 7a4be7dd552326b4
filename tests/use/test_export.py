"""Files that predict without this package, and the command that writes and checks them."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cnn_lab.use.export
from cnn_lab.assembly import assemble
from cnn_lab.errors import CnnLabError, ConfigError
from cnn_lab.runs.trained import Trained, load_trained
from cnn_lab.settings.config import PROJECT, check_config
from cnn_lab.settings.extras import install_hint
from cnn_lab.sources.idx import read_mnist
from cnn_lab.use.export import FILES, TOLERANCE, compare, describe, export, open_file, serialise
from conftest import TrainedRun, compose_config, run_script

DIGITS = read_mnist()["test"].images[:50]
ALONE = """
import json, sys
import numpy
everything = numpy.load("digits.npy")
found = []
for images in (everything[:0], everything[:1], everything[1:8], everything[8:]):
{usage}
    assert probabilities.shape == (len(images), 10)
    found.append(numpy.asarray(probabilities))
{classes}
assert not {unused} & set(sys.modules)
numpy.save("found.npy", numpy.concatenate(found))
print(*classes)
"""
CLASSES = {
    "onnx": 'classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])',
    "torch": """
extra = {"metadata.json": ""}
torch.export.load("model.pt2", extra_files=extra)
classes = json.loads(extra["metadata.json"])["classes"]""",
}
UNUSED = {"onnx": {"cnn_lab", "torch", "onnx"}, "torch": {"cnn_lab", "lightning"}}
NETWORKS = [  # with ReLU there is the trained run
    ("channels=[4,6,5]", "kernel_sizes=[2,4,1]", "pool=[avg,avg,none]", "activation=gelu", "norm=batch", "hidden=[]"),
    ("channels=[4,6]", "kernel_sizes=[7,5]", "strides=[2,1]", "paddings=[3,0]", "pool=[none,max]",
     "activation=silu", "norm=batch", "hidden=[8,6]", "dropout=0.5"),
    ("channels=[4,6,8]", "kernel_sizes=[3,6,2]", "paddings=1", "pool=[max,none,avg]", "activation=elu"),
]  # fmt: skip


def make_trained(*model: str) -> Trained:
    """A network with random weights and statistics, as if it had been trained."""
    overrides = [f"model.{setting}" for setting in model]
    config = check_config(compose_config(*overrides))
    torch.manual_seed(0)
    data, classifier = assemble(config)
    for name, buffer in classifier.net.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 2)
    return Trained(Path("random.ckpt"), config, data, classifier.eval(), 1)


def predict_alone(folder: Path, usage: str, kind: str) -> tuple[list[str], np.ndarray]:
    """Classes, and the probabilities of `DIGITS`, from what a user would type in an empty Python."""
    np.save(folder / "digits.npy", DIGITS)
    program = ALONE.format(usage=textwrap.indent(usage, "    "), classes=CLASSES[kind], unused=UNUSED[kind])
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split(), np.load(folder / "found.npy")


@pytest.fixture
def run(trained: TrainedRun, tmp_path: Path) -> Path:
    """A run of one's own."""
    return Path(shutil.copytree(trained.path, tmp_path / trained.path.name))


def test_what_the_command_writes_predicts_without_this_package(run: Path) -> None:
    before = {path.name for path in run.iterdir()}
    done = run_script("export.py", ".", cwd=run)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if line]
    file = run / "model.onnx"
    assert {path.name for path in run.iterdir()} == before | {file.name}
    expected = load_trained(run / "checkpoints" / "best.ckpt")
    assert lines[0] == f"checkpoints/best.ckpt, after epoch {expected.epoch}"
    assert lines[1].startswith("Checked on 10,000 test images of MNIST in ONNX Runtime ")
    words, difference = lines[1].rsplit(maxsplit=1)
    assert words.endswith(": the same class on all, probabilities within")
    assert float(difference) <= TOLERANCE
    assert lines[2] == f"model.onnx, {file.stat().st_size / 1e6:.1f} MB"
    assert lines[3].startswith(
        "To use it without this package, with images in NumPy, uint8 (batch, 1, 28, 28)"
    )
    assert len(lines) == 7
    classes, found = predict_alone(run, "\n".join(lines[4:]), "onnx")
    assert classes == [str(digit) for digit in range(10)]
    np.testing.assert_allclose(found, expected.predict(DIGITS), rtol=0, atol=TOLERANCE)
    assert str(PROJECT).encode() not in file.read_bytes()


def test_a_torch_file_predicts_without_this_package(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run)
    checkpoint = run / "checkpoints" / "best.ckpt"
    exported = export(run, checkpoint, "torch")
    assert capfd.readouterr() == ("", "")
    assert exported.path == run / "model.pt2"
    assert exported.describe_check().startswith("Checked on 10,000 test images of MNIST in PyTorch ")
    classes, found = predict_alone(run, exported.describe_use(), "torch")
    assert classes == [str(digit) for digit in range(10)]
    np.testing.assert_allclose(found, load_trained(checkpoint).predict(DIGITS), rtol=0, atol=TOLERANCE)
    assert str(PROJECT).encode() not in exported.path.read_bytes()


@pytest.mark.parametrize("settings", NETWORKS, ids=" ".join)
def test_every_network_is_the_same_in_both_formats(settings: tuple[str, ...], tmp_path: Path) -> None:
    trained = make_trained(*settings)
    assert (trained.predict(DIGITS).std(axis=0) > 0).all()
    for kind, name in FILES.items():
        (tmp_path / name).write_bytes(serialise(trained, {"input": "", "output": ""}, kind))
        runtime, predict = open_file(tmp_path / name, kind)
        assert compare(trained, DIGITS, predict, runtime) <= TOLERANCE


def test_the_metadata_says_which_run_it_is_and_what_these_weights_reached(trained: TrainedRun) -> None:
    best, last = (
        describe(load_trained(trained.path / "checkpoints" / f"{name}.ckpt"), trained.path)
        for name in ("best", "last")
    )
    assert json.loads(json.dumps(best)) == best
    assert best["run"] == f"runs/{trained.path.name}"
    for name in ("label", "started", "fingerprint", "git_commit", "test/accuracy"):
        assert best.get(name) == trained.result[name]
    assert (best["val/accuracy"], best["epoch"]) == tuple(trained.result["best"].values())
    assert (best["dataset"], best["mean"], best["std"]) == ("MNIST", 0.1307, 0.3081)
    assert (last["checkpoint"], last["epoch"]) == ("last.ckpt", 3)
    assert "test/accuracy" not in last


def test_a_checkpoint_alone_has_its_file_beside_it_and_no_run(trained: TrainedRun, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copy(trained.path / "checkpoints" / "best.ckpt", tmp_path))
    exported = export(checkpoint.parent.parent, checkpoint, "torch")
    assert exported.path == tmp_path / "model.pt2"
    extra = {"metadata.json": ""}
    torch.export.load(exported.path, extra_files=extra)
    metadata = json.loads(extra["metadata.json"])
    assert metadata["checkpoint"] == "best.ckpt"
    assert not {"run", "label", "started", "test/accuracy"} & set(metadata)


def test_a_file_stays_what_it_was_until_the_new_one_has_passed_its_check(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "digits.pt2").write_text("old")
    monkeypatch.setattr(cnn_lab.use.export, "TOLERANCE", -1.0)
    with pytest.raises(
        CnnLabError, match=r"failed its check in PyTorch .* no file was written: of 10,000 test"
    ):
        export(run, run / "checkpoints" / "best.ckpt", "torch", folder / "digits.pt2")
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("digits.pt2", "old")]
    monkeypatch.undo()
    export(run, run / "checkpoints" / "best.ckpt", "torch", folder / "digits.pt2")
    (path,) = folder.iterdir()
    assert path.stat().st_size > 100_000


def test_the_check_counts_other_classes_and_measures_probabilities() -> None:
    trained = make_trained("channels=[4]")
    expected = iter(trained.predict(DIGITS))

    def predict(images: np.ndarray) -> np.ndarray:
        return np.stack([next(expected)[::-1] for _ in images])

    with pytest.raises(CnnLabError) as caught:
        compare(trained, DIGITS, predict, "Reverse 1.0")
    flipped = trained.predict(DIGITS)
    others = (flipped.argmax(1) != 9 - flipped.argmax(1)).sum()
    assert caught.value.exit_code == 1
    assert str(caught.value) == (
        f"the exported network failed its check in Reverse 1.0, and no file was written: of 50 test images {others} "
        f"get another class, and probabilities differ by up to {abs(flipped - flipped[:, ::-1]).max():.1e}, where "
        "1e-05 is allowed"
    )


def test_a_network_that_diverged_is_refused() -> None:
    trained = make_trained("channels=[4]")
    torch.nn.init.constant_(next(trained.net.parameters()), float("nan"))
    with pytest.raises(CnnLabError, match=r"random.ckpt gives NaN instead of probabilities"):
        compare(trained, DIGITS, lambda images: images, "")


def test_a_network_that_the_exporter_refuses_is_one_message(
    trained: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def branch(self: Any, images: torch.Tensor) -> torch.Tensor:
        return self.net(images.float()) if images.sum() > 0 else self.net(images.float() + 1)

    monkeypatch.setattr(cnn_lab.use.export.Predictor, "forward", branch)
    checkpoint = trained.path / "checkpoints" / "best.ckpt"
    with pytest.raises(CnnLabError) as caught:
        export(trained.path, checkpoint, "torch", tmp_path / "model.pt2")
    assert str(caught.value).startswith(f"{checkpoint} cannot be exported as torch: Could not guard on data")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "name", "code", "message"),
    [
        ("onnx", "", 2, "{path} is a folder; give a file: --output {path}/model.onnx"),
        ("onnx", "best.ckpt", 2, "--output {path} does not fit --format onnx; type --output {folder}/best.onnx"),
        ("torch", "a.onnx", 2, "--output {path} does not fit --format torch; type --output {folder}/a.pt2"),
        ("torch", "none/a.pt2", 2, "{path} cannot be written: No such file or directory"),
        ("onnx", "file/a.onnx", 2, "{path} cannot be written: Not a directory"),
    ],
)  # fmt: skip
def test_a_target_that_cannot_be_is_refused_at_once(
    trained: TrainedRun, tmp_path: Path, kind: str, name: str, code: int, message: str
) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / name
    with pytest.raises(CnnLabError) as caught:
        export(trained.path, trained.path / "checkpoints" / "best.ckpt", kind, path)
    assert str(caught.value) == message.format(path=path, folder=tmp_path)
    assert caught.value.exit_code == code
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_run_without_a_checkpoint_is_refused(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    done = run_script("export.py", str(run))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"Error: {run} has no checkpoint (the run's status: completed)\n"


@pytest.mark.parametrize(
    ("package", "name"), [("onnxruntime", "ONNX Runtime"), ("onnxscript", "ONNX Script")]
)
def test_a_missing_extra_says_what_to_install(
    package: str, name: str, trained: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    checkpoint = trained.path / "checkpoints" / "best.ckpt"
    with pytest.raises(ConfigError) as caught:
        export(trained.path, checkpoint, "onnx", tmp_path / "model.onnx")
    assert str(caught.value) == f"{name} is not installed; {install_hint('export')}"
    assert "pip install -e '" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_torch_format_needs_no_extra(
    trained: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)
    checkpoint = trained.path / "checkpoints" / "best.ckpt"
    assert export(trained.path, checkpoint, "torch", tmp_path / "model.pt2").path.is_file()
