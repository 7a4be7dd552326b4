"""That a number means what its name says: whatever the precision, the batch size and the limits."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torchmetrics.classification import MulticlassAUROC, MulticlassHingeLoss

from cnn_lab import scheduler
from cnn_lab.classifier import ImageClassifier
from cnn_lab.errors import ConfigError
from cnn_lab.metrics import Measures, weigh
from cnn_lab.runs.record import Run, read_rows
from cnn_lab.sampling import BatchIndices
from cnn_lab.settings.config import check_config
from cnn_lab.terminal.display import Display
from cnn_lab.terminal.screen import Screen, format_json
from cnn_lab.trainer import check_training, count_images, make_trainer
from cnn_lab.training import train
from cnn_lab.use.evaluation import evaluate
from conftest import compose_config, read_result
from test_data import make_mnist

SMALL = [
    "data.train_size=320", "data.val_size=100", "trainer.accelerator=cpu", "model.channels=[2,4]", "model.hidden=[8]",
    "pictures.enabled=false", "trainer.limit_test_batches=1", "trainer.max_epochs=1", "trainer.log_every_n_steps=1",
    "trainer.precision=32-true",
]  # fmt: skip


def train_small(path: Path, *typed: str, callbacks: tuple[Callback, ...] = ()) -> None:
    path.mkdir(exist_ok=True)
    settings = check_config(compose_config(*SMALL, f"output_dir={path}", *typed))
    train(settings, path, callbacks=callbacks, quiet=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_what_is_summed_is_as_precise_as_float32_whatever_the_network_is(dtype: torch.dtype) -> None:
    metrics = {"hinge": MulticlassHingeLoss(3), "auroc": MulticlassAUROC(3, thresholds=9)}
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 0.1, 3.0]))
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    classifier = ImageClassifier(net, 3, torch.optim.SGD, scheduler.constant, loss, metrics).to(dtype)
    assert net[1].weight.dtype == dtype
    for _ in range(300):  # beyond 256, bfloat16 has no odd numbers
        classifier.validation_step((torch.ones(3, 1, 2, 2, dtype=dtype), torch.arange(3)), 0)
    logits = net(torch.ones(3, 1, 2, 2, dtype=dtype)).double()
    expected = nn.functional.cross_entropy(logits, torch.arange(3), loss.weight.double())
    measured = classifier.eval_metrics.compute()
    assert measured["loss"].item() == pytest.approx(expected.item(), rel=1e-4)
    hinge = MulticlassHingeLoss(3)(logits.float().softmax(dim=1), torch.arange(3))
    assert measured["hinge"].item() == pytest.approx(hinge.item(), rel=1e-4)
    assert classifier.eval_metrics.count == 900


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The row of a run in float32."""
    path = tmp_path_factory.mktemp("float32")
    train_small(path, "optimizer.lr=0.003")
    return read_rows(path)[0]


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
def test_every_precision_gives_the_numbers_of_float32(
    precision: str, expected: dict[str, Any], tmp_path: Path
) -> None:
    train_small(tmp_path, "optimizer.lr=0.003", f"trainer.precision={precision}")
    found = read_rows(tmp_path)[0]
    assert found["train/loss"] == pytest.approx(expected["train/loss"], rel=0.01)
    assert found["val/loss"] == pytest.approx(expected["val/loss"], rel=0.02)


WEIGHT = torch.tensor([0.1, 1.0, 5.0, 0.5])
LOSSES = {
    "weights": nn.CrossEntropyLoss(WEIGHT),
    "weights, smoothed": nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.2),
    "ignored": nn.CrossEntropyLoss(ignore_index=2),
    "log-likelihood": nn.NLLLoss(WEIGHT, ignore_index=0),
    "of images": nn.MultiMarginLoss(weight=WEIGHT),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_mean_loss_does_not_depend_on_the_batch_size(name: str) -> None:
    loss, generator = LOSSES[name], torch.Generator().manual_seed(0)
    logits = torch.randn(60, 4, generator=generator)
    labels = torch.randint(0, 4, (60,), generator=generator)
    for size in (60, 25, 7):
        measures = Measures()
        for some, their in zip(logits.split(size), labels.split(size), strict=True):
            measures.update(loss(some, their), some, their, weigh(loss, their))
        assert measures.compute()["loss"].item() == pytest.approx(loss(logits, labels).item(), rel=1e-5)


REJECTED = {
    "trainer.precision=16-true": "trainer.precision=16-true does not train: in float16, ",
    "trainer.precision=16-mixed": "trainer.precision=16-mixed needs a GPU; type trainer.precision=bf16-mixed",
    "trainer.precision=16": "trainer.precision=16 needs a GPU",
    "trainer.sync_batchnorm=true": "trainer.sync_batchnorm=true needs GPUs",
    "trainer.limit_test_batches=0": "trainer.limit_test_batches=0 leaves no test image",
    f"metrics.{'x' * 101}._target_=torchmetrics.MeanMetric": f"metrics.{'x' * 101} is not a possible name: use a plain",
    "loss._target_=torch.nn.L1Loss ~loss.label_smoothing data.batch_size=10": "loss does not return a single number",
}


@pytest.mark.parametrize("typed", REJECTED)
def test_what_cannot_be_trained_is_rejected_before_anything_is_written(typed: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as rejected:
        train_small(tmp_path, *typed.split())
    assert str(rejected.value).startswith(REJECTED[typed])
    assert not list(tmp_path.iterdir())


def test_scaled_gradients_of_a_fused_optimizer_are_not_clipped() -> None:
    settings = {"accelerator": "cuda", "precision": "16-mixed", "gradient_clip_val": 1.0}
    with pytest.raises(
        ConfigError, match=r"^trainer.gradient_clip_val=1.0 cannot be combined with .* optimizer.fused=false"
    ):
        check_training(settings, is_fused=True)
    check_training(settings, is_fused=False)
    check_training({**settings, "precision": "bf16-mixed"}, is_fused=True)


@pytest.mark.parametrize("val_size", [0.004, 0.001])
def test_a_share_of_no_image_is_rejected(val_size: float) -> None:
    with pytest.raises(
        ConfigError, match=rf"^data.val_size={val_size} of 100 training images is less than one"
    ):
        make_mnist(val_size=val_size)._count_val(100)


def test_each_process_needs_an_image() -> None:
    trainer = make_trainer(
        {"_target_": "lightning.pytorch.Trainer", "accelerator": "cpu", "devices": 2, "strategy": "ddp"}
    )
    trainer.datamodule = make_mnist(train_size=100, val_size=1)
    trainer.datamodule.setup()
    with pytest.raises(
        ConfigError, match=r"^trainer.devices=2: .* val images, and there are 1; type trainer.devices=1$"
    ):
        count_images(trainer)


@pytest.mark.parametrize(("size", "batch_size", "lengths"), [
    (65, 64, [65]), (129, 64, [64, 65]), (130, 64, [64, 64, 2]), (64, 64, [64]), (1, 64, [1]), (3, 1, [1, 1, 1]), (3, 2, [3]),
])  # fmt: skip
def test_no_image_is_left_alone_in_a_batch(size: int, batch_size: int, lengths: list[int]) -> None:
    sampler = BatchIndices(torch.arange(size), batch_size)
    assert [len(batch) for batch in sampler] == lengths
    assert len(sampler) == len(lengths)
    assert torch.equal(torch.cat([torch.empty(0), *sampler]), torch.arange(size))


@pytest.mark.parametrize(("warmup", "steps"), [(0.1, 10), (0.01, 100), (0.5, 2), (0.3, 10), (0.05, 10)])
def test_one_cycle_warms_up_in_whatever_steps_there_are(warmup: float, steps: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    schedule = scheduler.one_cycle(optimizer, steps, warmup)["scheduler"]
    lrs = []
    for _ in range(steps):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert max(lrs) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("name", ["x" * 100, "précision", "f1_2"])
def test_a_resumed_run_finds_all_that_it_measured(name: str, tmp_path: Path) -> None:
    Run(tmp_path).add_epoch({"epoch": 1, "step": 5, f"train/{name}": 0.25, f"val/{name}": 0.5})
    assert Run(tmp_path).rows[0] | {f"train/{name}": 0.25, f"val/{name}": 0.5} == Run(tmp_path).rows[0]


def test_json_has_no_nan() -> None:
    values = {"loss": math.nan, "list": [1.5, math.inf, {"x": -math.inf}], "text": "NaN", "count": 3}
    assert json.loads(format_json(values)) == {
        "loss": None, "list": [1.5, None, {"x": None}], "text": "NaN", "count": 3,
    }  # fmt: skip


class Count(Callback):
    """The images that training, validation and test have seen."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def note(self, split: str, batch: Any) -> None:
        self.seen[split] = self.seen.get(split, 0) + len(batch[0])

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.note("train", batch)

    def on_validation_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.note("val", batch)

    def on_test_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.note("test", batch)


@pytest.mark.parametrize("typed", [
    "data.eval_batch_size=20 trainer.limit_test_batches=2 trainer.limit_val_batches=0.5 trainer.limit_train_batches=3",
    "trainer.limit_test_batches=0.02 trainer.limit_val_batches=7 trainer.limit_train_batches=0.4",
    "trainer.overfit_batches=2",
    "data.test_each_epoch=true data.val_size=0 trainer.limit_val_batches=3",
])  # fmt: skip
def test_a_run_says_how_many_images_it_measured(typed: str, tmp_path: Path) -> None:
    count = Count()
    train_small(tmp_path, *typed.split(), callbacks=(count,))
    result, log = read_result(tmp_path), (tmp_path / "train.log").read_text()
    assert result["images"] == count.seen
    assert f"10,000 test ({count.seen['test']:,} used)" in log
    assert f"MNIST, {count.seen['test']:,} of 10,000 test images" in log
    measured = evaluate(tmp_path / "checkpoints" / "last.ckpt")
    assert (measured["images"], measured["available"]) == (count.seen["test"], 10_000)


def test_without_validation_in_training_all_images_are_evaluated(tmp_path: Path) -> None:
    train_small(tmp_path, "trainer.limit_val_batches=0")
    measured = evaluate(tmp_path / "checkpoints" / "last.ckpt", "val")
    assert (measured["images"], math.isfinite(measured["loss"])) == (100, True)


def test_what_is_validated_only_now_and_then_is_told_only_then_and_at_the_end(tmp_path: Path) -> None:
    train_small(
        tmp_path, "trainer.check_val_every_n_epoch=2", "trainer.max_epochs=9", "trainer.max_steps=22", "pictures.enabled=true",
        "pictures.every_n_epochs=1", "trainer.accumulate_grad_batches=1", "best=val/loss",
    )  # fmt: skip
    rows = read_rows(tmp_path)
    assert [(row["step"], row["val/loss"] is not None) for row in rows] == [
        (5, False), (10, True), (15, False), (20, True), (22, True),
    ]  # fmt: skip
    events = EventAccumulator(str(tmp_path)).Reload()
    validated = [row["step"] for row in rows if row["val/loss"] is not None]
    for tags in (
        events.Images("pictures/confusion"),
        events.Images("pictures/mistakes"),
        events.Scalars("class_accuracy/3"),
    ):
        assert [event.step for event in tags] == validated
    log = (tmp_path / "train.log").read_text()
    assert "val loss" in log
    assert f"{rows[1]['val/loss']:.4f}" in log


def test_the_loss_of_a_step_is_that_of_its_images(tmp_path: Path) -> None:
    for batches in (1, 4):
        train_small(
            tmp_path / str(batches), "optimizer.lr=1e-9", f"trainer.accumulate_grad_batches={batches}", "model.dropout=0",
        )  # fmt: skip
    steps = [
        [event.value for event in EventAccumulator(str(tmp_path / name)).Reload().Scalars("train/loss_step")]
        for name in ("1", "4")
    ]
    assert steps[0] == pytest.approx(steps[1], rel=1e-4)


def test_batch_norm_is_trained_whatever_is_left_for_the_last_batch(tmp_path: Path) -> None:
    train_small(
        tmp_path,
        "model.norm=batch",
        "model.channels=[2,4,4,4,4]",
        "model.pool=[max,max,max,max,none]",
        "data.train_size=129",
    )
    assert read_result(tmp_path)["steps"] == 2


@pytest.mark.parametrize(("labels", "is_told"), [([0, 1], True), ([0, 0], False)])
def test_one_prediction_for_all_is_told_where_there_are_several_classes(
    labels: list[int], is_told: bool
) -> None:
    screen = Screen(quiet=True)
    told: list[str] = []
    screen.show = lambda text, **_: told.append(text)  # type: ignore[method-assign]
    answers = torch.zeros(3, 3, dtype=torch.int64)
    for label in labels:
        answers[label, 0] += 1000
    Display(screen, None)._point_out_one_answer(answers, "validation")  # type: ignore[arg-type]
    message = "The network predicts class 0 for all 2,000 validation images; if this goes on, try a smaller optimizer.lr or more epochs"
    assert told == [message] * is_told
