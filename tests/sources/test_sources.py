"""The data sets that cannot be had here, from small files in their true formats."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_datasets import hash_bytes, pack_idx

from cnn_lab.errors import ConfigError, DataError
from cnn_lab.settings.config import check_config
from cnn_lab.sources import cifar, download, idx
from cnn_lab.sources.cifar import ArrayUnpickler, read_cifar10
from cnn_lab.sources.idx import read_emnist
from cnn_lab.training import train
from conftest import compose_config, read_result

GENERATOR = np.random.default_rng(0)
KINDS = ("train-images-idx3", "train-labels-idx1", "test-images-idx3", "test-labels-idx1")
EMNIST = {"balanced": (47, 0), "letters": (26, 1), "digits": (10, 0)}  # classes, and the first label
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def make_arrays(classes: int, first: int = 0) -> list[np.ndarray]:
    """Images and labels of training and test, as EMNIST's files have them."""
    labels = [np.arange(classes * times, dtype=np.uint8) % classes + first for times in (2, 1)]
    images = [GENERATOR.integers(256, size=(len(own), 28, 28), dtype=np.uint8) for own in labels]
    return [images[0], labels[0], images[1], labels[1]]


def write_emnist(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[np.ndarray]]:
    """The zip of all splits."""
    raw = root / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    arrays = {split: make_arrays(*facts) for split, facts in EMNIST.items()}
    with zipfile.ZipFile(raw / "gzip.zip", "w") as archive:
        for split, own in arrays.items():
            for kind, values in zip(KINDS, own, strict=True):
                archive.writestr(f"gzip/emnist-{split}-{kind}-ubyte.gz", gzip.compress(pack_idx(values)))
    monkeypatch.setattr(idx, "EMNIST_ZIP", ("gzip.zip", hash_bytes((raw / "gzip.zip").read_bytes())))
    return arrays


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its texts, as CIFAR-10's files have them."""

    dispatch = pickle._Pickler.dispatch | {
        bytes: lambda self, text: self.write(pickle.BINSTRING + struct.pack("<i", len(text)) + text)
    }


def dump(batch: Any) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, 2).dump(batch)
    return file.getvalue().replace(b"numpy._core.", b"numpy.core.")


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, dict]:
    """CIFAR-10's archive with ten images a batch, in the order in which the real one has its files."""
    names = ["data_batch_4", "test_batch", "data_batch_3", "data_batch_2", "data_batch_5", "data_batch_1"]
    batches = {
        name: {
            b"batch_label": b"a batch",
            b"labels": GENERATOR.permutation(10).tolist(),
            b"data": GENERATOR.integers(256, size=(10, 3072), dtype=np.uint8),
        }
        for name in names
    }
    path = root / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, batch in {"batches.meta": {b"label_names": [b"cat"]}, **batches, **changes}.items():
            content = dump(batch)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(cifar, "CIFAR10_TAR", (path.name, hash_bytes(path.read_bytes())))
    return batches


@pytest.mark.parametrize("split", EMNIST)
def test_emnist_is_upright_and_counts_from_0(
    split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = write_emnist(tmp_path, monkeypatch)[split]
    raw = tmp_path / "EMNIST" / "raw"
    splits = read_emnist(tmp_path, split)
    assert [path.name for path in raw.iterdir()] == ["gzip.zip"]  # nothing is unpacked
    for images, labels, found in zip(arrays[::2], arrays[1::2], splits.values(), strict=True):
        assert np.array_equal(found.images[:, 0], images.transpose(0, 2, 1))
        assert found.labels.tolist() == (labels - EMNIST[split][1]).tolist()
    for kind, values in zip(KINDS, arrays, strict=True):  # torchvision leaves the files, plain, and no zip
        (raw / f"emnist-{split}-{kind}-ubyte").write_bytes(pack_idx(values))
    (raw / "gzip.zip").unlink()
    read_emnist.cache_clear()
    again = read_emnist(tmp_path, split)
    assert all(np.array_equal(again[part].images, splits[part].images) for part in splits)


def test_a_split_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_emnist(tmp_path, "letter")
    assert str(caught.value) == ("data.source.split=letter is not an option. Did you mean 'letters'?")


def test_cifar10_is_read_in_the_order_of_its_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = write_cifar10(tmp_path, monkeypatch)
    train_split, test_split = read_cifar10(tmp_path).values()
    assert (train_split.images.shape, test_split.images.shape) == ((50, 3, 32, 32), (10, 3, 32, 32))
    for number in range(5):
        batch, own = batches[f"data_batch_{number + 1}"], slice(10 * number, 10 * number + 10)
        assert np.array_equal(train_split.images[own].reshape(10, -1), batch[b"data"])
        assert train_split.labels[own].tolist() == batch[b"labels"]
    assert test_split.labels.tolist() == batches["test_batch"][b"labels"]


class Attack:
    def __reduce__(self) -> tuple:
        return os.mkdir, (f"{os.environ['ATTACKED']}/attacked",)


def test_a_pickle_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTACKED", str(tmp_path))
    with pytest.raises(pickle.UnpicklingError, match=r"^posix\.mkdir is not an array$"):
        ArrayUnpickler(io.BytesIO(dump(Attack()))).load()
    write_cifar10(tmp_path, monkeypatch, data_batch_1=Attack())
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz is damaged: posix\.mkdir is not an array"):
        read_cifar10(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-python.tar.gz"]


@pytest.mark.parametrize("name", ["cifar10", "emnist"])
def test_an_archive_with_another_checksum_is_not_opened(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "cifar10":
        write_cifar10(tmp_path, monkeypatch)
        path, read = tmp_path / "cifar-10-python.tar.gz", read_cifar10
    else:
        write_emnist(tmp_path, monkeypatch)
        path, read = tmp_path / "EMNIST" / "raw" / "gzip.zip", lambda root: read_emnist(root, "digits")
    right = hash_bytes(path.read_bytes())
    path.write_bytes(path.read_bytes() + b"more")
    for opener in (tarfile, "open"), (zipfile, "ZipFile"):
        monkeypatch.setattr(*opener, None)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert str(caught.value) == (
        f"{path} is damaged: its MD5 is {hash_bytes(path.read_bytes())} instead of {right}. "
        f"Delete it and run again, and it will be downloaded again: rm '{path}'"
    )


@pytest.mark.parametrize(
    ("option", "folder", "files"),
    [
        ("cifar10", ".", ["cifar-10-python.tar.gz (MD5 c58f30108f718f92721af3b95e74349a)"]),
        ("emnist_letters", "EMNIST/raw", ["gzip.zip (MD5 58c8d27c78d21e728a6bc7b3cc06412e)"]),
        (
            "kmnist",
            "KMNIST/raw",
            [
                "train-images-idx3-ubyte.gz (MD5 bdb82020997e1d708af4cf47b453dcf7)",
                "train-labels-idx1-ubyte.gz (MD5 e144d726b3acfaa3e44228e80efcd344)",
                "t10k-images-idx3-ubyte.gz (MD5 5c965bf0a639b31b8f53240b1b52f4d7)",
                "t10k-labels-idx1-ubyte.gz (MD5 7320c461ea6c1c855c0b718fb2a4b134)",
            ],
        ),
    ],
)
def test_without_network_the_message_says_which_files_to_put_where(
    option: str, folder: str, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "DOWNLOAD_PAUSES", ())
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    config = check_config(
        compose_config(f"data={option}", f"data.root={tmp_path}", "trainer.accelerator=cpu")
    )
    (tmp_path / "run").mkdir()
    with pytest.raises(DataError) as caught:
        train(config, tmp_path / "run", quiet=True)
    place = tmp_path / folder
    assert str(caught.value).startswith(
        f"{files[0].split()[0]} is not in {place} and could not be downloaded (http"
    )
    assert "[Errno 111] Connection refused" in str(caught.value)
    assert str(caught.value).endswith(f"). Try again later, or put there: {', '.join(files)}")


@pytest.mark.parametrize("option", ["kmnist", "emnist", "emnist_letters", "emnist_digits", "cifar10"])
def test_a_run_on_each(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if option == "kmnist":
        raw = tmp_path / "KMNIST" / "raw"
        raw.mkdir(parents=True)
        for kind, values in zip(KINDS, make_arrays(10), strict=True):
            (raw / f"{kind.replace('test', 't10k')}-ubyte.gz").write_bytes(gzip.compress(pack_idx(values)))
    elif option == "cifar10":
        write_cifar10(tmp_path, monkeypatch)
    else:
        write_emnist(tmp_path, monkeypatch)
    config = check_config(compose_config(
        f"data={option}", f"data.root={tmp_path}", "model=linear", "data.val_size=10", "trainer.accelerator=cpu",
        "trainer.max_epochs=1", "pictures.enabled=false", "trainer.log_every_n_steps=1",
    ))  # fmt: skip
    (tmp_path / "run").mkdir()
    train(config, tmp_path / "run", quiet=True)
    result = read_result(tmp_path / "run")
    assert result["status"] == "completed"
    images = {"cifar10": (50, 10)}.get(
        option, (2 * len(config["data"]["class_names"]), len(config["data"]["class_names"]))
    )
    assert result["dataset"]["sizes"] == {"train": images[0] - 10, "val": 10, "test": images[1]}


@pytest.mark.parametrize("option", ["mnist", *(["fashion_mnist"] if DEBIAN.is_dir() else [])])
def test_mean_and_std_are_those_of_the_training_images(option: str, tmp_path: Path) -> None:
    """MNIST's, and Fashion-MNIST's where Debian's package has them."""
    data = check_config(compose_config(f"data={option}"))["data"]
    if option == "mnist":
        images = idx.read_mnist()["train"].images
    else:
        (tmp_path / "FashionMNIST").mkdir()
        (tmp_path / "FashionMNIST" / "raw").symlink_to(DEBIAN)
        images = idx.read_idx(tmp_path, "FashionMNIST")["train"].images
    values = images.swapaxes(0, 1).reshape(images.shape[1], -1) / 255
    for name, measured in (("mean", values.mean(axis=1)), ("std", values.std(axis=1))):
        stated = data[name] if isinstance(data[name], list) else [data[name]]
        assert stated == pytest.approx(measured.tolist(), abs=6e-5)
