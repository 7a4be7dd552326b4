"""Which numbers each setting may take: one table for the configs and for the classes they configure."""

import math
from collections.abc import Mapping
from typing import Any

from cnn_lab.errors import ConfigError

# In the usual interval notation: [ and ] include the end, ( and ) leave it out.
RANGES: dict[str, dict[str, str]] = {
    "": {
        "seed": "[0, 4294967295]",
        "label_smoothing": "[0, 1)",
        "checkpoint_minutes": "(0, inf)",
    },
    "early_stopping": {
        "patience": "[1, inf)",
        "min_delta": "[0, inf)",
    },
    "pictures": {
        "every_n_epochs": "[1, inf)",
        "mistakes": "[0, 100]",
        "embedding": "[0, 10000]",
    },
    "sweep": {
        "jobs_per_gpu": "[1, inf)",
    },
    "data": {
        "batch_size": "[1, 1000000]",
        "eval_batch_size": "[1, 1000000]",
        "num_workers": "[0, 64]",
        "split_seed": "[0, inf)",
        "mean": "(-inf, inf)",
        "std": "(0, inf)",
    },
    "model": {
        "channels": "[1, inf)",
        "kernel_sizes": "[1, inf)",
        "strides": "[1, inf)",
        "paddings": "[0, inf)",
        "hidden": "[1, inf)",
        "dropout": "[0, 1)",
    },
    "optimizer": {
        "lr": "(0, inf)",
        "weight_decay": "[0, inf)",
        "momentum": "[0, 1)",
        "dampening": "[0, 1]",
        "alpha": "[0, 1)",
        "betas": "[0, 1)",
        "eps": "[0, inf)",
    },
    "scheduler": {
        "min_lr": "[0, inf)",
        "step_size": "[1, inf)",
        "gamma": "(0, 1]",
        "factor": "(0, 1)",
        "patience": "[0, inf)",
        "warmup": "(0, 1)",
    },
    "trainer": {
        "devices": "[-1, inf)",
        "num_nodes": "[1, inf)",
        "max_epochs": "[-1, inf)",
        "max_steps": "[-1, inf)",
        "min_epochs": "[1, inf)",
        "min_steps": "[1, inf)",
        "log_every_n_steps": "[1, inf)",
        "accumulate_grad_batches": "[1, inf)",
        "gradient_clip_val": "[0, inf)",
        "check_val_every_n_epoch": "[1, inf)",
        "val_check_interval": "(0, inf)",
        "limit_train_batches": "(0, inf)",
        "limit_val_batches": "[0, inf)",
        "limit_test_batches": "[0, inf)",
        "overfit_batches": "[0, inf)",
    },
}

LARGEST_INT = 10**18  # what libraries compute with fits into 64 bits


def check_range(key: str, value: Any, interval: str) -> None:
    """Refuse a number, or a list with a number, that lies outside `interval`, such as "[0, 1)".

    Raises:
        ConfigError: naming `key`, the value and the interval in words.
    """
    if isinstance(value, list | tuple):
        for item in value:
            check_range(key, item, interval)
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if isinstance(value, int) and abs(value) > LARGEST_INT:
        raise ConfigError(f"{key}={value:.100g} is out of range: it must have at most 18 digits")
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    if above and below:
        return
    words = f"at least {low:g}" if interval[0] == "[" else f"above {low:g}"
    if (low, high) == (-math.inf, math.inf):
        words = "a finite number"
    elif high != math.inf:
        words += f" and {'at most' if interval[-1] == ']' else 'below'} {high:.10g}"
    raise ConfigError(f"{key}={value} is out of range: it must be {words}")


def check_ranges(group: str, values: Mapping[str, Any]) -> None:
    """Check every value of a config group (`""`: the top level) that `RANGES` has a range for."""
    for name, interval in RANGES[group].items():
        if name in values:
            check_range(f"{group}.{name}" if group else name, values[name], interval)
