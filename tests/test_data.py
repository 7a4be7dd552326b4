import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import transforms

from cnn_lab.assembly import make
from cnn_lab.data import ImageDataModule
from cnn_lab.datasets import Split
from cnn_lab.errors import ConfigError, DataError
from cnn_lab.sampling import BatchIndices
from cnn_lab.sources.idx import read_mnist
from cnn_lab.splitting import stratified_split
from conftest import compose_config

COLOURS = ["red", "green", "blue"]


def make_mnist(**settings: Any) -> ImageDataModule:
    classes = [str(digit) for digit in range(10)]
    return ImageDataModule(read_mnist, "MNIST", (1, 28, 28), classes, 0.1307, 0.3081, **settings)


def make_colours(source: Any = None, **settings: Any) -> ImageDataModule:
    """A data module of 40 and 20 images of 3 x 6 x 5 pixels in three classes."""
    settings = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "val_size": 4, **settings}
    return ImageDataModule(source or make_splits, "Colours", (3, 6, 5), COLOURS, **settings)


def make_splits(**changes: Any) -> dict[str, Split]:
    generator = torch.Generator().manual_seed(0)
    splits = {
        name: Split(
            torch.randint(256, (size, 3, 6, 5), generator=generator).byte(), torch.arange(size) % len(COLOURS)
        )
        for name, size in (("train", 40), ("test", 20))
    }
    return {name: split for name, split in (splits | changes).items() if split}


@pytest.mark.parametrize("make", [make_mnist, make_colours])
def test_a_batch_is_what_torchvision_makes_of_its_images(make: Any) -> None:
    data = make(batch_size=32)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert [part.dtype for part in batch] == [torch.uint8, torch.int64]
    images, labels = data.on_after_batch_transfer(batch, 0)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(data.mean, data.std)])
    expected = torch.stack([transform(image.permute(1, 2, 0).numpy()) for image in batch[0]])
    assert images.shape == (32, *data.input_shape)
    assert torch.equal(images, expected)
    assert torch.equal(data.restore(images), batch[0])
    assert torch.equal(labels, batch[1])


def test_an_epoch_has_every_image_once_in_an_order_of_seed_and_epoch() -> None:
    indices = torch.arange(100, 357)

    def order(seed: int, epoch: int) -> list[int]:
        sampler = BatchIndices(indices, 64, shuffle=True, seed=seed)
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert [len(batch) for batch in batches] == [64, 64, 64, 65]  # batch norm learns nothing from one
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
    train, val = stratified_split(labels, 145, seed=0)
    assert np.bincount(labels[val]).tolist() == [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]
    assert sorted([*train, *val]) == list(range(len(labels)))
    assert np.array_equal(val, stratified_split(labels, 145, seed=0)[1])
    assert not np.array_equal(val, stratified_split(labels, 145, seed=1)[1])
    for size in (0, 1, 7, len(labels) - 1):
        assert len(stratified_split(labels, size, seed=0)[1]) == size


def test_mnist_is_cut_into_55_000_5_000_and_10_000_the_same_each_time() -> None:
    for seed in (0, 1):
        data = make_mnist(seed=seed)
        data.prepare_data()
        for stage in ("fit", "test"):
            data.setup(stage)
            assert data.sizes == {"train": 55_000, "val": 5_000, "test": 10_000}
            chosen = list_chosen(data, "val").astype("<i8")
            digest = hashlib.md5(chosen.tobytes(), usedforsecurity=False).hexdigest()
            assert digest == "21027ae2199d63653a34217676725500"  # of all versions so far


def list_chosen(data: ImageDataModule, name: str) -> np.ndarray:
    """The indices, among the images of the source, of those in a split."""
    return data._sets[name][1].numpy()


def test_a_part_of_the_training_images_has_every_class_by_its_share_and_contains_the_smaller_ones() -> None:
    labels = read_mnist()["train"].labels
    whole = make_mnist()
    whole.setup()
    parts = {None: list_chosen(whole, "train")}
    for size in (55_000, 4_000, 100, 12):
        data = make_mnist(train_size=size)
        data.setup()
        assert data.sizes == {"train": size, "val": 5_000, "test": 10_000}
        assert np.array_equal(list_chosen(data, "val"), list_chosen(whole, "val"))
        parts[size] = list_chosen(data, "train")
        shares = np.bincount(labels[parts[None]]) * size / 55_000
        assert np.abs(np.bincount(labels[parts[size]], minlength=10) - shares).max() < 1
    assert np.array_equal(parts[55_000], parts[None])
    assert set(parts[12]) < set(parts[100]) < set(parts[4_000]) < set(parts[55_000])
    other = make_mnist(train_size=100, split_seed=1)
    other.setup()
    assert set(list_chosen(other, "train")) != set(parts[100])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_size": 60_000}, "data.val_size=60000: there are 60,000 training images; type a smaller one, such as 6000"),
        ({"val_size": 12_665, "classes": [0, 1]}, "data.val_size=12665: there are 12,665 training images; type a smaller one, such as 1266"),
        ({"fold": 0, "folds": 60_001}, "data.folds=60001: there are 60,000 training images"),
        ({"train_size": 55_001}, "data.train_size=55001: there are 55,000 training images, besides 5,000 for validation"),
    ],
)  # fmt: skip
def test_more_images_than_there_are_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_mnist(**settings).setup()
    assert str(caught.value) == message


def test_classes_are_kept_and_numbered_in_the_order_in_which_they_are_named() -> None:
    data = make_colours(classes=["blue", "red"], val_size=4, train_size=20, batch_size=50)
    data.setup()
    assert (data.classes, data.num_classes) == (["blue", "red"], 2)
    assert data.sizes == {"train": 20, "val": 4, "test": 13}
    everything = make_splits()
    for split, loader in (("train", data.train_dataloader()), ("test", data.test_dataloader())):
        (images, labels) = next(iter(loader))
        for image, label in zip(images, labels, strict=True):
            index = (everything[split].images == image).flatten(1).all(dim=1).nonzero().item()
            assert COLOURS[everything[split].labels[index]] == data.classes[label]
        assert sorted(set(labels.tolist())) == [0, 1]


def test_classes_without_a_test_image() -> None:
    data = make_colours(lambda: make_splits(test=Split(IMAGES[:1], LABELS[:1])), classes=["green", "blue"])
    with pytest.raises(DataError, match=r"^Colours has no test images of the classes green, blue$"):
        data.setup()


def test_folds_are_stratified_disjoint_and_cover_all_training_images() -> None:
    labels = read_mnist()["train"].labels
    shares = np.bincount(labels) / 7
    parts = []
    for fold in range(7):
        data = make_mnist(fold=fold, folds=7, val_size=123)
        data.setup()
        parts.append(list_chosen(data, "val"))
        assert sorted([*list_chosen(data, "train"), *parts[-1]]) == list(range(60_000))
        assert np.abs(np.bincount(labels[parts[-1]]) - shares).max() < 1
    assert {len(part) for part in parts} == {8_571, 8_572}
    assert sorted(np.concatenate(parts)) == list(range(60_000))
    others = [make_mnist(fold=0, folds=7, seed=1), make_mnist(fold=0, folds=7, split_seed=1)]
    for data in others:
        data.setup()
    same = [np.array_equal(list_chosen(data, "val"), parts[0]) for data in others]
    assert same == [True, False]


@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_networks_without_convolutions_learn_the_same_from_shuffled_pixels(model: str) -> None:
    weights, orders = [], []
    for is_shuffled in (False, True):
        data = make_mnist(train_size=640, shuffle_pixels=is_shuffled)
        data.setup()
        order = data.shuffle(torch.arange(784).view(1, 28, 28)).flatten()
        net = make(
            "model",
            compose_config(f"model={model}").model,
            torch.nn.Module,
            input_shape=(1, 28, 28),
            num_classes=10,
        )
        generator = torch.Generator().manual_seed(0)
        for values in net.parameters():
            torch.nn.init.normal_(values, std=0.05, generator=generator)
        first = next(net.parameters())
        first.data = first.data[:, order]
        optimizer = torch.optim.Adam(net.eval().parameters())  # without dropout
        for batch in data.train_dataloader():
            images, labels = data.on_after_batch_transfer(batch, 0)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
        weights.append([values.detach() for values in net.parameters()])
        orders.append(order)
    assert torch.equal(orders[0], torch.arange(784))
    assert sorted(orders[1].tolist()) == list(range(784))
    weights[0][0] = weights[0][0][:, orders[1]]
    for plain, shuffled in zip(*weights, strict=True):
        torch.testing.assert_close(plain, shuffled, atol=1e-5, rtol=0)  # a step of Adam moves them by 1e-3


def test_all_channels_of_all_images_are_shuffled_alike_and_shown_so() -> None:
    data, plain = make_colours(shuffle_pixels=True), make_colours()
    places = torch.arange(30).view(1, 6, 5).expand(3, 6, 5)
    moved = data.shuffle(places)
    assert torch.equal(moved[0], moved[1])
    assert torch.equal(moved[0], moved[2])
    assert not torch.equal(moved, places)
    assert not torch.equal(moved, make_colours(shuffle_pixels=True, split_seed=1).shuffle(places))
    expected = IMAGES.flatten(2)[..., moved[0].flatten()].view(IMAGES.shape)
    assert torch.equal(data.normalise(IMAGES), plain.normalise(expected))
    assert torch.equal(data.restore(data.normalise(IMAGES)), expected)


def test_as_many_means_as_channels_are_needed() -> None:
    with pytest.raises(ConfigError, match=r"^data.std needs a number for each channel \(3\), not 2$"):
        make_colours(std=[0.2, 0.3])


def test_a_source_is_called_with_the_root_where_there_is_one() -> None:
    roots = []
    data = make_colours(lambda root: roots.append(root) or make_splits(), root="/somewhere")
    data.prepare_data()
    data.setup()
    assert roots == ["/somewhere", "/somewhere"]


IMAGES, LABELS = make_splits()["train"]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"test": None}, "there are no test images"),
        ({"val": Split(IMAGES[:0], LABELS[:0])}, "there are no val images"),
        ({"test": Split(IMAGES[:0], LABELS[:0])}, "there are no test images"),
        ({"train": Split(IMAGES[:, :1], LABELS)}, "train images are 1 x 6 x 5 instead of 3 x 6 x 5"),
        ({"train": Split(IMAGES / 255, LABELS)}, "train images are float32 instead of uint8"),
        ({"train": Split(IMAGES, LABELS.byte())}, "train labels are uint8 instead of int64"),
        ({"train": Split(IMAGES, LABELS[1:])}, "there are 40 train images and 39 labels"),
        ({"train": Split(IMAGES, LABELS + 1)}, "train labels are 3 numbers from 1 to 3 instead of 3 from 0 to 2 (give labels - 1)"),
        ({"train": Split(IMAGES, LABELS % 2)}, "train labels are 2 numbers from 0 to 1 instead of 3 from 0 to 2"),
        (
            {"train": Split(IMAGES[:, 0], LABELS), "test": Split(IMAGES, LABELS - 1)},
            ("train images are 6 x 5 instead of 3 x 6 x 5; "
            "test labels are 3 numbers from -1 to 1 instead of 3 from 0 to 2"),
        ),
    ],
)  # fmt: skip
def test_every_difference_between_data_and_statement_is_told(changes: dict, difference: str) -> None:
    data = make_colours(lambda: make_splits(**changes))
    with pytest.raises(DataError) as caught:
        data.setup()
    assert str(caught.value) == f"Colours is not as its settings state: {difference}"


def test_a_test_set_need_not_show_every_class() -> None:
    data = make_colours(lambda: make_splits(test=Split(IMAGES[:1], LABELS[:1])))
    data.setup()
    assert data.sizes == {"train": 36, "val": 4, "test": 1}


def test_a_share_of_the_images_may_be_for_validation() -> None:
    data = make_colours(val_size=0.25)
    data.setup()
    assert (data.sizes["train"], data.sizes["val"]) == (30, 10)
