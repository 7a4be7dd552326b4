"""What is measured: the loss, the accuracy, your own metrics by name, and which classes are confused."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from cnn_lab.errors import ConfigError


class Measures(Metric):
    """Mean loss, share of right answers and more, gathered on the device: nothing waits before `compute`.

    The mean loss does not depend on the batch size where it is a mean over images, nor for the losses that
    `weigh` knows; for another loss it is the mean of the batches' losses, weighted by their images.

    Args:
        more: metrics by name; each is given probabilities (batch, classes) and labels (batch,).
    """

    full_state_update = False
    loss_sum: Tensor
    weight_sum: Tensor
    correct: Tensor
    count: Tensor

    def __init__(self, more: Mapping[str, Metric] | None = None) -> None:
        super().__init__()
        self.names = list(more or ())
        self.more = nn.ModuleList(metric.clone() for metric in (more or {}).values())
        for metric in self.more:
            metric.validate_args = False  # type: ignore[assignment] - it would wait for the device
        self.add_state("loss_sum", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("weight_sum", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("correct", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def items(self) -> Iterable[tuple[str, Any]]:
        """The name of each of `more`, and what gathers it."""
        return zip(self.names, self.more, strict=True)

    def update(
        self, loss: Tensor, logits: Tensor, labels: Tensor, weight: Tensor | int | None = None
    ) -> None:
        """Add a batch: its mean loss (), logits (batch, classes) and labels (batch,).

        `weight` (), of the loss in the mean over batches, is the number of images where it is None.
        """
        weight = len(labels) if weight is None else weight
        self.loss_sum += loss.to(self.loss_sum.dtype) * weight
        self.weight_sum += weight
        self.correct += (logits.argmax(dim=1) == labels).sum()
        self.count += len(labels)
        if self.names:
            probabilities = logits.float().softmax(dim=1)
            for metric in self.more:
                metric.update(probabilities, labels)  # type: ignore[operator]

    def reset(self) -> None:
        """Start anew."""
        super().reset()
        for metric in self.more:
            metric.reset()  # type: ignore[operator]

    def compute(self) -> dict[str, Tensor]:
        """What was measured on all images of all devices since `reset`; NaN where there were none."""
        return self.peek() | {name: metric.compute().float() for name, metric in self.items()}

    def peek(self) -> dict[str, Tensor]:
        """Loss and accuracy of this device's images so far."""
        return {"loss": self.loss_sum / self.weight_sum, "accuracy": self.correct / self.count}

    def read(self, prefix: str) -> dict[str, float]:
        """`compute` as plain numbers, `prefix/loss` and so on, to the digits float32 has."""
        return {f"{prefix}/{name}": float(f"{value.item():.7g}") for name, value in self.compute().items()}


class Confusion(Metric):
    """How many images of each class (rows) were given each class (columns), counted on the device.

    Args:
        num_classes: how many there are.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("counts", counts, dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (batch, classes) and labels (batch,)."""
        cells = labels * len(self.counts) + logits.argmax(dim=1)
        # Not `bincount`, which reads the largest number on the host, and so waits for the device.
        self.counts.view(-1).scatter_add_(0, cells, torch.ones_like(cells))

    def compute(self) -> Tensor:
        """The counts (classes, classes), int64, of the images of all devices since `reset`."""
        return self.counts


def weigh(loss: Callable[[Tensor, Tensor], Tensor], labels: Tensor) -> Tensor | int:
    """What `loss` divides the sum over a batch with `labels` (batch,) by: its weight in a mean over batches.

    That is the sum of the labels' weights for `CrossEntropyLoss` and `NLLLoss` with `weight`, without the
    labels that they ignore; for any other loss the number of images.
    """
    if not isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss):
        return len(labels)
    if loss.weight is None and loss.ignore_index < 0:
        return len(labels)
    is_counted = labels != loss.ignore_index
    weights = torch.ones_like(labels) if loss.weight is None else loss.weight[labels]
    return (weights * is_counted).sum()


def find_mode(key: str, watched: str, metrics: Mapping[str, Metric]) -> str:
    """ "max" or "min": what is better of the metric that the setting `key` watches, such as "val/f1".

    Raises:
        ConfigError: for a metric that does not say.
    """
    name = watched.partition("/")[2]
    better = {"loss": False, "accuracy": True}.get(name)
    if name in metrics:
        better = metrics[name].higher_is_better
        if better is None:
            raise ConfigError(
                f"{key}={watched} cannot be watched: {type(metrics[name]).__name__} does not say whether "
                "higher is better; give another metric"
            )
    return "max" if better else "min"


def check_fit(loss: Callable[[Tensor, Tensor], Tensor], metrics: Mapping[str, Metric], classes: int) -> None:
    """Try the loss on made-up logits, and the metrics on made-up probabilities.

    There is one image more than there are classes: what pairs logits with labels by broadcasting then fails.

    Raises:
        ConfigError: for one that refuses them, or does not return a single number.
    """
    images = classes + 1
    labels = torch.arange(images) % classes
    answers = torch.eye(classes)[labels].softmax(dim=1)
    attempts: dict[str, Callable[..., Any]] = {"loss": loss}
    attempts |= {f"metrics.{name}": metric.clone() for name, metric in metrics.items()}
    for key, attempt in attempts.items():
        try:
            found = attempt(answers, labels)
            problem = "" if torch.as_tensor(found).numel() == 1 else f"it returns {list(found.shape)}"
        except Exception as error:  # what others' code raises
            problem = str(error).strip().partition("\n")[0] or type(error).__name__
        if problem:
            given = "logits" if key == "loss" else "probabilities"
            raise ConfigError(
                f"{key} does not return a single number for {given} ({images}, {classes}) and labels "
                f"({images},), one row per image: {problem}"
            )
