"""A trained network, from its run directory or checkpoint alone: bytes of images in, probabilities out."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnn_lab.assembly import assemble
from cnn_lab.classifier import ImageClassifier, make_class_logits
from cnn_lab.errors import ConfigError, DataError, first_line, printable
from cnn_lab.model import CNN
from cnn_lab.runs.checkpoints import describe_version, load_checkpoint
from cnn_lab.settings.places import DATA
from cnn_lab.sources.download import DOWNLOADED, refuse_downloads
from cnn_lab.terminal.logs import claim_lightning_logs
from cnn_lab.trainer import tune_cpu

BATCH = 1_000  # images at a time, which bounds the memory


@dataclass
class Trained:
    """A network with all that its use needs.

    Attributes:
        path: of the checkpoint.
        config: the run's, checked.
        data: the run's data module, not set up: it normalises, and names the classes.
        classifier: with the trained weights, in evaluation mode, on the CPU.
        epoch: the number of the checkpoint's epoch, from 1.
    """

    path: Path
    config: dict[str, Any]
    data: Any
    classifier: ImageClassifier
    epoch: int

    @property
    def net(self) -> nn.Module:
        """The plain network."""
        return self.classifier.net

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the logits."""
        return self.data.classes

    @property
    def max_value(self) -> float | None:
        """What is white in pictures of more than 8 bits, if the network was trained on such."""
        return self.config["data"].get("max_value")

    def normalise(self, images: np.ndarray) -> Tensor:
        """Bytes (n, channels, height, width) to what the network takes, of the same shape."""
        return self.data.normalise(torch.tensor(images))

    def load_data(self, download: bool = True) -> Any:
        """The data module with its images in memory; nothing is written to where the config points.

        They are read from the run's `data.root`; those that can be downloaded, and are not all there, from
        this project's data folder, which is also where they are downloaded to, unless that is not wished.

        Raises:
            DataError: when the images cannot be had, or are damaged.
        """
        data, own = self.data, str(DATA)
        data.num_workers = 0
        if data.root not in (None, own) and self.config["data"]["source"]["_target_"] in DOWNLOADED:
            with contextlib.suppress(DataError), refuse_downloads():
                data.setup("test")
                return data
            data.root = own
        with contextlib.nullcontext() if download else refuse_downloads():
            data.prepare_data()
        data.setup("test")
        return data

    def read_test_images(self) -> tuple[np.ndarray, np.ndarray]:
        """The test images of the run's data (n, channels, height, width), uint8, and their labels (n,).

        Raises:
            DataError: when they cannot be had, or are damaged.
        """
        images, labels = zip(*self.load_data().test_dataloader(), strict=True)
        return torch.cat(images).numpy(), torch.cat(labels).numpy()

    @torch.inference_mode()
    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities (n, classes), float32, of images (n, channels, height, width), uint8."""
        batches = np.split(images, range(BATCH, len(images), BATCH))
        logits = (make_class_logits(self.net(self.normalise(batch))) for batch in batches)
        return np.concatenate([values.softmax(dim=1).numpy() for values in logits])

    def require_gray(self, purpose: str) -> int:
        """The side in pixels of the data's images, if they are gray squares.

        Raises:
            ConfigError: for others, naming them and the `purpose` that needs such images.
        """
        channels, height, width = self.data.input_shape
        if channels == 1 and height == width:
            return height
        raise ConfigError(
            f"{purpose} needs square gray images, but those of {self.data.name} have {channels} channels of "
            f"{height} x {width} pixels; give a run on other data"
        )

    def require_pictures(self, purpose: str) -> None:
        """Reject a network that takes something else than a picture can become.

        Raises:
            ConfigError: naming its images and the `purpose` that needs others.
        """
        if self.data.ink:
            self.require_gray(purpose)
        elif self.data.input_shape[0] not in (1, 3):
            raise ConfigError(
                f"{purpose} reads pictures with 1 channel (gray) or 3 (colour), and the images of "
                f"{self.data.name} have {self.data.input_shape[0]}; give a run on other data"
            )

    def require_cnn(self, purpose: str) -> CNN:
        """The network, if it has convolutional blocks whose maps are flattened, of images as they are given.

        Raises:
            ConfigError: for another network, naming it and the `purpose` that needs such blocks.
        """
        if self.data.shuffle_pixels:
            raise ConfigError(
                f"{purpose} needs images in their usual order; give a run without data.shuffle_pixels=true"
            )
        if isinstance(self.net, CNN) and len(self.net.blocks) and isinstance(self.net.head[0], nn.Flatten):
            return self.net
        raise ConfigError(
            f"{purpose} needs a network with convolutional blocks whose maps are flattened, such as those of "
            f"model=cnn and model=lenet; {self.path} has another: {self.config['model']['_target_']}"
        )


def load_trained(path: Path, trust: bool = False) -> Trained:
    """Build a checkpoint's network with its weights; `trust` is that of `check_trusted`.

    Raises:
        ConfigError: when the file is no checkpoint of this project, its config is refused, or its weights do
            not fit the network that its config describes.
    """
    claim_lightning_logs()
    tune_cpu()
    checkpoint = load_checkpoint(path, trust)
    config, weights = checkpoint["config"], checkpoint["state_dict"]
    for device in ("meta", "cpu"):  # on the first a network that the file does not fill costs nothing
        try:
            with torch.device(device):
                data, classifier = assemble(config)
        except Exception as error:  # what classes raise that were not made for what a stranger gives them
            if device == "meta":
                continue  # as for a network that computes while it is made
            raise ConfigError(f"{path} cannot be built: {first_line(error)}") from error
        _check_fit(path, classifier.state_dict(), weights)
    classifier.load_state_dict(weights)
    return Trained(path, config, data, classifier.eval(), checkpoint["epoch"] + 1)


def _check_fit(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    misfit = ""
    for name in (*expected, *found):
        if name not in found:
            misfit = f"{name} is missing"
        elif name not in expected:
            misfit = f"the network does not have {printable(name)[:80]}"
        elif found[name].shape != expected[name].shape:
            misfit = f"{name} is {tuple(found[name].shape)}, and the network's {tuple(expected[name].shape)}"
        if misfit:
            raise ConfigError(f"{path}{describe_version(path)} does not fit its own config: {misfit}")
