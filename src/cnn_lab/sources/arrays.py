"""One's own images in one file of NumPy arrays."""

import functools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from cnn_lab.errors import ConfigError, DataError
from cnn_lab.sources.download import find_place

KEYS = ("x_train", "y_train", "x_test", "y_test")


@functools.lru_cache(maxsize=1)
def read_arrays(root: str | Path) -> dict[str, Any]:
    """Images and labels of training and test, as Keras names them in its files.

    Args:
        root: an .npz file with `KEYS`; `cnn_lab.datasets.read_source` says of which shapes and types.

    Raises:
        ConfigError: for what is no such file.
        DataError: for one that lacks an array.
    """
    path = find_place(root)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            if missing := [key for key in KEYS if key not in found]:
                there_are = ", ".join(found) or "none"
                raise DataError(f"{path} has no {', '.join(missing)} (there are {there_are})")
            arrays = {key: found[key] for key in KEYS}
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ConfigError(f"data.root={root} is no file of numbers as numpy.savez writes one") from error
    return {part: (arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test")}
