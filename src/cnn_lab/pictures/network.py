"""The callback that shows in TensorBoard what the network sees and what it gets wrong."""

import contextlib
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from PIL.Image import Image
from torch import Tensor, nn

from cnn_lab.classifier import Batch, ImageClassifier
from cnn_lab.pictures.events import EventLogger
from cnn_lab.pictures.sheets import Tile, draw_confusion, draw_sheet
from cnn_lab.pictures.style import ORANGE, shade
from cnn_lab.terminal.screen import NAMES

TIMES = 10  # as many pictures of a name as TensorBoard keeps
COLUMNS, SIDE = 8, 35  # of a sheet, which is then 346 pixels wide: TensorBoard shows 350 unchanged
MOST_TILES = 32
BINS = 60  # of a histogram; TensorBoard shows 30


class Mistakes:
    """The wrong answers with the highest probability, kept on the device: nothing waits for it.

    Args:
        count: how many are kept.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.kept: list[Tensor] = []

    def update(self, images: Tensor, labels: Tensor, logits: Tensor) -> None:
        """Add a batch: images (batch, channels, height, width), labels (batch,), logits (batch, classes)."""
        probabilities, guesses = logits.detach().float().softmax(dim=1).max(dim=1)
        scores = torch.where(guesses == labels, -1.0, probabilities)  # right answers come last
        found = [scores, images, labels, guesses]
        if self.kept:
            found = [torch.cat(pair) for pair in zip(self.kept, found, strict=True)]
        best = found[0].topk(min(self.count, len(found[0]))).indices
        self.kept = [values[best] for values in found]

    def read(self) -> list[tuple[float, Tensor, int, int]]:
        """(probability, image, label, guess) of each mistake, the worst first."""
        rows = zip(*(values.cpu() for values in self.kept), strict=True)
        return [
            (float(score), image, int(label), int(guess)) for score, image, label, guess in rows if score > 0
        ]


class Pictures(Callback):
    """Writes pictures, histograms and an embedding for TensorBoard. None of it changes what is trained.

    At the start a sample of each class. Then the first layer's kernels and how they changed,
    each block's feature maps of one image, the confusion matrix, the accuracy of each class, the worst
    mistakes, and histograms of the weights and of the gradients of the epoch's last step. At the end the last
    hidden layer's features of test images. Networks without convolutions, `feature_maps` or `embed` go
    without these. Images of three channels are shown in their colours, others by the mean of their channels.

    Args:
        every_n_epochs: how often; None for about ten times a run.
        mistakes: how many are shown.
        embedding: how many test images are.
    """

    def __init__(
        self, events: EventLogger, every_n_epochs: int | None = None, mistakes: int = 20, embedding: int = 500
    ) -> None:
        self.events = events
        self.every_n_epochs = every_n_epochs
        self.mistakes = Mistakes(mistakes)
        self.embedding = embedding
        self._example = torch.empty(0)
        self._first_kernels = np.empty(0)
        self._embedded: list[list[Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: ImageClassifier) -> None:  # type: ignore[override]
        """Show samples, and the kernels before they have learned."""
        images, labels = _find_samples(trainer, pl_module)
        self._example = images[:1]
        tiles = [
            Tile(_to_pixels(trainer, image), trainer.datamodule.classes[int(label)])  # type: ignore[attr-defined]
            for image, label in zip(images, labels, strict=True)
        ]
        self._show("samples", draw_sheet(tiles, columns=5, side=58, text_size=13), trainer)
        if not len(self._first_kernels):
            self._first_kernels = _read_kernels(pl_module.net)
        self._show_kernels(pl_module.net, trainer)

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on needs to show how the kernels changed."""
        return {"first_kernels": torch.from_numpy(self._first_kernels)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called by Lightning with what `state_dict` gave."""
        self._first_kernels = state_dict["first_kernels"].numpy()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: ImageClassifier, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:  # type: ignore[override]
        """Show the gradients of an epoch's last step, which validation clears away."""
        if batch_idx + 1 == trainer.num_training_batches and self._is_due(trainer):
            named = pl_module.net.named_parameters()
            gradients = ((name, weights.grad) for name, weights in named if weights.grad is not None)
            self._add_histograms("gradients", gradients, trainer)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Forget the mistakes of the epoch before."""
        self.mistakes = Mistakes(self.mistakes.count)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, *_: int
    ) -> None:  # type: ignore[override]
        """Note a batch's mistakes."""
        if self._is_due(trainer) and self.mistakes.count:
            self.mistakes.update(*batch, outputs)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: ImageClassifier) -> None:  # type: ignore[override]
        """Show the network as it is now."""
        if not self._is_due(trainer):
            return
        self._show_kernels(pl_module.net, trainer)
        if hasattr(type(pl_module.net), "feature_maps"):
            self._show_maps(pl_module.net, trainer)
        if pl_module.answers is not None:
            self._show_answers(pl_module.answers, NAMES[pl_module.watched], trainer)
        self._add_histograms("weights", pl_module.net.named_parameters(), trainer)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: ImageClassifier,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        *_: int,
    ) -> None:  # type: ignore[override]
        """Gather the features of the first test images."""
        missing = self.embedding - sum(len(parts[0]) for parts in self._embedded)
        if missing > 0 and hasattr(type(pl_module.net), "embed"):
            images, labels, guesses = batch[0][:missing], batch[1][:missing], outputs[:missing].argmax(dim=1)
            self._embedded.append([pl_module.net.embed(images), images, labels, guesses])

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the features for the projector, with thumbnails."""
        if not self._embedded:
            return
        names = trainer.datamodule.classes  # type: ignore[attr-defined]
        gathered = zip(*self._embedded, strict=True)
        features, images, labels, guesses = (torch.cat(parts).cpu() for parts in gathered)
        answers = zip(labels.tolist(), guesses.tolist(), strict=True)
        with contextlib.redirect_stdout(io.StringIO()):  # it warns of the features of a run that is continued
            self.events.experiment.add_embedding(
                features.double().round(decimals=3),  # they are written as text
                metadata=[[names[label], names[guess]] for label, guess in answers],
                metadata_header=["label", "prediction"],
                label_img=_to_gray_or_rgb(trainer.datamodule.restore(images)) / 255,  # type: ignore[attr-defined]
                tag="last_hidden_layer",
            )

    def _is_due(self, trainer: Trainer) -> bool:
        epoch, last = trainer.current_epoch + 1, trainer.max_epochs or -1
        every = self.every_n_epochs or max(1, round(last / TIMES))
        return epoch % every == 0 or epoch == last

    def _show(self, name: str, picture: Image, trainer: Trainer) -> None:
        pixels = np.asarray(picture.convert("RGB"))
        self.events.experiment.add_image(f"pictures/{name}", pixels, trainer.global_step, dataformats="HWC")

    def _show_values(self, name: str, values: np.ndarray, title: str, trainer: Trainer) -> None:
        """A sheet of signed numbers (n, height, width) or (n, 3, height, width), all on one scale."""
        shown = values[:MOST_TILES]
        scale = float(np.abs(values).max()) or 1.0
        cut = f"{len(shown)} of {len(values)} shown\n" if len(shown) < len(values) else ""
        if values.ndim == 4:
            tiles = [Tile(np.uint8(127.5 * (1 + tile.transpose(1, 2, 0) / scale))) for tile in shown]
            legend = f"dark -{scale:.2g}, gray 0, bright {scale:.2g}"
        else:
            tiles = [Tile(shade(tile, scale)) for tile in shown]
            below = f"blue -{scale:.2g}, " if (values < 0).any() else ""
            legend = f"{below}white 0, orange {scale:.2g}"
        heading = f"{title}\n{cut}{legend}"
        self._show(name, draw_sheet(tiles, COLUMNS, SIDE, heading, text_size=12), trainer)

    def _show_kernels(self, net: nn.Module, trainer: Trainer) -> None:
        kernels = _read_kernels(net)
        if not len(kernels):
            return
        size = f"{kernels.shape[-2]} x {kernels.shape[-1]}"
        self._show_values("kernels", kernels, f"{len(kernels)} kernels of {size}", trainer)
        change = kernels - self._first_kernels
        self._show_values("kernels_change", change, "Change since the start", trainer)

    def _show_maps(self, net: Any, trainer: Trainer) -> None:
        was_training = net.training
        with torch.inference_mode():
            blocks = net.eval().feature_maps(self._example)
        net.train(was_training)
        for number, maps in enumerate(blocks, 1):
            values = maps[0].float().cpu().numpy()
            size = " x ".join(str(side) for side in values.shape)
            self._show_values(f"block_{number}", values, f"Block {number}: {size}", trainer)

    def _show_answers(self, answers: Tensor, split: str, trainer: Trainer) -> None:
        counts = answers.cpu().numpy()
        names = trainer.datamodule.classes  # type: ignore[attr-defined]
        self._show("confusion", draw_confusion(counts, names, f"Confusion on {split} images"), trainer)
        for name, right, total in zip(names, counts.diagonal(), counts.sum(axis=1), strict=True):
            accuracy = right / max(total, 1)
            tag = f"class_accuracy/{name.replace('/', '_')}"  # a slash would make a group of its own
            self.events.experiment.add_scalar(tag, accuracy, trainer.global_step)
        tiles = [
            Tile(_to_pixels(trainer, image), f"{names[label]} as {names[guess]}, {score:.0%}", ORANGE)
            for score, image, label, guess in self.mistakes.read()
        ]
        heading = f"Worst mistakes on {split} images\nlabel, prediction, probability"
        heading = heading if tiles else f"No mistake on {split} images"
        self._show("mistakes", draw_sheet(tiles, 4, 76, heading, text_size=12), trainer)

    def _add_histograms(self, kind: str, named: Iterable[tuple[str, Tensor]], trainer: Trainer) -> None:
        for name, values in named:
            numbers = values.detach().float().cpu().numpy()
            if np.isfinite(numbers).all():
                step = trainer.global_step
                self.events.experiment.add_histogram(f"{kind}/{name}", numbers, step, bins=BINS)


def _find_samples(trainer: Trainer, classifier: ImageClassifier) -> tuple[Tensor, Tensor]:
    """An image of each class that is in the first batch of the watched split, or of the test images.

    Returns:
        (classes, channels, height, width), normalised, and their labels.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]
    loader = data.val_dataloader() or data.test_dataloader()
    images, labels = next(iter(loader))
    first = {int(label): index for index, label in reversed(list(enumerate(labels)))}
    chosen = [first[label] for label in sorted(first)]
    batch = [images[chosen].to(classifier.device), labels[chosen].to(classifier.device)]
    return data.on_after_batch_transfer(batch, 0)


def _to_pixels(trainer: Trainer, image: Tensor) -> np.ndarray:
    """A normalised image (channels, height, width) as bytes (height, width) or (height, width, 3)."""
    pixels = _to_gray_or_rgb(trainer.datamodule.restore(image)[None])[0]  # type: ignore[attr-defined]
    return pixels.permute(1, 2, 0).squeeze(2).cpu().numpy()


def _to_gray_or_rgb(images: Tensor) -> Tensor:
    """Bytes (n, channels, height, width) with 1 or 3 channels: of another number, the mean."""
    return images if images.shape[1] in (1, 3) else images.float().mean(dim=1, keepdim=True).byte()


def _read_kernels(net: nn.Module) -> np.ndarray:
    """The first convolution's kernels, empty for a network without.

    Of three channels (out, 3, height, width), else their mean (out, height, width).
    """
    first = next((layer for layer in net.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None:
        return np.empty(0)
    kernels = first.weight.detach().float().cpu()
    return (kernels.clone() if kernels.shape[1] == 3 else kernels.mean(dim=1)).numpy()
