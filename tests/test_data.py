from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import transforms

from cnn_lab import datasets as mnist
from cnn_lab.data import BatchIndices, ImageDataModule
from cnn_lab.errors import ConfigError, DataError
from conftest import MNIST_ROOT, needs_mnist


def make_sample(**settings: object) -> ImageDataModule:
    data = ImageDataModule(None, **settings)
    data.setup()
    return data


def test_a_batch_is_what_torchvision_makes_of_its_images() -> None:
    data = make_sample(batch_size=32)
    batch = next(iter(data.train_dataloader()))
    assert [part.dtype for part in batch] == [torch.uint8, torch.uint8]
    images, labels = data.on_after_batch_transfer(batch, 0)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    expected = torch.stack([transform(image.numpy()[0, :, :, None]) for image in batch[0]])
    assert images.shape == (32, 1, 28, 28)
    assert torch.equal(images, expected)
    assert labels.dtype == torch.int64


def test_the_sample_is_balanced_and_its_parts_share_no_image() -> None:
    splits = mnist.read_sample()
    assert {name: len(split.labels) for name, split in splits.items()} == mnist.SAMPLE_SIZES
    for split in splits.values():
        assert len(set(np.bincount(split.labels))) == 1
    images = np.concatenate([split.images for split in splits.values()]).reshape(5_000, -1)
    assert len(np.unique(images, axis=0)) == 5_000


@needs_mnist
def test_the_sample_is_from_mnists_training_images() -> None:
    official = mnist.read_mnist(MNIST_ROOT)
    labels = {
        image.tobytes(): label
        for image, label in zip(official["train"].images, official["train"].labels, strict=True)
    }
    for split in mnist.read_sample().values():
        found = [labels.get(image.tobytes()) for image in split.images]
        assert found == split.labels.tolist()


def test_an_epoch_has_every_image_once_in_an_order_of_seed_and_epoch() -> None:
    indices = torch.arange(100, 357)

    def order(seed: int, epoch: int) -> list[int]:
        sampler = BatchIndices(indices, 64, shuffle=True, seed=seed)
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert [len(batch) for batch in batches] == [64, 64, 64, 64, 1]
        assert len(batches) == len(sampler)
        return torch.cat(batches).tolist()

    assert sorted(order(0, 0)) == indices.tolist()
    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1, 2) for epoch in (0, 1, 2)}) == 9


@pytest.mark.parametrize("shuffle", [False, True])
def test_several_processes_share_an_epoch(shuffle: bool) -> None:
    indices = torch.arange(101)
    samplers = [BatchIndices(indices, 16, shuffle, rank=rank, world_size=4) for rank in range(4)]
    shares = [torch.cat(list(sampler)).tolist() for sampler in samplers]
    assert [len(list(sampler)) for sampler in samplers] == [len(sampler) for sampler in samplers]
    assert set().union(*shares) == set(range(101))
    if shuffle:
        assert {len(share) for share in shares} == {26}
    else:
        assert sum(len(share) for share in shares) == 101


def test_the_validation_split_is_stratified_and_depends_on_its_seed_only() -> None:
    labels = np.repeat(np.arange(10, dtype=np.uint8), np.arange(100, 200, 10))
    train, val = mnist.stratified_split(labels, 145, seed=0)
    assert np.bincount(labels[val]).tolist() == [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]
    assert sorted([*train, *val]) == list(range(len(labels)))
    assert np.array_equal(val, mnist.stratified_split(labels, 145, seed=0)[1])
    assert not np.array_equal(val, mnist.stratified_split(labels, 145, seed=1)[1])
    for size in (0, 1, 7, len(labels) - 1):
        assert len(mnist.stratified_split(labels, size, seed=0)[1]) == size


@needs_mnist
def test_mnist_is_cut_into_55_000_5_000_and_10_000_the_same_each_time() -> None:
    chosen = []
    for seed in (0, 1):
        data = ImageDataModule(str(MNIST_ROOT), seed=seed)
        data.prepare_data()
        for stage in ("fit", "test"):
            data.setup(stage)
            assert data.sizes == {"train": 55_000, "val": 5_000, "test": 10_000}
            chosen.append(data._sets["val"][1])
    assert all(torch.equal(chosen[0], other) for other in chosen)
    shares = torch.bincount(data._sets["val"][0].tensors[1][chosen[0]].long()) / 5_000
    official = torch.bincount(data._sets["train"][0].tensors[1].long()) / 60_000
    assert (shares - official).abs().max() < 1 / 5_000


@needs_mnist
@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (
            "train-images-idx3-ubyte",
            lambda content: content[:1_000],
            "it has 1,000 bytes instead of 47,040,016",
        ),
        ("train-labels-idx1-ubyte", lambda content: content + b"\0", "it has 60,009 bytes instead of 60,008"),
        (
            "t10k-labels-idx1-ubyte",
            lambda content: content[::-1],
            "its content is not MNIST's (its MD5 is not 27ae3e4e09519cfbb04c329615203637)",
        ),
    ],
)
def test_a_damaged_file_is_named_with_its_repair(tmp_path: Path, name: str, damage, message: str) -> None:
    folder = mnist.raw_folder(tmp_path)
    folder.mkdir(parents=True)
    for file in mnist.ALL_FILES:
        (folder / file.name).symlink_to(mnist.raw_folder(MNIST_ROOT) / file.name)
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(damage(content))
    data = ImageDataModule(str(tmp_path))
    data.prepare_data()
    with pytest.raises(DataError) as caught:
        data.setup()
    assert str(caught.value) == (
        f"{path} is damaged: {message}. Delete it and run again to download it anew: rm '{path}'"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "data.batch_size=0 is out of range: it must be at least 1 and at most 1000000"),
        ({"std": 0.0}, "data.std=0.0 is out of range: it must be above 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ImageDataModule(None, **settings)
    assert str(caught.value) == message
