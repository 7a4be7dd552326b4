"""The classifier, optimizers and schedules, in this process."""

import functools
import math
from collections.abc import Callable

import pytest
import torch
from hydra.utils import instantiate
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.optim import Optimizer

from cnn_lab import scheduler
from cnn_lab.assembly import assemble
from cnn_lab.classifier import ImageClassifier
from cnn_lab.metrics import Measures
from cnn_lab.model import CNN
from cnn_lab.pictures.events import flatten_settings
from cnn_lab.settings.config import PROJECT, check_config
from conftest import SMALL_DATA, compose_config

OPTIMIZERS = sorted(path.stem for path in (PROJECT / "conf" / "optimizer").glob("*.yaml"))


def make_lr_curve(
    make_optimizer: Callable[..., Optimizer], name: str, epochs: int, steps: int, **settings: float
) -> list[float]:
    """The lr before each step of a run in which the monitored loss never falls."""
    optimizer = make_optimizer([nn.Parameter(torch.ones(2))], lr=0.1)
    schedule = getattr(scheduler, name)(optimizer, epochs * steps, **settings)
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
    settings = check_config(compose_config(f"optimizer={optimizer}"))["optimizer"]
    make_curve = functools.partial(make_lr_curve, instantiate(settings, _partial_=True))
    assert make_curve("constant", 2, 3) == [0.1] * 6
    expected = [0.05 * (1 + math.cos(math.pi * step / 20)) for step in range(20)]
    assert make_curve("cosine", 2, 10) == pytest.approx(expected, abs=1e-6)
    one_cycle = make_curve("one_cycle", 2, 10, warmup=0.3)
    assert one_cycle[0] == pytest.approx(0.1 / 25)
    assert max(one_cycle) == pytest.approx(0.1)
    assert one_cycle.index(max(one_cycle)) == 5
    assert one_cycle[-1] < 1e-5
    assert make_curve("step", 3, 1, step_size=2, gamma=0.5) == pytest.approx([0.1, 0.1, 0.05])
    plateau = make_curve("plateau", 6, 1, patience=1, factor=0.1)
    assert plateau == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01, 0.001])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_initialisation_loss_gradients_and_one_update_are_reproducible(optimizer: str) -> None:
    settings = check_config(compose_config(*SMALL_DATA, f"optimizer={optimizer}"))

    def run_step() -> list[torch.Tensor]:
        torch.manual_seed(5)
        data, classifier = assemble(settings)
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
    metrics = Measures()
    logits, labels = torch.randn(10, 4), torch.randint(0, 4, (10,))
    for part in (slice(0, 7), slice(7, 10)):
        metrics.update(cross_entropy(logits[part], labels[part]), logits[part], labels[part])
    read = metrics.read("val")
    assert read["val/loss"] == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-6)
    assert read["val/accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_any_network_can_be_trained_with_any_loss() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    batch = torch.randn(6, 1, 28, 28), torch.arange(6)
    plain, smooth = (
        ImageClassifier(net, 10, torch.optim.Adam, scheduler.constant, loss).training_step(batch, 0)
        for loss in (cross_entropy, nn.CrossEntropyLoss(label_smoothing=0.2))
    )
    assert plain.item() == pytest.approx(cross_entropy(net(batch[0]), batch[1]).item())
    assert smooth.item() == pytest.approx(cross_entropy(net(batch[0]), batch[1], label_smoothing=0.2).item())
    assert smooth.item() != plain.item()


def test_with_two_classes_one_output_learns_what_two_do() -> None:
    settings = {"channels": [4], "hidden": [8], "dropout": 0.0, "input_shape": (1, 12, 12), "num_classes": 2}
    one, two = (CNN(**settings, num_outputs=count).double() for count in (None, 2))
    *inner, _, _ = zip(one.parameters(), two.parameters(), strict=True)
    with torch.no_grad():
        for own, other in inner:
            own.copy_(other)
        for own, other in zip(one.head[-1].parameters(), two.head[-1].parameters(), strict=True):
            own.copy_(other[1:] - other[:1])
    # Each of two outputs moves as far as the single one would, away from the other: their difference twice as far.
    optimizers = []
    for net, lr in ((one, 0.2), (two, 0.1)):
        others = [*net.blocks.parameters(), *net.head[:-1].parameters()]
        groups = [{"params": net.head[-1].parameters(), "lr": lr}, {"params": others}]
        optimizers.append(torch.optim.SGD(groups, lr=0.1, momentum=0.9))
    classifiers = [ImageClassifier(net, 2, torch.optim.SGD, scheduler.constant) for net in (one, two)]
    batch = torch.randn(32, 1, 12, 12, dtype=torch.float64), torch.arange(32) % 2
    for _ in range(20):
        probabilities = [classifier(batch[0]).softmax(dim=1) for classifier in classifiers]
        assert torch.allclose(*probabilities, rtol=0, atol=1e-12)
        assert torch.allclose(probabilities[0][:, 1:], one(batch[0]).sigmoid())
        losses = [classifier.training_step(batch, 0) for classifier in classifiers]
        expected = binary_cross_entropy_with_logits(one(batch[0])[:, 0], batch[1].double())
        assert losses[0].item() == pytest.approx(expected.item(), rel=1e-12)
        for loss, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert losses[0] < 0.6


def test_hparams_has_the_same_columns_for_every_run() -> None:
    columns = [
        {
            name: type(value)
            for name, value in flatten_settings(check_config(compose_config(*typed)), 1, 1).items()
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
    config = check_config(compose_config("model.channels=[4,8]", "model.kernel_sizes=5"))
    settings = flatten_settings(config, parameters=7, train_size=300)
    assert [settings[name] for name in ("channels", "kernel_sizes", "train_size")] == ["[4,8]", "5", 300]
