"""Learning-rate schedules, each for any optimizer, in the form that Lightning takes.

Every function gets the optimizer, whose lr is the schedule's highest, and the number of optimizer steps of
the whole run, and returns Lightning's `lr_scheduler` settings, or None for a lr that stays.
"""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau, StepLR

from cnn_lab.errors import ConfigError


def constant(optimizer: Optimizer, total_steps: float) -> None:
    """The optimizer's lr throughout."""


def cosine(optimizer: Optimizer, total_steps: float, min_lr: float = 0.0) -> dict[str, Any]:
    """Half a cosine from lr down to `min_lr`, step by step (Loshchilov & Hutter 2017, without restarts)."""
    schedule = CosineAnnealingLR(optimizer, T_max=_whole(total_steps, "cosine"), eta_min=min_lr)
    return {"scheduler": schedule, "interval": "step"}


def one_cycle(optimizer: Optimizer, total_steps: float, warmup: float = 0.3) -> dict[str, Any]:
    """Up from lr / 25 to lr in the share `warmup` of all steps, then down to almost 0 (Smith & Topin 2018).

    Momentum stays as it is, so that every optimizer can be used.
    """
    peaks = [group["lr"] for group in optimizer.param_groups]
    steps = _whole(total_steps, "one_cycle")
    if warmup * steps == 1:  # OneCycleLR would divide by the 0 steps between the first and the highest lr
        warmup *= 1 - 1e-6
    schedule = OneCycleLR(optimizer, peaks, total_steps=steps, pct_start=warmup, cycle_momentum=False)
    return {"scheduler": schedule, "interval": "step"}


def step(optimizer: Optimizer, total_steps: float, step_size: int, gamma: float = 0.1) -> dict[str, Any]:
    """The lr times `gamma` after every `step_size` epochs."""
    return {"scheduler": StepLR(optimizer, step_size, gamma), "interval": "epoch"}


def plateau(
    optimizer: Optimizer,
    total_steps: float,
    monitor: str = "val/loss",
    factor: float = 0.1,
    patience: int = 2,
    min_lr: float = 0.0,
    mode: str = "min",
) -> dict[str, Any]:
    """The lr times `factor` when `monitor` got no better for over `patience` epochs.

    Args:
        mode: "max" or "min", whichever is better of `monitor`; the run knows it.
    """
    schedule = ReduceLROnPlateau(optimizer, mode, factor, patience, min_lr=min_lr)
    return {"scheduler": schedule, "interval": "epoch", "monitor": monitor}


def _whole(total_steps: float, name: str) -> int:
    if total_steps == float("inf"):
        raise ConfigError(
            f"scheduler={name} needs the length of the run: set trainer.max_epochs or trainer.max_steps"
        )
    return int(total_steps)
