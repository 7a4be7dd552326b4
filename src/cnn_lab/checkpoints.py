"""When a run's checkpoints are written, and how: best.ckpt and last.ckpt, each always whole."""

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint

from cnn_lab.errors import CnnLabError, RunInterrupted
from cnn_lab.recorder import Recorder

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Turns the first SIGINT or SIGTERM into a request while training steps, and into an end elsewhere.

    A second one ends the run at once, as does the first where nothing looks for the request.

    Attributes:
        signal: the number of the signal that came; 0 for none.
        is_awaited: whether steps are taken, after each of which the request is looked for.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.is_awaited = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.getsignal(number) for number in SIGNALS}
            self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Take the signals over, from Lightning too, which else ends the run where it has no checkpoint."""
        for number, handler in self._handlers.items():
            if handler != signal.SIG_IGN:  # as in a job that a shell has put into the background
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        is_first, self.signal = not self.signal, number
        if not (is_first and self.is_awaited):
            raise RunInterrupted(number)


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint aside and renames it, so that what is there was written to its end."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Replace the file at `path`; the old one survives until then, and if that fails."""
        path = Path(path)
        path.parent.mkdir(exist_ok=True)
        aside = path.with_name(f".{path.name}.new")
        try:
            with aside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


class Checkpoints(Checkpoint):
    """Writes last.ckpt after each epoch, every few minutes and when the run is to stop; best.ckpt when it is.

    Inside an epoch it is written after a step of the optimizer, so that a run goes on with the next batch.

    Args:
        minutes: between checkpoints inside an epoch.
        validated: whether the best is known by its validation accuracy; else it is the latest.
    """

    def __init__(
        self, folder: Path, recorder: Recorder, stop: StopRequest, minutes: float, validated: bool
    ) -> None:
        self.folder = folder
        self.recorder = recorder
        self.stop = stop
        self.minutes = minutes
        self.validated = validated
        self._last_time = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """From now on a signal waits for the end of the step."""
        for stopping in trainer.early_stopping_callbacks:  # a run that was killed when it had just ended
            trainer.should_stop |= stopping.wait_count >= stopping.patience  # type: ignore[attr-defined]
        self.stop.listen()
        self.stop.is_awaited = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write last.ckpt if it is due, and end the run if that was asked for.

        Raises:
            RunInterrupted: after the checkpoint, for a signal.
        """
        due = bool(self.stop.signal) or time.monotonic() - self._last_time > 60 * self.minutes
        if trainer.world_size > 1:
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        done = batch_idx + 1
        if not due or done % trainer.accumulate_grad_batches or done % trainer.val_check_batch == 0:
            return  # gradients are not kept in a checkpoint, nor what is between a step and its validation
        self._save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write what the epoch has given."""
        if self.recorder.is_best or not self.validated:
            trainer.save_checkpoint(self.folder / "best.ckpt")
        self._save_last(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """From now on a signal ends the run at once."""
        self.stop.is_awaited = False

    def _save_last(self, trainer: Trainer) -> None:
        if not all(torch.isfinite(values).all() for values in trainer.model.parameters()):  # type: ignore[union-attr]
            raise CnnLabError(self.recorder.describe_divergence(trainer, "a weight is not finite"))
        trainer.save_checkpoint(self.folder / "last.ckpt")
        self._last_time = time.monotonic()
        if self.stop.signal:
            raise RunInterrupted(self.stop.signal)
