"""A trained network, from its run directory or checkpoint alone: bytes of images in, probabilities out."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnn_lab.classifier import ImageClassifier
from cnn_lab.config import check_config, check_trusted
from cnn_lab.errors import ConfigError
from cnn_lab.logs import claim_lightning_logs
from cnn_lab.model import CNN
from cnn_lab.trainer import tune_cpu
from cnn_lab.training import build

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
    def net(self) -> torch.nn.Module:
        """The plain network."""
        return self.classifier.net

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the logits."""
        return [str(index) for index in range(self.data.num_classes)]

    def normalise(self, images: np.ndarray) -> Tensor:
        """Bytes (n, 28, 28) to what the network takes (n, 1, 28, 28)."""
        return self.data.normalise(torch.tensor(images).unsqueeze(1))

    @torch.inference_mode()
    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities (n, classes), float32, of images (n, 28, 28), uint8, light on dark as MNIST's."""
        batches = np.split(images, range(BATCH, len(images), BATCH))
        return np.concatenate([self.net(self.normalise(batch)).softmax(dim=1).numpy() for batch in batches])

    def require_cnn(self, purpose: str) -> CNN:
        """The network, if it has convolutional blocks.

        Raises:
            ConfigError: for another network, naming it and the `purpose` that needs blocks.
        """
        if isinstance(self.net, CNN):
            return self.net
        raise ConfigError(
            f"{purpose} needs a network with convolutional blocks (cnn_lab.model.CNN), and {self.path} is a "
            f"{self.config['model']['_target_']}; give a run of model=cnn or model=lenet"
        )


def load_trained(path: Path) -> Trained:
    """Build a checkpoint's network with its weights.

    Raises:
        ConfigError: when the file is no checkpoint of this project, its config is refused, or its weights do
            not fit the network that its config describes.
    """
    claim_lightning_logs()
    tune_cpu()
    checkpoint = load_checkpoint(path)
    config = check_config(checkpoint["config"])
    data, classifier = build(config)
    try:
        classifier.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise ConfigError(f"{path} does not fit its own config: {error}") from error
    return Trained(path, config, data, classifier.eval(), checkpoint["epoch"] + 1)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint as plain data and tensors; nothing in the file is executed.

    Raises:
        ConfigError: when it is no checkpoint of this project, or its config names a target that it may not.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        config = checkpoint["config"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise ConfigError(f"{path} is not a checkpoint of this project") from error
    check_trusted(config)
    return checkpoint
