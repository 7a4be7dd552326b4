"""One's own images in one file of NumPy arrays."""

import functools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from cnn_lab.errors import ConfigError, DataError
from cnn_lab.sources.download import find_place

KEYS = ("x_train", "y_train", "x_test", "y_test")
VAL_KEYS = ("x_val", "y_val")  # which may be missing


@functools.lru_cache(maxsize=1)
def read_arrays(root: str | Path) -> dict[str, Any]:
    """Images and labels of training and test, and perhaps validation, as Keras names them in its files.

    Args:
        root: an .npz file with `KEYS`, and perhaps `VAL_KEYS` and `class_names`;
            `cnn_lab.datasets.read_source` says of which shapes and types.

    Raises:
        ConfigError: for what is no such file.
        DataError: for one that lacks an array.
    """
    path = find_place(root)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            needed = KEYS if not {*VAL_KEYS} & {*found} else (*KEYS, *VAL_KEYS)
            if missing := [key for key in needed if key not in found]:
                there_are = ", ".join(found) or "none"
                raise DataError(f"{path} has no {', '.join(missing)} (there are {there_are})")
            parts = [key.removeprefix("x_") for key in needed if key.startswith("x_")]
            read: dict[str, Any] = {part: (found[f"x_{part}"], found[f"y_{part}"]) for part in parts}
            if "class_names" in found:
                read["class_names"] = found["class_names"].ravel().astype(str).tolist()
            return read
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ConfigError(f"data.root={root} is not a file of arrays written by numpy.savez") from error
