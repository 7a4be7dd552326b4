"""The classifier, optimizers and schedules, in this process."""

import math
import subprocess
import sys

import pytest
import torch
from hydra.utils import instantiate
from torch import nn
from torch.nn.functional import cross_entropy

from cnn_lab.classifier import ImageClassifier, LossAndAccuracy
from cnn_lab.pictures.events import flatten_settings
from cnn_lab.settings.config import PROJECT, check_config
from cnn_lab.training import build
from conftest import compose_config

OPTIMIZERS = sorted(path.stem for path in (PROJECT / "conf" / "optimizer").glob("*.yaml"))
SCHEDULERS = sorted(path.stem for path in (PROJECT / "conf" / "scheduler").glob("*.yaml"))


def test_the_groups_are_there() -> None:
    assert OPTIMIZERS == ["adam", "adamw", "rmsprop", "sgd"]
    assert SCHEDULERS == ["constant", "cosine", "one_cycle", "plateau", "step"]


def make_lr_curve(
    optimizer_name: str, scheduler: str, epochs: int, steps: int, *overrides: str
) -> list[float]:
    """The lr before each step of a run in which the monitored loss never falls."""
    config = compose_config(
        f"optimizer={optimizer_name}", f"scheduler={scheduler}", "optimizer.lr=0.1", *overrides
    )
    settings = check_config(config)
    optimizer = instantiate(settings["optimizer"], _partial_=True)([nn.Parameter(torch.ones(2))])
    schedule = instantiate(settings["scheduler"], _partial_=True)(optimizer, epochs * steps)
    curve = []
    for _ in range(epochs):
        for _ in range(steps):
            curve.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if schedule and schedule["interval"] == "step":
                schedule["scheduler"].step()
        if schedule and schedule["interval"] == "epoch":
            schedule["scheduler"].step(*([1.0] if "monitor" in schedule else []))
    return curve


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_schedule_with_every_optimizer(optimizer: str) -> None:
    assert make_lr_curve(optimizer, "constant", 2, 3) == [0.1] * 6
    cosine = make_lr_curve(optimizer, "cosine", 2, 10)
    expected = [0.05 * (1 + math.cos(math.pi * step / 20)) for step in range(20)]
    assert cosine == pytest.approx(expected, abs=1e-6)
    one_cycle = make_lr_curve(optimizer, "one_cycle", 2, 10)
    assert one_cycle[0] == pytest.approx(0.1 / 25)
    assert max(one_cycle) == pytest.approx(0.1)
    assert one_cycle.index(max(one_cycle)) == 5
    assert one_cycle[-1] < 1e-5
    step = make_lr_curve(optimizer, "step", 3, 1, "scheduler.step_size=2", "scheduler.gamma=0.5")
    assert step == pytest.approx([0.1, 0.1, 0.05])
    plateau = make_lr_curve(optimizer, "plateau", 6, 1, "scheduler.patience=1", "scheduler.factor=0.1")
    assert plateau == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01, 0.001])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", ["cnn", "lenet"])
def test_initialisation_loss_gradients_and_one_update_are_reproducible(optimizer: str, model: str) -> None:
    settings = check_config(compose_config("data=sample", f"optimizer={optimizer}", f"model={model}"))

    def run_step() -> list[torch.Tensor]:
        torch.manual_seed(5)
        data, classifier = build(settings)
        data.setup()
        images, labels = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
        classifier.train()
        before = [parameter.detach().clone() for parameter in classifier.net.parameters()]
        loss = classifier.training_step((images, labels), 0)
        loss.backward()
        gradients = [parameter.grad.clone() for parameter in classifier.net.parameters()]
        classifier.make_optimizer(classifier.net.parameters()).step()
        after = [parameter.detach().clone() for parameter in classifier.net.parameters()]
        assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
        return [*before, loss.detach(), *gradients, *after]

    for first, second in zip(run_step(), run_step(), strict=True):
        assert torch.equal(first, second)


def test_the_metrics_are_means_over_images_not_over_batches() -> None:
    metrics = LossAndAccuracy()
    logits, labels = torch.randn(10, 4), torch.randint(0, 4, (10,))
    for part in (slice(0, 7), slice(7, 10)):
        metrics.update(cross_entropy(logits[part], labels[part]), logits[part], labels[part])
    read = metrics.read("val")
    assert read["val/loss"] == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-6)
    assert read["val/accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_any_network_can_be_trained_and_labels_smoothed() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    batch = torch.randn(6, 1, 28, 28), torch.arange(6)
    plain = ImageClassifier(net, 10).training_step(batch, 0)
    smooth = ImageClassifier(net, 10, label_smoothing=0.2).training_step(batch, 0)
    assert plain.item() == pytest.approx(cross_entropy(net(batch[0]), batch[1]).item())
    assert smooth.item() == pytest.approx(cross_entropy(net(batch[0]), batch[1], label_smoothing=0.2).item())
    assert smooth.item() != plain.item()


def test_the_network_imports_no_lightning() -> None:
    code = "import sys, cnn_lab.model; assert not {'lightning', 'hydra', 'torchmetrics'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_hparams_has_the_same_columns_for_every_run() -> None:
    columns = [
        {
            name: type(value)
            for name, value in flatten_settings(check_config(compose_config(*typed)), 1).items()
        }
        for typed in (
            ["model.channels=[4]"],
            ["model=lenet", "optimizer=sgd", "scheduler=cosine"],
            [
                "model.channels=[4,8,8,8]",
                "model.kernel_sizes=[3,3,3,1]",
                "optimizer=rmsprop",
                "model.norm=batch",
            ],
        )
    ]
    assert columns[0] == columns[1] == columns[2]
    assert set(columns[0].values()) <= {int, float, str}
    settings = flatten_settings(
        check_config(compose_config("model.channels=[4,8]", "model.kernel_sizes=5")), 7
    )
    assert [settings[f"channels.{block}"] for block in range(4)] == [4, 8, 0, 0]
    assert [settings[f"kernel_sizes.{block}"] for block in range(4)] == [5, 5, 0, 0]
