"""The LightningModule: what a step computes, what is measured, and how the weights are updated."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities.enums import GradClipAlgorithmType
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from cnn_lab.errors import ConfigError
from cnn_lab.metrics import Confusion, Measures, weigh
from cnn_lab.shapes import Layer

Batch = tuple[Tensor, Tensor]


def make_class_logits(outputs: Tensor) -> Tensor:
    """Logits (batch, classes) from what a network gives, which for two classes may be one number z an image.

    They are then 0 and z: their softmax gives the second class the sigmoid of z, and their cross-entropy is
    the binary cross-entropy of it.
    """
    return F.pad(outputs, (1, 0)) if outputs.shape[1] == 1 else outputs


class ImageClassifier(LightningModule):
    """Trains any network that maps images to logits.

    Logged once an epoch: `train/loss`, `train/accuracy`, those of `metrics`, and the same for the split that
    is watched.

    Args:
        net: images (batch, channels, height, width) to logits (batch, classes), or (batch, 1) for two.
        num_classes: classes that the labels, 0 to `num_classes - 1`, may name.
        make_optimizer: from parameters to an optimizer.
        make_scheduler: from an optimizer and the run's number of steps to Lightning's `lr_scheduler`
            settings or None; see `cnn_lab.scheduler`.
        loss: from logits (batch, classes) and labels (batch,) to the mean over the batch.
        metrics: what is measured besides loss and accuracy, by name.
        watched: name of the split that Lightning's validation loop measures, "val" or "test".
        layers: the network's, for the table of them.

    Attributes:
        answers: how many images of each class (rows) were given each class (columns) in the validation or
            test that has just ended, (classes, classes), int64; None in an epoch without.
    """

    def __init__(
        self,
        net: nn.Module,
        num_classes: int,
        make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        make_scheduler: Callable[[Optimizer, float], dict[str, Any] | None],
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        metrics: Mapping[str, Metric] | None = None,
        watched: str = "val",
        layers: Sequence[Layer] = (),
    ) -> None:
        super().__init__()
        self.net = net
        self.layers = list(layers)
        self.make_optimizer = make_optimizer
        self.make_scheduler = make_scheduler
        self.loss = loss
        self.metrics = dict(metrics or {})
        self.watched = watched
        self.train_metrics = Measures(self.metrics)
        self.eval_metrics = Measures(self.metrics)
        self.confusion = Confusion(num_classes)
        self.answers: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes), float32 or wider.

        Args:
            images: (batch, channels, height, width), normalised.
        """
        logits = make_class_logits(self.net(images))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def on_train_epoch_start(self) -> None:
        """Start the epoch's means anew."""
        self.train_metrics.reset()
        self.answers = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss that Lightning minimises."""
        images, labels = batch
        logits = self(images)
        loss = self.loss(logits, labels)
        self.train_metrics.update(loss.detach(), logits.detach(), labels, weigh(self.loss, labels))
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means, and step a schedule that watches one."""
        self._log("train", self.train_metrics)
        for settings in self.trainer.lr_scheduler_configs:
            if settings.reduce_on_plateau:
                settings.scheduler.step(self.trainer.callback_metrics[settings.monitor])

    def on_validation_epoch_start(self) -> None:
        """Start the means and the confusion matrix anew."""
        self.eval_metrics.reset()
        self.confusion.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Measure a batch of the split that is watched; its logits (batch, classes) go to the callbacks."""
        images, labels = batch
        logits = self(images)
        self.eval_metrics.update(self.loss(logits, labels), logits, labels, weigh(self.loss, labels))
        self.confusion.update(logits, labels)
        return logits

    def on_validation_epoch_end(self) -> None:
        """Log what was measured."""
        self._log(self.watched, self.eval_metrics)
        self.answers = self.confusion.compute()  # in every process, since each adds its own

    def on_test_epoch_start(self) -> None:
        """Start the means and the confusion matrix anew."""
        self.on_validation_epoch_start()

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Measure a batch of test images; its logits (batch, classes) go to the callbacks."""
        return self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log what was measured."""
        self._log("test", self.eval_metrics)
        self.answers = self.confusion.compute()

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer over all parameters, and its schedule if it has one."""
        optimizer, schedule = self.build_optimizer(self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, **({"lr_scheduler": schedule} if schedule else {})}

    def build_optimizer(self, total_steps: float) -> tuple[Optimizer, dict[str, Any] | None]:
        """The optimizer, and its schedule over so many steps, infinity for a run without an end.

        Raises:
            ConfigError: for settings that one of them refuses.
        """
        try:
            optimizer = self.make_optimizer(self.parameters())
        except (ValueError, TypeError, RuntimeError) as error:
            raise ConfigError(f"optimizer: {error}") from error
        if not isinstance(optimizer, Optimizer):
            raise ConfigError(f"optimizer._target_ makes {type(optimizer).__name__}, not an Optimizer")
        try:
            return optimizer, self.make_scheduler(optimizer, total_steps)
        except (ValueError, TypeError) as error:
            raise error if isinstance(error, ConfigError) else ConfigError(f"scheduler: {error}") from error

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip a fused optimizer's gradients too, which Lightning refuses with mixed precision.

        Where it is right, since the optimizer itself undoes the scaling, `check_training` has refused.
        """
        precision = self.trainer.precision_plugin
        if isinstance(precision, MixedPrecision) and gradient_clip_val:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            super(MixedPrecision, precision).clip_gradients(optimizer, gradient_clip_val, algorithm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step a schedule. Lightning would step one that watches a metric after the epoch's checkpoint."""
        if metric is None:
            scheduler.step()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is gathered of an epoch that has not ended: a row a process, of `metrics` their sum."""
        gathered = {name: self.all_gather(value) for name, value in self.train_metrics.metric_state.items()}
        checkpoint["train_metrics"] = {name: value.reshape(-1) for name, value in gathered.items()}
        checkpoint["more_metrics"] = more = {}
        for name, metric in self.train_metrics.items():
            with metric.sync_context():
                more[name] = {key: copy.copy(value) for key, value in metric.metric_state.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on gathering: each process from its own; the first from all where their number is another."""
        rank, processes = self.trainer.global_rank, self.trainer.world_size
        gathered = checkpoint["train_metrics"]
        for name, values in {"weight_sum": gathered["count"], **gathered}.items():  # older ones lack it
            own = values[rank] if len(values) == processes else values.sum() * (rank == 0)
            getattr(self.train_metrics, name).copy_(own)
        for name, metric in self.train_metrics.items() if rank == 0 else ():
            for key, value in checkpoint["more_metrics"][name].items():
                is_joined = isinstance(getattr(metric, key), list) and isinstance(value, Tensor)
                setattr(metric, key, [value] if is_joined else value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ImageClassifier":
        """Move everything to a device; a type narrower than float32 is for the network alone.

        What is summed over an epoch, and a loss with its weights, keep the type that they have.
        """
        for child in self.children():
            child._apply(fn if child is self.net else lambda values: _keep_wide(fn, values))
        return self

    def _log(self, split: str, metrics: Measures) -> None:
        values = {f"{split}/{name}": value for name, value in metrics.compute().items()}
        self.log_dict(values, on_step=False, on_epoch=True)


def _keep_wide(fn: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """What `fn` makes of the values, but for a type narrower than float32, which they do not take."""
    made = fn(values)
    return values.to(made.device) if made.dtype in (torch.float16, torch.bfloat16) else made
