"""A trained network as one file that predicts without this package, checked against the network."""

import importlib.util
import io
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from cnn_lab import __version__
from cnn_lab.classifier import make_class_logits
from cnn_lab.errors import CnnLabError, ConfigError
from cnn_lab.files import replacing
from cnn_lab.runs.record import read_result, read_rows
from cnn_lab.runs.trained import BATCH, Trained, load_trained
from cnn_lab.settings.extras import install_hint
from cnn_lab.terminal.screen import shorten

FILES = {"onnx": "model.onnx", "torch": "model.pt2"}
NEEDED = {"onnx": {"onnxscript": "ONNX Script", "onnxruntime": "ONNX Runtime"}, "torch": {}}
TOLERANCE = 1e-5  # between a probability of the file and the network's
USAGE = {
    "onnx": """\
import onnxruntime
session = onnxruntime.InferenceSession({path!r})
(probabilities,) = session.run(None, {{"images": images}})""",
    "torch": """\
import torch
net = torch.export.load({path!r}).module()
probabilities = net(torch.from_numpy(images))""",
}


@dataclass(frozen=True)
class Exported:
    """A file that was written, and what its check found.

    Attributes:
        images: how many test images it was checked on.
        runtime: what ran the file, with its version.
        difference: the largest between a probability of the file and the network's.
    """

    path: Path
    kind: str
    trained: Trained
    images: int
    runtime: str
    difference: float

    def describe_check(self) -> str:
        """What was checked and found, in one line."""
        return (
            f"Checked on {self.images:,} test images of {self.trained.data.name} in {self.runtime}: "
            f"the same class on all, probabilities within {self.difference:.1e}"
        )

    def describe_use(self) -> str:
        """Three lines of Python that predict with the file, from `images` in NumPy."""
        return USAGE[self.kind].format(path=shorten(self.path))


def export(
    run_dir: Path, checkpoint: Path, kind: str = "onnx", output: Path | None = None, trust: bool = False
) -> Exported:
    """Write a checkpoint's network, with normalisation and softmax, as "onnx" or "torch".

    A file that is already there is replaced once the new one has passed its check, and not before.

    Args:
        run_dir: where the run's identity is read; without a result.json there is none.
        output: the file; by default `FILES[kind]` in `run_dir`, or beside a checkpoint that is in no run.
        trust: as in `load_trained`.

    Raises:
        ConfigError: when an extra is missing, the name of `output` does not fit, or `checkpoint` is refused.
        CnnLabError: when the file cannot be written, the network cannot be exported, or the check fails.
        DataError: when the run's test images cannot be had.
    """
    if output is None:
        output = (run_dir if read_result(run_dir) else checkpoint.parent) / FILES[kind]
    _check_output(output, kind)
    _check_extra(kind)
    with replacing(output) as aside:
        trained = load_trained(checkpoint, trust)
        metadata = describe(trained, run_dir)
        try:
            content = serialise(trained, metadata, kind)
        except Exception as error:  # tracers raise anything
            reason = str(error).strip().partition("\n")[0]
            raise CnnLabError(f"{checkpoint} cannot be exported as {kind}: {reason}") from error
        aside.write_bytes(content)
        images, _ = trained.read_test_images()
        runtime, predict = open_file(aside, kind)
        difference = compare(trained, images, predict, runtime)
    return Exported(output, kind, trained, len(images), runtime, difference)


def describe_input(trained: Trained) -> str:
    """The images that an exported file takes, in words."""
    shape = ", ".join(map(str, trained.data.input_shape))
    return f"uint8 (batch, {shape}), 0 to 255, such as those of {trained.data.name}"


class Predictor(nn.Module):
    """What is exported: bytes (batch, channels, height, width) to probabilities (batch, classes)."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.net = trained.net
        self.shuffle = trained.data.shuffle
        for name in ("mean", "std"):  # one number for all channels, or one a channel
            self.register_buffer(name, torch.tensor(getattr(trained.data, name)).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        # Not the data module's own, which writes into the tensor: that is exported for one batch size only.
        pixels = (self.shuffle(images).float() / 255 - self.mean) / self.std
        return make_class_logits(self.net(pixels)).softmax(dim=1)


def serialise(trained: Trained, metadata: dict[str, Any], kind: str) -> bytes:
    """The content of the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters, about their own future
        program = _trace(trained)
        return _to_onnx(program, metadata) if kind == "onnx" else _to_torch(program, metadata)


def _trace(trained: Trained) -> ExportedProgram:
    trained.net.requires_grad_(False)  # else what the file gives has gradients
    images = torch.zeros(2, *trained.data.input_shape, dtype=torch.uint8)  # one would be taken for a constant
    program = torch.export.export(
        Predictor(trained), (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}}
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names folders of this machine
    return program


def _to_onnx(program: ExportedProgram, metadata: dict[str, Any]) -> bytes:
    exported = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        output_names=["probabilities"],
        dynamic_shapes={"images": {0: "batch"}},  # names the dimension
    )
    model = exported.model
    model.producer_name, model.producer_version = "cnn-lab", __version__
    model.doc_string = f"Input {metadata['input']}. Output {metadata['output']}."
    for name, value in metadata.items():
        model.metadata_props[name] = value if isinstance(value, str) else json.dumps(value)
    return exported.model_proto.SerializeToString()


def _to_torch(program: ExportedProgram, metadata: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"metadata.json": json.dumps(metadata, indent=2)})
    return file.getvalue()


def describe(trained: Trained, run_dir: Path) -> dict[str, Any]:
    """The file's metadata: how to use it, which run it is of, and what that measured with these weights."""
    result = read_result(run_dir)
    epoch = next((row for row in read_rows(run_dir) if row["epoch"] == trained.epoch), {})
    tested = result.get("status") == "completed" and trained.path.name == "best.ckpt"
    metadata = {
        "input": f"images: {describe_input(trained)}",
        "output": f"probabilities: float32 (batch, {len(trained.classes)}), in the order of the classes",
        "classes": trained.classes,
        "mean": trained.data.mean,
        "std": trained.data.std,
        "run": "/".join(run_dir.resolve().parts[-2:]) if result else None,
        **{name: result.get(name) for name in ("label", "started", "fingerprint", "git_commit", "git_dirty")},
        "dataset": result.get("dataset", {}).get("name"),
        "checkpoint": trained.path.name,
        "epoch": trained.epoch,
        "val/accuracy": epoch.get("val/accuracy"),
        "test/accuracy": result.get("test/accuracy") if tested else None,
        "cnn_lab": __version__,
        "torch": torch.__version__,
    }
    return {name: value for name, value in metadata.items() if value is not None}


def open_file(path: Path, kind: str) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
    """What runs a written file, by name, and its function from bytes to probabilities."""
    if kind == "torch":
        module = torch.export.load(path).module()
        return f"PyTorch {torch.__version__}", lambda images: module(torch.from_numpy(images)).numpy()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    runtime = f"ONNX Runtime {onnxruntime.__version__}"
    return runtime, lambda images: session.run(["probabilities"], {"images": images})[0]


def compare(
    trained: Trained, images: np.ndarray, predict: Callable[[np.ndarray], np.ndarray], runtime: str
) -> float:
    """The largest difference of `predict` from the network on images (n, channels, height, width).

    One of them is given alone, which a file that was traced with two might not take.

    Raises:
        CnnLabError: when it is above `TOLERANCE` or an image gets another class.
    """
    expected = trained.predict(images)
    if not np.isfinite(expected).all():
        raise CnnLabError(
            f"{trained.path} gives NaN instead of probabilities, because its training diverged; give the "
            "checkpoint of another run"
        )
    batches = np.split(images, range(1, len(images), BATCH))
    found = np.concatenate([predict(batch) for batch in batches])
    difference = float(np.abs(found - expected).max())
    others = int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())
    if others or not difference <= TOLERANCE:
        raise CnnLabError(
            f"the exported network failed its check in {runtime}, and no file was written: of "
            f"{len(images):,} test images {others:,} get another class, and probabilities differ by up to "
            f"{difference:.1e}, where {TOLERANCE:.0e} is allowed"
        )
    return difference


def _check_output(output: Path, kind: str) -> None:
    suffix = Path(FILES[kind]).suffix
    if output.is_dir():
        raise ConfigError(f"{output} is a folder; give a file: --output {output / FILES[kind]}")
    if output.suffix != suffix:
        raise ConfigError(
            f"--output {output} does not fit --format {kind}; type --output {output.with_suffix(suffix)}"
        )


def _check_extra(kind: str) -> None:
    for package, name in NEEDED[kind].items():
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{name} is not installed; {install_hint('export')}")
