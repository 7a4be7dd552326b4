"""A trained network, from its run directory or checkpoint alone: bytes of images in, probabilities out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnn_lab.classifier import ImageClassifier
from cnn_lab.errors import ConfigError, printable
from cnn_lab.model import CNN
from cnn_lab.runs.checkpoints import describe_version, first_line, load_checkpoint
from cnn_lab.runs.trust import choose_root
from cnn_lab.terminal.logs import claim_lightning_logs
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

    def load_data(self, allow_sample: bool = False) -> Any:
        """The data module with its images in memory; nothing is written to where the config points.

        MNIST is read from the run's `data.root` if it is all there, else from the project's own data folder,
        which is also where it is downloaded to.

        Args:
            allow_sample: whether the embedded sample may stand in for MNIST where it cannot be had;
                `data.sample_reason` then says why.

        Raises:
            DataError: when the images cannot be had, or are damaged.
        """
        data = self.data
        data.root, data.leaves_traces = choose_root(getattr(data, "root", None)), False
        data.num_workers, data.allow_sample = 0, allow_sample
        data.prepare_data()
        data.setup("test")
        return data

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
    config, weights = checkpoint["config"], checkpoint["state_dict"]
    for device in ("meta", "cpu"):  # on the first a network that the file does not fill costs nothing
        try:
            with torch.device(device):
                data, classifier = build(config)
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
            misfit = f"the network has no {printable(name)[:80]}"
        elif found[name].shape != expected[name].shape:
            misfit = f"{name} is {tuple(found[name].shape)}, and the network's {tuple(expected[name].shape)}"
        if misfit:
            raise ConfigError(f"{path}{describe_version(path)} does not fit its own config: {misfit}")
