"""What is measured: the loss, the accuracy, and metrics of one's own by name."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from cnn_lab.errors import ConfigError


class Measures(Metric):
    """Mean loss, share of right answers and more, gathered on the device: nothing waits before `compute`.

    Args:
        more: metrics by name; each is given probabilities (batch, classes) and labels (batch,).
    """

    full_state_update = False
    loss_sum: Tensor
    correct: Tensor
    count: Tensor

    def __init__(self, more: Mapping[str, Metric] | None = None) -> None:
        super().__init__()
        self.names = list(more or ())
        self.more = nn.ModuleList(metric.clone() for metric in (more or {}).values())
        for metric in self.more:
            metric.validate_args = False  # type: ignore[assignment] - it would wait for the device
        self.add_state("loss_sum", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("correct", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def items(self) -> Iterable[tuple[str, Any]]:
        """The name of each of `more`, and what gathers it."""
        return zip(self.names, self.more, strict=True)

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: its mean loss (), logits (batch, classes) and labels (batch,)."""
        self.loss_sum += loss * len(labels)
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
        return {"loss": self.loss_sum / self.count, "accuracy": self.correct / self.count}

    def read(self, prefix: str) -> dict[str, float]:
        """`compute` as plain numbers, `prefix/loss` and so on, to the digits float32 has."""
        return {f"{prefix}/{name}": float(f"{value.item():.7g}") for name, value in self.compute().items()}


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
    """Try the loss and the metrics on made-up answers.

    Raises:
        ConfigError: for one that refuses them, or makes of them something else than one number.
    """
    labels = torch.arange(classes)
    answers = torch.eye(classes).softmax(dim=1)
    attempts: dict[str, Callable[..., Any]] = {"loss": loss}
    attempts |= {f"metrics.{name}": metric.clone() for name, metric in metrics.items()}
    for key, attempt in attempts.items():
        try:
            found = attempt(answers, labels)
            problem = "" if torch.as_tensor(found).numel() == 1 else f"it gives {list(found.shape)}"
        except Exception as error:  # what others' code raises
            problem = str(error).strip().partition("\n")[0] or type(error).__name__
        if problem:
            raise ConfigError(
                f"{key} makes no number from answers ({classes}, {classes}) and labels ({classes},), a row "
                f"an image: {problem}"
            )
