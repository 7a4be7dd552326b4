"""Images as a LightningDataModule: bytes in memory, a batch at a time, normalised on the device."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from cnn_lab.datasets import check_splits, read_source
from cnn_lab.errors import ConfigError, DataError
from cnn_lab.sampling import BatchIndices, keep_on
from cnn_lab.shapes import Each
from cnn_lab.splitting import stratified_choice, stratified_folds, stratified_split


class ImageDataModule(LightningDataModule):
    """Training, validation and test images of any source.

    Batches are (images, labels): images (batch, *input_shape), float32, `(x / 255 - mean) / std`; labels
    (batch,), int64, counted from 0. Until they are on the device, images are bytes.

    In a config, `name`, `input_shape`, `class_names`, `mean` and `std` may be null: then they are found from
    the images.

    Args:
        source: returns "train", "test" and perhaps "val" (see `cnn_lab.datasets.read_source`); called with
            `root`, or with nothing where that is None.
        name: what the data set is called.
        input_shape: channels, height, width of each image.
        class_names: in the order of the source's labels.
        mean, std: those of the training pixels, in [0, 1], to normalise with; one number, or one per channel.
        root: folder that the source reads from, and may download to.
        classes: those of `class_names` whose images are kept, numbered in this order; None for all.
        shuffle_pixels: move the pixels of every image, all channels alike, by one permutation of their
            positions, which `split_seed` chooses.
        batch_size: images in a training batch; the last one of an epoch may be smaller, or have one more.
        eval_batch_size: images in a validation or test batch. Changes memory and speed, no result.
        train_size: images to train on, as many of each class as its share, a smaller choice contained in a
            larger one; None for all that validation leaves.
        val_size: images cut from the training images for validation, as many of each class as its share;
            below 1, that share of them; 0 for none. Without a meaning where there is a `fold`, or the source
            returns "val", too.
        fold: of `folds` equal parts of the training images, each with as many of each class as its share, the
            one to validate on, counted from 0.
        split_seed: chooses all of these, independent of `seed`.
        test_each_epoch: measure on the test images where others measure on validation images. It shows the
            test curve, and nothing may be chosen by it.
        num_workers: loader processes. They cost more than they give for images that are in memory.
        ink: whether images are strokes, light on dark, placed as MNIST's are: on other pictures that a
            network is used on, such strokes are then searched for.
        seed: decides the order of the training images, epoch by epoch.

    Attributes:
        classes: the names of those that are kept, in the order of the labels.
        sizes: images in "train", "val" and "test". Known after `setup`.
        levels: the mean and the standard deviation of each channel.

    Raises:
        ConfigError: for a `mean` or `std` of another number of channels.
    """

    def __init__(
        self,
        source: Callable[..., Any],
        name: str | None,
        input_shape: Sequence[int] | None,
        class_names: Sequence[str | int] | None,
        mean: Each[float] | None,
        std: Each[float] | None,
        root: str | None = None,
        classes: Sequence[str | int] | None = None,
        shuffle_pixels: bool = False,
        batch_size: int = 64,
        eval_batch_size: int = 100,
        train_size: int | None = None,
        val_size: int | float = 5_000,
        fold: int | None = None,
        folds: int = 5,
        split_seed: int = 0,
        test_each_epoch: bool = False,
        num_workers: int = 0,
        ink: bool = False,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.source = source
        self.name = name
        self.input_shape = tuple(input_shape)
        self.class_names = [str(name) for name in class_names]
        self.classes = [str(name) for name in classes or class_names]
        self.mean = mean
        self.std = std
        self.root = root
        self.shuffle_pixels = shuffle_pixels
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.train_size = train_size
        self.val_size = val_size
        self.fold = fold
        self.folds = folds
        self.split_seed = split_seed
        self.test_each_epoch = test_each_epoch
        self.num_workers, self.ink = num_workers, ink
        self.seed = seed
        self.sizes: dict[str, int] = {}
        self.levels = _pair_levels(self.input_shape[0], mean=mean, std=std)
        order = np.random.default_rng(split_seed).permutation(math.prod(self.input_shape[1:]))
        self._order = torch.from_numpy(order) if shuffle_pixels else None
        self._sets: dict[str, tuple[TensorDataset, Tensor]] = {}
        self._done = (0, 0)  # epochs, and batches of the next one

    @property
    def num_classes(self) -> int:
        """How many `classes` there are."""
        return len(self.classes)

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint holds, so that a run goes on with its next batch."""
        if not self.trainer:
            return {"epochs": 0, "batches": 0}
        loop = self.trainer.fit_loop
        epochs, batches = loop.epoch_progress, loop.epoch_loop.batch_progress
        is_inside = epochs.current.started > epochs.current.processed
        done = batches.current.processed if is_inside else 0
        return {"epochs": epochs.current.processed, "batches": done}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Called by Lightning with what `state_dict` gave."""
        self._done = (state_dict["epochs"], state_dict["batches"])

    def prepare_data(self) -> None:
        """Let the source download what is missing: one process does so, before all read."""
        if not self._sets:
            self._read()

    def setup(self, stage: str = "") -> None:
        """Read the images and cut the validation set: the same one each time.

        Raises:
            DataError: for data that are not what was stated.
            ConfigError: for more training or validation images than there are, and for a class that keeps no
                training image.
        """
        if self._sets:
            return
        splits = self._read()
        check_splits(self.name, splits, self.input_shape, self.class_names)
        numbers = torch.full((len(self.class_names),), -1)
        numbers[[self.class_names.index(name) for name in self.classes]] = torch.arange(self.num_classes)
        sets = {}
        for part in (part for part in ("train", "val", "test") if part in splits):
            labels = numbers[torch.from_numpy(splits[part].labels)]
            images = torch.from_numpy(splits[part].images)
            sets[part] = (TensorDataset(images, labels), (labels >= 0).nonzero().flatten())
        dataset, kept = sets["train"]
        labels = dataset.tensors[1][kept].numpy()
        train, val = self._choose(labels, has_val="val" in sets)
        self._check_training(labels, train)
        sets = {"val": (dataset, kept[val]), **sets, "train": (dataset, kept[train])}
        self.sizes = {part: len(sets[part][1]) for part in ("train", "val", "test")}
        for part in ("val", "test"):
            if part in splits and not self.sizes[part]:
                raise DataError(f"{self.name} has no {part} images of the classes {', '.join(self.classes)}")
        self._sets = sets

    def _read(self) -> dict[str, Any]:
        return read_source(self.source, self.root, self.name)

    def _choose(self, labels: np.ndarray, has_val: bool) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the images to train on, and of those of them to validate on."""
        there_are = f"there are {len(labels):,} training images"
        if has_val and self.fold is not None:
            raise ConfigError(f"data.fold={self.fold}: {self.name} already has validation images")
        if has_val:
            train, val = np.arange(len(labels)), np.arange(0)
        elif self.fold is not None:
            if self.folds > len(labels):
                raise ConfigError(f"data.folds={self.folds}: {there_are}")
            folds = stratified_folds(labels, self.folds, self.split_seed)
            train, val = np.flatnonzero(folds != self.fold), np.flatnonzero(folds == self.fold)
        elif (val_size := self._count_val(len(labels))) >= len(labels):
            fitting = f"type a smaller one, such as {max(1, len(labels) // 10)}"
            raise ConfigError(f"data.val_size={self.val_size}: {there_are}; {fitting}")
        else:
            train, val = stratified_split(labels, val_size, self.split_seed)
        if self.train_size is None:
            return train, val
        if self.train_size > len(train):
            raise ConfigError(
                f"data.train_size={self.train_size}: there are {len(train):,} training images, "
                f"besides {len(val):,} for validation"
            )
        return train[stratified_choice(labels[train], self.train_size, self.split_seed)], val

    def _check_training(self, labels: np.ndarray, train: np.ndarray) -> None:
        """Reject a class without an image to train on."""
        settings = ("train_size", "val_size") if self.fold is None else ("train_size", "fold", "folds")
        chosen = ", ".join(
            f"data.{name}={getattr(self, name)}" for name in settings if getattr(self, name) is not None
        )
        for number, name in enumerate(self.classes):
            if number not in labels[train]:
                raise ConfigError(
                    f"{self.name}: {chosen} leaves no training image of the class {name}, which has "
                    f"{(labels == number).sum():,}. Add images, or change these settings"
                )

    def _count_val(self, images: int) -> int:
        if self.val_size >= 1:
            return int(self.val_size)
        count = round(self.val_size * images)
        if self.val_size and not count:
            raise ConfigError(
                f"data.val_size={self.val_size} of {images:,} training images is less than one image; "
                "type a larger share, or 0 to train without validation"
            )
        return count

    @property
    def watched(self) -> str:
        """The split that is measured after each epoch, "val" or "test"."""
        return "test" if self.test_each_epoch else "val"

    def train_dataloader(self) -> DataLoader:
        """Batches of `batch_size` in an order of its own each epoch, or always the same ones to overfit."""
        is_to_overfit = bool(self.trainer and self.trainer.overfit_batches)
        return self._load("train", self.batch_size, shuffle=not is_to_overfit)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """The split that is watched, in batches of `eval_batch_size`; an empty list for none."""
        return self._load(self.watched, self.eval_batch_size) if self.sizes[self.watched] else []

    def test_dataloader(self) -> DataLoader:
        """The test images in batches of `eval_batch_size`."""
        return self._load("test", self.eval_batch_size)

    def on_after_batch_transfer(self, batch: list[Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Turn bytes on the device into what the network takes, and what the loss takes."""
        images, labels = batch
        classifier = self.trainer.lightning_module if self.trainer else None
        dtype = classifier.dtype if classifier else torch.float32  # with trainer.precision=64-true another
        return self.normalise(images).to(dtype), labels  # type: ignore[arg-type]

    def normalise(self, images: Tensor) -> Tensor:
        """Bytes to float32 of the same shape: the arithmetic of torchvision's ToTensor and Normalize.

        Their pixels are shuffled before, where they are to be.
        """
        values = self.shuffle(images).float().div_(255)
        for channel, (mean, std) in zip(values.unbind(-3), self.levels, strict=True):
            channel.sub_(mean).div_(std)
        return values

    def shuffle(self, images: Tensor) -> Tensor:
        """The images, of whatever type, with their pixels where the network gets them."""
        if self._order is None:
            return images
        self._order = self._order.to(images.device)
        return images.flatten(-2).index_select(-1, self._order).view(images.shape)

    def restore(self, images: Tensor) -> Tensor:
        """The bytes that `normalise` was given, shuffled where it shuffles."""
        values = images.clone()
        for channel, (mean, std) in zip(values.unbind(-3), self.levels, strict=True):
            channel.mul_(std).add_(mean)
        return values.mul_(255).round_().clamp_(0, 255).byte()

    def _load(self, name: str, batch_size: int, shuffle: bool = False) -> DataLoader:
        dataset, indices = self._sets[name]
        sampler = BatchIndices(indices, batch_size, shuffle, self.seed)
        if self.trainer:
            sampler.rank, sampler.world_size = self.trainer.global_rank, self.trainer.world_size
            if not self.num_workers:
                keep_on(self.trainer.strategy.root_device, [images for images, _ in self._sets.values()])
        sampler.device = dataset.tensors[0].device
        if name == "train":
            sampler.skip(*self._done)
        return DataLoader(
            dataset,
            sampler=sampler,
            batch_size=None,  # the sampler gives whole batches, which the dataset fetches in one step
            generator=torch.Generator(),  # else making a loader changes the numbers that dropout draws
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )


def _pair_levels(channels: int, **levels: Each[float]) -> list[tuple[float, ...]]:
    """The mean and std of each channel."""
    for name, value in levels.items():
        values = list(value) if isinstance(value, Sequence) else [value] * channels
        if len(values) != channels:
            raise ConfigError(f"data.{name} needs a number for each channel ({channels}), not {len(values)}")
        levels[name] = values
    return list(zip(*levels.values(), strict=True))  # type: ignore[arg-type]
