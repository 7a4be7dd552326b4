"""A run's checkpoints: when best.ckpt and last.ckpt are written, how, and how they are read."""

import os
import pickle
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from cnn_lab import __version__
from cnn_lab.errors import CnnLabError, ConfigError, RunInterrupted, first_line, printable
from cnn_lab.files import replacing
from cnn_lab.runs.record import BEST_CHECKPOINT, LAST_CHECKPOINT, read_result
from cnn_lab.runs.recorder import Recorder
from cnn_lab.runs.stopping import StopRequest
from cnn_lab.runs.trust import OF_TRAINING, check_trusted
from cnn_lab.settings.config import check_config

ASKED_EVERY = 10  # batches, after which the processes of a run ask each other whether to stop


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints that are there whole, after a power cut too."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Replace the file at `path`; the old one survives until then, and if that fails."""
        path = Path(path)
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as aside, aside.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())


class Checkpoints(Checkpoint):
    """Writes last.ckpt after each epoch, every few minutes and when the run is to stop; best.ckpt when it is.

    Inside an epoch it is written after a step of the optimizer, so that a run goes on with the next batch.

    Args:
        minutes: between checkpoints inside an epoch.
    """

    def __init__(self, recorder: Recorder, stop: StopRequest, minutes: float) -> None:
        self.recorder = recorder
        self.stop = stop
        self.minutes = minutes
        self._last_time = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """From now on a signal waits for the end of the step."""
        for stopping in trainer.early_stopping_callbacks:  # it stays so until `min_epochs` are done
            trainer.should_stop |= bool(stopping.stopping_reason_message)  # type: ignore[attr-defined]
        self.stop.listen()
        self.stop.is_awaited = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write last.ckpt if it is due, and end the run if that was asked for.

        Raises:
            RunInterrupted: after the checkpoint, for a signal.
        """
        done = batch_idx + 1
        ends = done == trainer.num_training_batches or trainer.global_step == trainer.max_steps
        if ends or done % trainer.accumulate_grad_batches:
            return  # gradients are not kept in a checkpoint, nor what is between a step and its epoch's end
        if trainer.world_size > 1 and done % ASKED_EVERY:
            return
        is_late = time.monotonic() - self._last_time > 60 * self.minutes
        signal, is_late = self._agree(trainer, self.stop.signal, is_late)
        if signal or is_late:
            self._save_last(trainer, signal)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write what the epoch has given."""
        if self.recorder.is_best:
            trainer.save_checkpoint(self.recorder.run.path / BEST_CHECKPOINT)
        self._save_last(trainer, *self._agree(trainer, self.stop.signal))

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """From now on a signal ends the run at once."""
        self.stop.is_awaited = False

    def _agree(self, trainer: Trainer, *wishes: int) -> list[int]:
        """The largest of what each process wishes for: what one is told to do, all do."""
        if trainer.world_size == 1:
            return list(wishes)
        told = torch.tensor(wishes, device=trainer.strategy.root_device)
        return trainer.strategy.reduce(told, reduce_op="max").tolist()

    def _save_last(self, trainer: Trainer, signal: int) -> None:
        if not all(torch.isfinite(values).all() for values in trainer.model.parameters()):  # type: ignore[union-attr]
            raise CnnLabError(self.recorder.describe_divergence(trainer, "a weight is not finite"))
        trainer.save_checkpoint(self.recorder.run.path / LAST_CHECKPOINT)
        self._last_time = time.monotonic()
        self.recorder.run.result.pop("ended_by", None)  # of a run that is trained for longer
        self.recorder.run.update(checkpoint_step=trainer.global_step)
        if signal:
            raise RunInterrupted(signal)


def load_checkpoint(path: Path, trust: bool = False) -> dict[str, Any]:
    """A checkpoint as plain data and tensors, its config checked; nothing in the file is executed.

    The config is without what only training builds. `trust` is that of `check_trusted`.

    Raises:
        ConfigError: when it is no checkpoint of this project, or its config is refused.
    """
    try:
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files of other kinds, which are refused
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        _check_content(checkpoint)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"{path} is not a checkpoint of this project: it contains more than data"
        ) from error
    except Exception as error:  # damaged and hostile files make their readers raise anything
        reason = f": {error}" if isinstance(error, ConfigError) else ""
        raise ConfigError(f"{path} is not a checkpoint of this project{reason}") from error
    config = {**checkpoint["config"], **OF_TRAINING}
    check_trusted(config, trust, path)
    try:
        checkpoint["config"] = check_config(config)
    except Exception as error:  # a value of a type that nobody would type
        raise ConfigError(f"{path}{describe_version(path)}: {first_line(error)}") from error
    return checkpoint


def _check_archive(path: Path) -> None:
    """Refuse what could wait for ever or become larger than it is, before it is read."""
    if not path.is_file():
        raise ConfigError("it is not a file")
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(item.file_size for item in archive.infolist())
    if unpacked > path.stat().st_size:
        raise ConfigError(f"it would unpack to {unpacked:,} bytes")


def _check_content(checkpoint: Any) -> None:
    """Refuse what is not laid out as a checkpoint, and tensors that claim more than the file holds."""
    for name, kind in (("config", dict), ("state_dict", dict), ("epoch", int), ("global_step", int)):
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(name), kind):
            raise ConfigError(f"it has no {name}")
    for name, value in checkpoint["state_dict"].items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.is_complex():
            raise ConfigError(f"{printable(str(name))[:80]} in its state_dict is not a weight")
    seen: set[int] = set()
    waiting: list[Any] = [checkpoint]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            if item.device.type != "cpu" or item.nbytes > item.untyped_storage().nbytes():
                raise ConfigError("it claims larger tensors than it contains")
        elif isinstance(item, dict | list | tuple | set) and id(item) not in seen:
            seen.add(id(item))
            waiting += item.values() if isinstance(item, dict) else item


def describe_version(path: Path) -> str:
    """A remark for a checkpoint whose run is known to be of another version."""
    written = read_result(path.absolute().parent.parent).get("versions", {}).get("cnn_lab", __version__)
    return "" if written == __version__ else f" (of cnn_lab {written[:20]}, and this is {__version__})"
