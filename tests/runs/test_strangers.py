"""Files of strangers: refused by name, with nothing executed, nothing waited for and nothing written."""

import argparse
import copy
import io
import itertools
import json
import os
import pickle
import re
import shutil
import signal
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image, PngImagePlugin

from cnn_lab.errors import ConfigError
from cnn_lab.pictures.digits import Digit, read_picture
from cnn_lab.runs.checkpoints import load_checkpoint
from cnn_lab.runs.directory import find_run
from cnn_lab.runs.record import read_result, read_rows
from cnn_lab.runs.resume import plan_resume
from cnn_lab.runs.trained import load_trained
from cnn_lab.runs.trust import check_inside, check_trusted, list_targets, read_yaml
from cnn_lab.settings.config import GROUPS, PROJECT, check_config, flatten
from cnn_lab.sweeps.report import write_report
from cnn_lab.sweeps.results import collect
from cnn_lab.terminal.screen import Screen
from cnn_lab.use.prediction import read_pictures
from conftest import TrainedRun, compose_config, run_script

BEST = Path("checkpoints", "best.ckpt")
LAUGHS = "a: &a {x: 1, y: 2}\n" + "".join(
    f"{key}: &{key} {{{', '.join(f'{n}: *{before}' for n in 'klmnopqrst')}}}\n"
    for before, key in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.fixture(autouse=True)
def _nothing_waits() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise AssertionError("it waits for something")

    earlier = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, earlier)


@pytest.fixture
def run(trained: TrainedRun, tmp_path: Path) -> Path:
    return shutil.copytree(trained.path, tmp_path / "home" / "run")


@pytest.fixture(scope="session")
def checkpoint(trained: TrainedRun) -> dict[str, Any]:
    return torch.load(trained.path / BEST, weights_only=True)


@pytest.fixture(scope="session")
def settings() -> dict[str, Any]:
    return check_config(compose_config())


def list_tree(folder: Path) -> dict[str, Any]:
    """All that is there and could be changed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        changed = None if path.is_dir() else status.st_mtime_ns  # something aside may come and go
        found[str(path)] = (status.st_mode, status.st_size, changed, content)
    return found


class Touch:
    """Unpickled by a reader that trusts it, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.path}'",)


def change_record(content: bytes, change: Callable[[bytes], bytes], pack: int = zipfile.ZIP_STORED) -> bytes:
    """A checkpoint with another data.pkl."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(changed, "w", pack) as new:
        for item in old.infolist():
            record = old.read(item)
            new.writestr(item.filename, change(record) if item.filename.endswith("data.pkl") else record)
    return changed.getvalue()


def save(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


PLAIN = "is not a checkpoint of this project"
FILES: dict[str, tuple[Callable[[dict[str, Any], Path], bytes], str]] = {
    "code": (lambda good, mark: pickle.dumps(Touch(mark)), PLAIN),
    "code in a legacy file": (lambda good, mark: save_legacy({**good, "x": Touch(mark)}), PLAIN),
    "code in a good one": (lambda good, mark: save({**good, "x": Touch(mark)}), f"{PLAIN}: it contains more than data"),
    "empty": (lambda good, mark: b"", PLAIN),
    "truncated": (lambda good, mark: save(good)[:-1000], PLAIN),
    "bomb": (
        lambda good, mark: change_record(save(good), lambda data: data + bytes(100_000_000), zipfile.ZIP_DEFLATED),
        f"{PLAIN}: it would unpack to 10",
    ),
    "deep": (
        lambda good, mark: change_record(save(good), lambda data: b"\x80\x02" + b"]" * 99_999 + b"a" * 99_998 + b"."),
        PLAIN,
    ),
    "a tensor of 4 TB": (
        lambda good, mark: save({**good, "x": torch.zeros(1).expand(10**12)}),
        f"{PLAIN}: it claims larger tensors than it contains",
    ),
    "a tensor larger than its record": (
        lambda good, mark: change_record(
            save({**good, "x": torch.zeros(200)}), lambda data: data.replace(b"K\xc8", b"K\xfe")
        ),
        PLAIN,
    ),
    "a bytearray of 1 PB": (
        lambda good, mark: change_record(
            save(good), lambda data: b"\x80\x02cbuiltins\nbytearray\n\x8a\x08" + (10**15).to_bytes(8, "little") + b"\x85R."
        ),
        PLAIN,
    ),
    "a tensor without values": (
        lambda good, mark: save({**good, "x": torch.zeros(3, device="meta")}),
        f"{PLAIN}: it claims larger tensors than it contains",
    ),
    "only weights": (lambda good, mark: save(good["state_dict"]), f"{PLAIN}: it has no config"),
    "weights of text": (
        lambda good, mark: save({**good, "state_dict": {"net.a\x1b[2J": "text"}}),
        f"{PLAIN}: net.a[2J in its state_dict is not a weight",
    ),
    "complex weights": (
        lambda good, mark: save({**good, "state_dict": {"a": torch.zeros(3, dtype=torch.complex64)}}),
        f"{PLAIN}: a in its state_dict is not a weight",
    ),
    "an epoch of text": (lambda good, mark: save({**good, "epoch": "last"}), f"{PLAIN}: it has no epoch"),
}  # fmt: skip


def save_legacy(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


@pytest.mark.parametrize("kind", FILES)
def test_a_checkpoint_that_is_none_is_refused(kind: str, checkpoint: dict[str, Any], tmp_path: Path) -> None:
    make, message = FILES[kind]
    path = tmp_path / "best.ckpt"
    path.write_bytes(make(copy.deepcopy(checkpoint), tmp_path / "mark"))
    before = list_tree(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert text.startswith(f"{path} {message}")
    assert len(text) < len(str(path)) + 150
    assert "\n" not in text
    assert list_tree(tmp_path) == before


def test_nothing_waits_for_a_pipe_or_reads_a_device(run: Path) -> None:
    for name in ("pipe.ckpt", "result.json", "metrics.csv", "config.yaml"):
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)
    for path in (run / "pipe.ckpt", run, Path("/dev/zero")):
        with pytest.raises(ConfigError, match=r"it is not a file$"):
            load_checkpoint(path)
        with pytest.raises(ConfigError, match="is not a run's folder"):
            find_run(path)
    assert (read_result(run), read_rows(run)) == ({}, [])
    with pytest.raises(ConfigError, match=r"config.yaml cannot be read: "):
        read_yaml(run / "config.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: weights.update({"net.head.1.bias": torch.zeros(7)}),
            "net.head.1.bias is (7,), and the network's (128,)",
        ),
        (lambda weights: weights.pop("net.head.1.bias"), "net.head.1.bias is missing"),
        (
            lambda weights: weights.update({"net.x\x1b[2J": torch.zeros(7)}),
            "the network does not have net.x[2J",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(
    checkpoint: dict[str, Any], tmp_path: Path, change: Callable[[dict], None], message: str
) -> None:
    path = tmp_path / "best.ckpt"
    changed = copy.deepcopy(checkpoint)
    change(changed["state_dict"])
    torch.save(changed, path)
    with pytest.raises(ConfigError) as caught:
        load_trained(path)
    assert str(caught.value) == f"{path} does not fit its own config: {message}"


def test_a_network_that_the_file_does_not_fill_is_not_built(
    checkpoint: dict[str, Any], tmp_path: Path
) -> None:
    changed = copy.deepcopy(checkpoint)
    changed["config"]["model"]["hidden"] = [10_000, 10_000]
    torch.save(changed, tmp_path / "best.ckpt")
    with pytest.raises(
        ConfigError, match=r"does not fit its own config: net\.head\.1\.weight is \(128, 784\)"
    ):
        load_trained(tmp_path / "best.ckpt")


def test_weights_that_are_no_numbers_are_the_runs_own(checkpoint: dict[str, Any], tmp_path: Path) -> None:
    changed = copy.deepcopy(checkpoint)
    changed["state_dict"]["net.head.1.bias"] *= float("nan")
    torch.save(changed, tmp_path / "best.ckpt")
    assert load_trained(tmp_path / "best.ckpt").net.head[1].bias.isnan().all()


@pytest.mark.parametrize(
    ("group", "change", "message"),
    [
        ("model", {"gates": 3}, r"cnn_lab\.model\.CNN has no setting 'gates'"),
        ("model", {"dropout": "much"}, r"model\.dropout=much must be a number"),
        ("trainer", {"callbacks": []}, r"trainer\.callbacks cannot be set"),
        ("trainer", {"default_root_dir": "/"}, r"trainer\.default_root_dir cannot be set"),
    ],
)
def test_settings_that_do_not_fit_are_named_with_the_version(
    checkpoint: dict[str, Any], run: Path, group: str, change: dict[str, Any], message: str
) -> None:
    changed = copy.deepcopy(checkpoint)
    changed["config"][group] |= change
    torch.save(changed, run / BEST)
    with pytest.raises(ConfigError, match=rf"best\.ckpt: {message}"):
        load_checkpoint(run / BEST)
    result = read_result(run)
    (run / "result.json").write_text(json.dumps({**result, "versions": {"cnn_lab": "9.1"}}))
    with pytest.raises(ConfigError, match=rf"best\.ckpt \(of cnn_lab 9\.1, and this is [\d.]+\): {message}"):
        load_checkpoint(run / BEST)


def test_a_value_of_any_type_ends_in_one_message_or_none(checkpoint: dict[str, Any], tmp_path: Path) -> None:
    keys = (*GROUPS, "early_stopping", "output_dir", "seed", "metrics", "callbacks", "logger", "best")
    for key, value in itertools.product(keys, [5, "text", ["list"], None, {"_target_": 3}, {}]):
        path = tmp_path / "best.ckpt"
        torch.save({**checkpoint, "config": {**checkpoint["config"], key: value}}, path)
        try:
            load_trained(path)
        except ConfigError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_every_option_of_this_project_may_be_stored_and_what_libraries_have() -> None:
    own = {"metrics.x": "torchmetrics.classification.MulticlassF1Score", "loss": "torch.nn.MultiMarginLoss"}
    for key, target in own.items():
        check_trusted(check_config(compose_config(f"{key}._target_={target}")))
    for path in (PROJECT / "conf").glob("*/*.yaml"):
        if path.parent.name in (*GROUPS, "logger") and path.stem not in ("arrays", "folder", "own"):
            check_trusted(check_config(compose_config(f"{path.parent.name}={path.stem}")))


TARGETS = {
    "model.hidden": ["torch.nn.ReLU"],
    "pictures": ["cnn_lab.model.CNN"],
    "model": [
        "os.system",
        "builtins.eval",
        3,
        None,
        ["os"],
        "torch.nn.Linear",
        "cnn_lab.model.CNN.__init__",
        "CNN",
    ],
    "data": ["lightning.pytorch.LightningDataModule"],
    "data.source": ["torch.load", "cnn_lab.files.write_file"],
    "optimizer": ["torch.optim.swa_utils.copy.deepcopy"],
    "scheduler": ["torch.optim.Adam"],
    "trainer": ["cnn_lab.training.train"],
    "loss": ["torch.nn.Linear", "torch.nn.modules.loss.NLLLoss"],
    "metrics.f1": [
        "torchmetrics.metric.os.system",
        "torchmetrics.image.FrechetInceptionDistance",
        "torch.nn.NLLLoss",
    ],
    "callbacks.mine": [
        "lightning.pytorch.callbacks.ModelCheckpoint",
        "torchmetrics.classification.MulticlassF1Score",
    ],
}


def test_a_target_that_does_not_belong_where_it_is_is_refused(settings: dict[str, Any]) -> None:
    before = set(sys.modules)
    for key, targets in TARGETS.items():
        for target in targets:
            changed = copy.deepcopy(settings)
            group, _, name = key.partition(".")
            node = changed[group] if not name else changed[group][name] if name == "source" else {}
            node["_target_"] = target
            if name:
                changed[group][name] = node
            with pytest.raises(ConfigError) as caught:
                check_trusted(changed)
            assert str(caught.value).startswith(
                f"this run uses code from outside the project ({key}._target_={target}"
            )
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model._args_", []),
        ("model._convert_", "object"),
        ("data.root=${oc.env:HOME}", "${oc.env:HOME}"),
        ("model.hidden.0=${project:x}", ["${project:x}"]),
        ("data.root", "/data/\x1b[2J"),
        ("data.root", "x" * 5_000),
        ("data.std", 10**100),
        ("data.std", (1, 2)),
        ("data.std", {1: 2}),
        ("data.std", {"\x1b": 2}),
        ("data.std", torch.zeros(3)),
    ],
)
def test_a_config_that_no_run_leaves_behind_is_refused(
    settings: dict[str, Any], key: str, value: Any
) -> None:
    group, name = key.partition("=")[0].split(".")[:2]
    node = {**settings[group], name: value}
    with pytest.raises(ConfigError) as caught:
        check_trusted({**settings, group: node})
    assert str(caught.value).startswith(key)
    assert "is rejected: " in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_config_is_not_walked_for_ever(settings: dict[str, Any]) -> None:
    endless: dict[str, Any] = {}
    endless["again"] = [endless]
    many = [0] * 5_000
    for value in (endless, [many] * 5_000, list(range(100_000)), yaml.safe_load(LAUGHS)):
        with pytest.raises(ConfigError, match="they are larger than a run's can be"):
            check_trusted({**settings, "model": {**settings["model"], "channels": value}})
    for value in (None, [], "config", 3):
        with pytest.raises(ConfigError, match="there are none"):
            check_trusted(value)


LINKS = [str(BEST), "checkpoints", "result.json", "explain", ".result.json.new"]


@pytest.mark.parametrize("name", LINKS)
def test_a_link_that_leads_outside_is_refused(run: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "home" / "run-of-mine" / name  # whose name begins like the run's
    outside.parent.mkdir(parents=True)
    link = run / name
    if link.exists():
        shutil.move(link, outside)
    link.symlink_to(outside)
    before = list_tree(tmp_path)
    message = f"{link} is rejected: it leads out of {run}, to {outside}"
    if name != "result.json" or outside.exists():
        with pytest.raises(ConfigError) as caught:
            find_run(run)
        assert str(caught.value) == message
        with pytest.raises(ConfigError) as caught:
            collect([tmp_path / "home"])
        assert str(caught.value) == message
    assert list_tree(tmp_path) == before


def test_a_sweep_whose_report_would_be_written_elsewhere_is_refused(run: Path, tmp_path: Path) -> None:
    (run.parent / "sweep.yaml").write_text("{}")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (run.parent / "report.csv").symlink_to(victim)
    done = run_script("report.py", str(run.parent))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"Error: {run.parent / 'report.csv'} is rejected: it leads out of {run.parent}, to {victim}\n"
    )
    assert victim.read_text() == "mine"
    assert not (run.parent / "report.md").exists()


def test_links_that_stay_inside_and_a_linked_run_are_fine(run: Path, tmp_path: Path) -> None:
    (run / BEST).rename(run / "checkpoints" / "epoch.ckpt")
    (run / BEST).symlink_to("epoch.ckpt")
    (run / "loop").symlink_to("loop")
    (tmp_path / "mine").symlink_to(run)
    assert find_run(tmp_path / "mine") == (tmp_path / "mine", tmp_path / "mine" / BEST)
    assert find_run(run / BEST) == (run, run / BEST)
    assert len(collect([tmp_path / "mine"])) == 1
    (run / "a\x1b[2J").write_text("")
    with pytest.raises(ConfigError, match=r"^\S+/a\[2J is rejected: its name cannot be printed$"):
        check_inside(run)


def test_a_checkpoint_without_a_run_has_its_own_folder(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "downloads"
    folder.mkdir()
    shutil.copy(run / BEST, folder)
    assert find_run(folder / "best.ckpt") == (folder, folder / "best.ckpt")


def write_fashion(root: Path, value: int) -> Path:
    """A Fashion-MNIST of 40 and 20 images whose pixels have this value, but for the first, which is black."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, size in (("train", 40), ("t10k", 20)):
        images, labels = bytes([0, *[value] * (28 * 28 - 1)]) * size, bytes(range(10)) * (size // 10)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, size, 28, 28) + images)
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, size) + labels)
    return root


def test_nothing_is_written_to_where_a_strangers_config_points(
    checkpoint: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnn_lab.runs.trained.DATA", tmp_path / "data")
    write_fashion(tmp_path / "data", 1)
    complete, damaged, without = (tmp_path / name for name in ("complete", "damaged", "without"))
    write_fashion(complete, 2)
    next(write_fashion(damaged, 3).rglob("t10k-images*")).write_bytes(b"short")
    fashion = check_config(compose_config("data=fashion_mnist", "data.val_size=10", "data.num_workers=60"))
    for root, value in ((complete, 2), (damaged, 1), (without, 1)):
        config = {**checkpoint["config"], "data": {**fashion["data"], "root": str(root)}}
        torch.save({**checkpoint, "config": config}, tmp_path / "best.ckpt")
        before = list_tree(tmp_path)
        trained = load_trained(tmp_path / "best.ckpt")
        images, labels = trained.read_test_images()
        assert (set(images.flat), labels.tolist()) == ({0, value}, [*range(10)] * 2)
        assert (trained.data.name, trained.data.num_workers) == ("Fashion-MNIST", 0)
        assert list_tree(tmp_path) == before


def test_a_strangers_run_goes_on_with_data_of_ones_own(run: Path, tmp_path: Path) -> None:
    settings = check_config(compose_config("data=fashion_mnist"))
    settings["data"]["root"] = str(tmp_path / "theirs")
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    resumed, *_ = plan_resume(str(run), ["trainer.max_epochs=4"], tmp_path)
    assert resumed["data"]["root"] == str(PROJECT / "data")
    resumed, *_ = plan_resume(str(run), ["trainer.max_epochs=4", f"data.root={tmp_path / 'mine'}"], tmp_path)
    assert resumed["data"]["root"] == str(tmp_path / "mine")
    assert not (tmp_path / "theirs").exists()


LOGGERS = "lightning.pytorch.loggers"
STRANGE = {  # what is stored, and whether it is refused by name (a message) or set aside (what is resumed)
    "a folder for csv": (
        {"logger": {"_target_": f"{LOGGERS}.CSVLogger", "name": "../../../../evil"}},
        (
            "uses a logger with settings that no file in conf/logger/ has (logger._target_=lightning.pytorch.loggers."
            "CSVLogger, logger.name=../../../../evil). If you trust it, add trust=true; to continue without this logger, "
            "add logger=tensorboard"
        ),
    ),
    "a server for mlflow": (
        {"logger": {"_target_": f"{LOGGERS}.MLFlowLogger", "experiment_name": "cnn-lab", "tracking_uri": "http://evil"}},
        "tracking_uri=http://evil",
    ),
    "a folder for mlflow": (
        {"logger": {"_target_": f"{LOGGERS}.MLFlowLogger", "experiment_name": "cnn-lab", "tracking_uri": "file:/evil"}},
        "tracking_uri=file:/evil",
    ),
    "wandb online": (
        {"logger": {"_target_": f"{LOGGERS}.WandbLogger", "project": "cnn-lab", "offline": False}}, "logger.offline=False",
    ),
    "a logger of text": ({"logger": "csv"}, "uses a logger with settings that no file in conf/logger/ has (logger=csv)"),
    "a logger as it is here": ({"logger": {"_target_": f"{LOGGERS}.CSVLogger", "name": "csv"}}, ""),
    "mlflow of an older version": (
        {
            "output_dir": "/evil/out",
            "logger": {"_target_": f"{LOGGERS}.MLFlowLogger", "experiment_name": "cnn-lab", "tracking_uri": "file:out/mlruns"},
        },
        {"logger.tracking_uri": None},
    ),
    "an output folder": ({"output_dir": "/evil"}, {"output_dir": "HERE"}),
    "a profiler's folder": (
        {"trainer.profiler": {"_target_": "lightning.pytorch.profilers.SimpleProfiler", "dirpath": "/evil"}},
        "uses code from outside the project (trainer.profiler._target_=",
    ),
    "a place for the trainer's files": ({"trainer.default_root_dir": "/evil"}, "trainer.default_root_dir cannot be set"),
    "plugins": ({"trainer.plugins": ["/evil"]}, "trainer.plugins cannot be set"),
    "a registry to upload to": ({"trainer.model_registry": "evil/model"}, "trainer.model_registry cannot be set"),
    "a callback that writes": (
        {"callbacks": {"x": {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": "/evil"}}},
        "uses code from outside the project (callbacks.x._target_=lightning.pytorch.callbacks.ModelCheckpoint)",
    ),
    "a callback that only looks": ({"callbacks": {"x": {"_target_": "lightning.pytorch.callbacks.DeviceStatsMonitor"}}}, ""),
    "a label that a terminal obeys": ({"label": "\x1b[2J"}, "label is rejected"),
    "many processes": ({"data.num_workers": 1000}, "data.num_workers=1000 is out of range"),
}  # fmt: skip


@pytest.mark.parametrize("kind", STRANGE)
def test_what_a_stored_config_could_make_happen_elsewhere(kind: str, run: Path, tmp_path: Path) -> None:
    changes, expected = STRANGE[kind]
    stored = yaml.safe_load((run / "config.yaml").read_text())
    for key, value in changes.items():
        group, _, name = key.partition(".")
        (stored[group] if name else stored)[name or group] = value
    (run / "config.yaml").write_text(yaml.safe_dump(stored))
    overrides = [f"resume={run}", "trainer.max_epochs=4"]
    if expected and isinstance(expected, str):
        with pytest.raises(ConfigError, match=re.escape(expected)):
            plan_resume(str(run), overrides, tmp_path)
    else:
        resumed = flatten(plan_resume(str(run), overrides, tmp_path)[0])
        for key, value in (expected or flatten(changes)).items():
            assert resumed[key] == (str(tmp_path) if value == "HERE" else value)
    if "logger" in changes:
        typed = {"_target_": f"{LOGGERS}.CSVLogger", "name": "mine"}
        settings, *_ = plan_resume(
            str(run), [*overrides, "logger=csv", "logger.name=mine"], tmp_path, logger=typed
        )
        assert settings["logger"] == typed


@pytest.mark.parametrize("group", ["callbacks", "logger", "optimizer", "scheduler"])
def test_code_that_only_trains_is_not_asked_about_where_a_network_is_used(
    group: str, checkpoint: dict[str, Any], tmp_path: Path
) -> None:
    node = {"_target_": "not_here.Mine", "lr": 0.1}
    config = {**checkpoint["config"], group: {"mine": node} if group == "callbacks" else node}
    torch.save({**checkpoint, "config": config}, tmp_path / "best.ckpt")
    assert load_trained(tmp_path / "best.ckpt").classes == [str(number) for number in range(10)]
    with pytest.raises(ConfigError, match=r"_target_=not_here\.Mine\)\. If you trust it, add --trust$"):
        check_trusted(config)


def test_what_conf_names_in_an_experiment_or_for_every_run_is_of_the_project(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = {name: {"_target_": f"my_code.{name.title()}"} for name in ("everywhere", "here")}
    shutil.copytree(PROJECT / "conf", tmp_path / "conf")
    for file, name in (("train.yaml", "everywhere"), ("experiment/dropout.yaml", "here")):
        content = yaml.safe_load((tmp_path / "conf" / file).read_text())
        content["callbacks"] = {name: mine[name]}
        (tmp_path / "conf" / file).write_text(yaml.safe_dump(content))
    monkeypatch.setattr("cnn_lab.runs.trust.CONF", tmp_path / "conf")
    list_targets.cache_clear()
    try:
        check_trusted({**settings, "callbacks": mine})
        with pytest.raises(
            ConfigError, match=r"outside the project \(callbacks\.other\._target_=my_code\.Here\)"
        ):
            check_trusted({**settings, "callbacks": {"other": mine["here"]}})
    finally:
        list_targets.cache_clear()


def make_png(width: int, height: int) -> bytes:
    """One that declares a size, and holds next to nothing."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0")),
        (b"IEND", b""),
    ]
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def draw_eps() -> bytes:
    file = io.BytesIO()
    Image.new("L", (30, 30)).save(file, "EPS")
    return file.getvalue()


def draw_text_chunk() -> bytes:
    file, info = io.BytesIO(), PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 80_000_000, zip=True)
    Image.new("L", (30, 30)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


GIF_OF_4_GIGAPIXELS = (
    b"\xff\xff\xff\xff\0\0\0," + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0) + b"\2\1\0\0;"
)


def read_digit(path: Path, side: int) -> Digit:
    return read_picture(path, argparse.Namespace(ink=True, input_shape=(1, side, side)), None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_png(60_000, 60_000), "it has too many pixels"),
        (draw_eps, "it is not a picture in one of these formats: PNG, JPEG"),
        (draw_text_chunk, ""),
        (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n", "it is not a picture"),
        (lambda: b"GIF89a" + GIF_OF_4_GIGAPIXELS, "it has too many pixels"),
    ],
)
def test_a_picture_that_does_harm_is_refused(
    tmp_path: Path, make: Callable[[], bytes], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.Popen", None)  # as Pillow starts Ghostscript
    path = tmp_path / "\x1b[2Jdigit.png"
    path.write_bytes(make())
    with pytest.raises(ConfigError) as caught:
        read_digit(path, 28)
    assert str(caught.value).startswith(f"{tmp_path}/[2Jdigit.png cannot be read: {message}")


def test_a_picture_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop.png").symlink_to("loop.png")
    with pytest.raises(ConfigError, match=r"loop\.png cannot be read: Too many levels of symbolic links"):
        read_digit(tmp_path / "loop.png", 28)
    data = argparse.Namespace(ink=False, input_shape=(1, 28, 28))
    (found,) = read_pictures(
        [str(tmp_path)], argparse.Namespace(data=data, max_value=None, require_pictures=print)
    )
    assert found.problem.endswith("cannot be read: Too many levels of symbolic links")


def test_the_largest_pictures_are_read(tmp_path: Path) -> None:
    for mode in ("RGBA", "I;16"):
        Image.new(mode, (10_000, 1_000)).save(tmp_path / "blank.png")
        assert read_digit(tmp_path / "blank.png", 28).problem == "the picture is empty"
    frames = [Image.new("P", (30, 30), number) for number in range(50)]
    frames[0].save(tmp_path / "frames.gif", save_all=True, append_images=frames[1:])
    assert read_digit(tmp_path / "frames.gif", 28).problem == "the picture is empty"


ESCAPE = "\x1b]0;owned\x07\x1b[2J\u009b2J"
RESULTS = {
    "null": "null",
    "nothing": "",
    "noise": "\x00\x01\x02",
    "deep": "[" * 100_000,
    "deep-value": '{"status": "completed", "x": ' + "[" * 900 + "]" * 900 + "}",
    "long": '{"status": "completed", "label": "' + "x" * 11_000_000 + '"}',
    "digits": '{"status": "completed", "test/accuracy": ' + "9" * 4_000 + "}",
    "more-digits": '{"status": "completed", "test/accuracy": ' + "9" * 5_000 + "}",
    "infinite": '{"status": "completed", "test/accuracy": Infinity, "best": {"val/accuracy": NaN}, "seconds": 1e999}',
    "escapes": json.dumps({"status": ESCAPE, "label": ESCAPE, "error": ESCAPE, "dataset": {"name": ESCAPE}}),
    "surrogate": '{"status": "failed", "error": "\\ud800"}',
    **{
        f"types-{number}": json.dumps(
            dict.fromkeys(
                ("status", "error", "label", "overrides", "seed", "dataset", "parameters", "epochs", "steps", "best",
                 "test/loss", "test/accuracy", "seconds", "started", "fingerprint", "versions"), value,
            )
        )
        for number, value in enumerate([3, "x", [], {}, None, True, [[]], {"name": 3, "val/accuracy": "high", "epoch": {}}])
    },
}  # fmt: skip
CONFIGS = [
    "", "[1, 2]", "text", "a: b: c", "[" * 100_000, "{a: " * 100_000, LAUGHS, "a: &a [*a]", "seed: 2020-01-01", "\x00",
    "model: {_target_: 3}", "1: 2", "!!python/object/apply:os.system ['touch mark']", "seed: " + "9" * 5_000,
    "label: '$\\frac$'\nmodel: {_target_: '$x', dropout: '[/bold]'}", 'label: "\\e[2J"', "x: " + "y" * 600_000,
    "model: {dropout: .nan, hidden: [a, $b$]}", "model: {_target_: '[red]$\\\\frac{'}", "seed: !!binary aGk=",
]  # fmt: skip


def test_a_report_on_strangers_runs_is_plain_text(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (run / "result.json").read_text()
    contents = {**{name: (text, None) for name, text in RESULTS.items()}}
    contents |= {f"config-{number}": (good, text) for number, text in enumerate(CONFIGS)}
    for name, (result, settings) in contents.items():
        other = run.parent / name
        other.mkdir()
        (other / "result.json").write_text(result)
        (other / "config.yaml").write_text(
            (run / "config.yaml").read_text() if settings is None else settings
        )
        (other / "metrics.csv").write_text('a,"b\n' + "x" * 200_000)
        assert read_rows(other) == []
    before = list_tree(run.parent)
    records = collect([run.parent])
    assert len(records) == len(contents) + 1
    write_report(records, tmp_path / "report", Screen(), "strangers")
    printed = capsys.readouterr().out + (tmp_path / "report" / "report.md").read_text()
    assert "completed" in printed
    assert not {character for character in printed if not character.isprintable()} - {"\n"}
    assert list_tree(run.parent) == before


def test_rows_that_are_none_are_none(tmp_path: Path) -> None:
    for rows in (
        "", "x", "epoch,step\n1,2,3,4\n", "epoch,step\nx,y\n", "epoch\n" + "9" * 5_000, "\x00\n\x00",
        "epoch,step,lr\n1,2,fast\n", "step\n" + "1," * 100_000, 'epoch\n"1',
    ):  # fmt: skip
        (tmp_path / "metrics.csv").write_text(rows)
        assert all(set(row) <= {"epoch", "step"} for row in read_rows(tmp_path))


def test_the_commands_refuse_a_strangers_code(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / BEST).write_bytes(save(Touch(tmp_path / "mark")))
    before = list_tree(tmp_path)
    message = f"{run / BEST} is not a checkpoint of this project: it contains more than data"
    done = run_script("evaluate.py", str(run))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"Error: {message}\n")
    picture = str(PROJECT / "nothing.png")
    for command in (
        ["explain.py", str(run)],
        ["export.py", str(run)],
        ["predict.py", "--run", str(run), picture],
    ):
        monkeypatch.setattr("sys.argv", command)
        main = import_module(f"cnn_lab.commands.{Path(command[0]).stem}").main
        with pytest.raises(ConfigError) as caught:
            main()
        assert str(caught.value) == message
    assert list_tree(tmp_path) == before


def test_a_strangers_run_is_not_gone_on_with_through_its_links(trained: TrainedRun, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.path, run)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (run / ".result.json.new").symlink_to(victim)
    with pytest.raises(ConfigError, match=r"\.result\.json\.new is rejected: it leads out of"):
        plan_resume(str(run), [], tmp_path)
    assert victim.read_text() == "precious"
