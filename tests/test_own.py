"""Metrics, losses, callbacks and loggers of one's own: typed, and taken along everywhere."""

import csv
import importlib.util
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cnn_lab.assembly import assemble
from cnn_lab.errors import ConfigError
from cnn_lab.runs.record import read_rows
from cnn_lab.runs.resume import plan_resume
from cnn_lab.settings.config import check_config
from cnn_lab.training import train
from cnn_lab.use.evaluation import evaluate
from conftest import compose_config, read_result

SMALL = [
    "data.train_size=1500", "data.val_size=200", "trainer.accelerator=cpu", "model=linear",
    "pictures.enabled=false", "trainer.limit_test_batches=5", "trainer.max_epochs=3", "trainer.log_every_n_steps=1",
    "optimizer.lr=0.002",
]  # fmt: skip
OF_TORCHMETRICS = "torchmetrics.classification.Multiclass"
F1 = [f"metrics.f1._target_={OF_TORCHMETRICS}F1Score", "metrics.f1.average=macro"]


def train_small(path: Path, *typed: str, callbacks: tuple[Callback, ...] = ()) -> None:
    settings = check_config(compose_config(*SMALL, *typed))
    train(settings, path, callbacks=callbacks, quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    train_small(
        path, *F1, "best=val/f1", "early_stopping.monitor=val/f1", "early_stopping.patience=1", "logger=csv",
        "callbacks.lr._target_=lightning.pytorch.callbacks.LearningRateMonitor", "scheduler=plateau", "scheduler.patience=0", "scheduler.monitor=train/f1",
    )  # fmt: skip
    return path


def test_a_metric_is_measured_recorded_shown_and_chooses_the_best(run: Path) -> None:
    rows, result, log = read_rows(run), read_result(run), (run / "train.log").read_text()
    assert list(rows[0])[-2:] == ["train/f1", "val/f1"]
    best = max(rows, key=lambda row: row["val/f1"])
    assert result["best"] == {
        "val/f1": best["val/f1"],
        "val/accuracy": best["val/accuracy"],
        "epoch": best["epoch"],
    }
    assert torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["global_step"] == best["step"]
    measured = evaluate(run / "checkpoints" / "best.ckpt")
    counts = np.array(measured["confusion"])
    f1 = 2 * counts.diagonal() / (counts.sum(axis=0) + counts.sum(axis=1))
    assert measured["metrics"]["f1"] == pytest.approx(f1.mean(), abs=1e-6)
    assert len(rows) == 3  # a loss that falls as this rises would have ended the run
    assert rows[-1]["lr"] == rows[0]["lr"]
    assert "epoch  train loss  accuracy        f1    val loss  accuracy        f1        lr" in log
    assert f"validation f1        {best['val/f1']:#.4g} (best, epoch {best['epoch']})" in log
    events = EventAccumulator(str(run)).Reload()
    assert [event.value for event in events.Scalars("by_epoch/val/f1")] == pytest.approx(
        [row["val/f1"] for row in rows]
    )
    assert [event.value for event in events.Scalars("train/f1")] == pytest.approx(
        [row["train/f1"] for row in rows]
    )
    assert events.Scalars("lr-Adam")  # of the callback


def test_another_logger_gets_the_same_numbers(run: Path) -> None:
    with (run / "csv" / "version_0" / "metrics.csv").open(newline="") as file:
        logged = [float(row["val/f1"]) for row in csv.DictReader(file) if row["val/f1"]]
    assert logged == pytest.approx([row["val/f1"] for row in read_rows(run)])


def test_lower_is_better_where_the_metric_says_so(tmp_path: Path) -> None:
    train_small(tmp_path, f"metrics.low._target_={OF_TORCHMETRICS}HingeLoss", "best=val/low")
    values = [row["val/low"] for row in read_rows(tmp_path)]
    assert read_result(tmp_path)["best"]["val/low"] == min(values) < max(values)
    assert read_result(tmp_path)["best_by"] == {"metric": "val/low", "mode": "min"}


LOSS, CALLBACK = "torch.nn.MultiMarginLoss", "lightning.pytorch.callbacks"
MISTAKES = {
    "best=val/f2": "best=val/f2 is not an option. Did you mean 'val/f1'?",
    "best=train/f1": "best=train/f1 is not an option. Did you mean 'val/f1'?",
    "early_stopping.monitor=val/f": "early_stopping.monitor=val/f is not an option. Did you mean 'val/f1'?",
    "metrics.f1.num_classes=3": "metrics.f1.num_classes cannot be set: the run sets it itself",
    "metrics.f1.avrage=micro": "metrics.f1: Unexpected keyword arguments: `avrage`",
    "metrics.loss._target_=torchmetrics.MeanSquaredError": "metrics.loss is not a possible name: use a plain, unused name",
    "metrics.x=5": "metrics.x has no _target_: name a class or function, as in metrics.x._target_=MODULE.NAME",
    "metrics.x._target_=torch.nn.ReLU": "metrics.x._target_=torch.nn.ReLU makes no Metric",
    "metrics.x._target_=torchmetrics.MeanSquaredError": "metrics.x does not return a single number for probabilities (11, 10) and labels (11,)",
    f"metrics.x._target_={OF_TORCHMETRICS}ConfusionMatrix": (
        "metrics.x does not return a single number for probabilities (11, 10) and labels (11,), one row per image: it returns [10, 10]"
    ),
    "best=val/mean metrics.mean._target_=torchmetrics.MeanMetric": (
        "best=val/mean cannot be watched: MeanMetric does not say whether higher is better; give another metric"
    ),
    f"callbacks.x._target_={CALLBACK}.Nope": f"callbacks.x._target_={CALLBACK}.Nope: there is no '{CALLBACK}.Nope'",
    f"callbacks.x._target_={CALLBACK}.StochasticWeightAveraging": "callbacks.x.swa_lrs is missing: lightning.",
    "callbacks.x._target_=torch.nn.ReLU": "callbacks.x._target_=torch.nn.ReLU makes no Callback",
    f"loss=own loss._target_={LOSS} loss.reduction=none": "loss does not return a single number for logits (11, 10)",
    "loss=own loss._target_=torch.nn.L1Loss data.batch_size=10": "loss does not return a single number for logits (11, 10)",
    "loss.label_smoothing=1": "loss.label_smoothing=1 is out of range: it must be at least 0 and below 1",
    "logger=wandb": "logger=wandb needs the package wandb, which is not installed; type: pip install -e ",
}  # fmt: skip


@pytest.mark.parametrize("typed", MISTAKES)
def test_what_does_not_fit_is_one_message_before_anything_is_written(typed: str, tmp_path: Path) -> None:
    if typed == "logger=wandb" and importlib.util.find_spec("wandb"):
        pytest.skip("it is installed")
    with pytest.raises(ConfigError) as caught:
        train_small(tmp_path, *F1, *typed.split())
    assert str(caught.value).startswith(MISTAKES[typed])
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def stop(*_: Any) -> None:
    signal.raise_signal(signal.SIGINT)


class At(Callback):
    """Does something in the second epoch."""

    def __init__(self, act: Any) -> None:
        self.act = act

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 30:
            self.act()


def fail() -> None:
    raise ValueError("on purpose")


def test_mlflow_has_the_same_metrics_parameters_and_status(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    typed = [*F1, "logger=mlflow", f"output_dir={tmp_path}"]
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(SystemExit):
        train_small(run, *typed, callbacks=(At(stop),))
    client = mlflow.MlflowClient(f"file:{tmp_path}/mlruns")
    name = read_result(run)["logger_run"]
    assert client.get_run(name).info.status == "KILLED"
    train_small(run, *typed)
    rows, found = read_rows(run), client.get_run(name)
    assert read_result(run)["logger_run"] == name
    assert found.info.status == "FINISHED"
    assert (found.data.params["optimizer.lr"], found.data.params["metrics.f1.average"]) == ("0.002", "macro")
    for metric in ("train/loss", "train/f1", "val/accuracy", "val/f1", "lr", "seconds"):
        history = client.get_metric_history(name, metric)
        assert [item.value for item in history] == pytest.approx([row[metric] for row in rows], rel=1e-6)
    assert found.data.metrics["test/f1"] == pytest.approx(read_result(run)["test/f1"], rel=1e-6)
    failed = tmp_path / "failed"
    failed.mkdir()
    with pytest.raises(Exception, match="on purpose"):
        train_small(failed, *typed, callbacks=(At(fail),))
    assert client.get_run(read_result(failed)["logger_run"]).info.status == "FAILED"


def test_a_run_that_was_moved_logs_where_it_is_now_and_may_change_its_logger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    Path("out/runs/run").mkdir(parents=True)
    train_small(Path("out/runs/run"), "trainer.max_epochs=1", "logger=mlflow", "output_dir=out")
    name = read_result(Path("out/runs/run"))["logger_run"]
    Path("moved").mkdir()
    Path("out").rename("moved/out")
    monkeypatch.chdir(tmp_path / "moved")
    run = tmp_path / "moved/out/runs/run"
    expected = [
        ("", 2, name),
        ("logger=csv", 3, "0"),
        ("logger=tensorboard", 4, "0"),
        ("logger=mlflow", 5, "new"),
    ]
    for typed, epochs, logged in expected:
        overrides = [f"trainer.max_epochs={epochs}", *typed.split()]
        node = compose_config(typed or "seed=0").logger
        train(*plan_resume(str(run), overrides, tmp_path / "elsewhere", logger=node), quiet=True)
        found = read_result(run)["logger_run"]
        assert found == logged or (logged == "new" and found not in ("0", name))
    client = mlflow.MlflowClient(f"file:{tmp_path}/moved/out/mlruns")
    assert len(client.get_metric_history(name, "val/accuracy")) == 2
    assert client.get_run(found).data.params["data.val_size"] == "200"
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]
    assert (run / "csv/version_0/metrics.csv").is_file()


def test_class_weights_of_a_loss_become_a_tensor_that_moves_and_is_stored(tmp_path: Path) -> None:
    weights = [1.0] * 9 + [3]
    settings = check_config(compose_config(*SMALL, f"+loss.weight={json.dumps(weights)}"))
    _, classifier = assemble(settings)
    assert classifier.loss.weight.tolist() == weights
    assert "loss.weight" in classifier.state_dict()
    logits, labels = torch.randn(8, 10), torch.arange(2, 10)
    plain = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    expected = (plain * torch.tensor(weights)[labels]).sum() / torch.tensor(weights)[labels].sum()
    assert classifier.loss(logits, labels) == pytest.approx(expected)
    assert classifier.to("meta").loss.weight.is_meta
    for value in ("[1,2]", "[1,1,1,1,1,1,1,1,1,x]", "3"):
        wrong = check_config(compose_config(*SMALL, f"+loss.weight={value}"))
        with pytest.raises(
            ConfigError, match=r"^loss\.weight=.* must be a list of 10 numbers, one per class$"
        ):
            assemble(wrong)
