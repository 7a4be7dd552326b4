"""What a setting means to its run: one table for fingerprints, reports, resumed runs and sweeps."""

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cnn_lab.settings.config import flatten

# Every other setting is part of what a run is. A group's name stands for all that is below it.
MEANINGS = {
    "place": ("label", "output_dir", "resume", "trust", "sweep", "data.root"),
    "hardware": (
        "trainer.accelerator", "trainer.devices", "trainer.strategy", "data.num_workers",
    ),
    "showing": ("checkpoint_minutes", "pictures", "logger", "trainer.log_every_n_steps", "trainer.profiler"),
    "length": ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time"),
    "repetition": ("seed", "data.fold"),
}  # fmt: skip


@functools.cache
def meaning_of(key: str) -> str:
    """What the setting with this dotted key means: a name in `MEANINGS`, or "identity".

    Place, hardware and what is shown change no result (but for the order of sums). A longer run goes on from
    where a shorter one ends. Repetitions are compared with other settings together.
    """
    for meaning, names in MEANINGS.items():
        if any(key == name or key.startswith(f"{name}.") for name in names):
            return meaning
    return "identity"


def fingerprint(config: Mapping[str, Any]) -> str:
    """The same for two checked configs exactly if they set up the same run, wherever and on what it runs."""
    settings = {
        key: value
        for key, value in flatten(config).items()
        if meaning_of(key) in ("identity", "length", "repetition")
    }
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
