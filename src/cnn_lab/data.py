"""Images as a LightningDataModule: bytes in memory, a batch at a time, normalised on the device."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler, TensorDataset

from cnn_lab.datasets import Split, check_splits, stratified_choice, stratified_split
from cnn_lab.errors import ConfigError


class ImageDataModule(LightningDataModule):
    """Training, validation and test images of any source.

    Batches are (images, labels): images (batch, *input_shape), float32, `(x / 255 - mean) / std`; labels
    (batch,), int64, counted from 0. Until they are on the device, images are bytes.

    Args:
        source: returns "train" and "test"; called with `root`, or with nothing where that is None.
        name: what the data set is called.
        input_shape: channels, height, width of each image.
        class_names: in the order of the labels.
        mean, std: of the training images' pixels, in [0, 1], that images are normalised by; one number, or
            one a channel.
        root: folder that the source reads from, and may download to.
        batch_size: images in a training batch; the last one of an epoch may be smaller.
        eval_batch_size: images in a validation or test batch. Changes memory and speed, no result.
        train_size: images to train on, as many of each class as its share, a smaller choice contained in a
            larger one; None for all that validation leaves.
        val_size: images cut from the training images for validation, as many of each class as its share; 0
            for none.
        split_seed: chooses both, independent of `seed`.
        test_each_epoch: measure on the test images where others measure on validation images. It shows the
            test curve, and nothing may be chosen by it.
        num_workers: loader processes. They cost more than they give for images that are in memory.
        seed: decides the order of the training images, epoch by epoch.

    Attributes:
        num_classes: how many `classes` there are.
        sizes: images in "train", "val" and "test". Known after `setup`.

    Raises:
        ConfigError: for a `mean` or `std` of another number of channels.
    """

    def __init__(
        self,
        source: Callable[..., Mapping[str, Split]],
        name: str,
        input_shape: Sequence[int],
        class_names: Sequence[str],
        mean: float | Sequence[float],
        std: float | Sequence[float],
        root: str | None = None,
        batch_size: int = 64,
        eval_batch_size: int = 100,
        train_size: int | None = None,
        val_size: int = 5_000,
        split_seed: int = 0,
        test_each_epoch: bool = False,
        num_workers: int = 0,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.source = source
        self.name = name
        self.input_shape = tuple(input_shape)
        self.classes = list(class_names)
        self.num_classes = len(self.classes)
        self.mean = mean
        self.std = std
        self.root = root
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.train_size = train_size
        self.val_size = val_size
        self.split_seed = split_seed
        self.test_each_epoch = test_each_epoch
        self.num_workers = num_workers
        self.seed = seed
        self.sizes: dict[str, int] = {}
        channels = self.input_shape[0]
        means, stds = _one_a_channel("mean", mean, channels), _one_a_channel("std", std, channels)
        self._levels = list(zip(means, stds, strict=True))
        self._sets: dict[str, tuple[TensorDataset, Tensor]] = {}
        self._done = (0, 0)  # epochs, and batches of the next one

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint holds, so that a run goes on with its next batch."""
        if not self.trainer:
            return {"epochs": 0, "batches": 0}
        loop = self.trainer.fit_loop
        epochs, batches = loop.epoch_progress, loop.epoch_loop.batch_progress
        is_inside = epochs.current.started > epochs.current.processed
        return {
            "epochs": epochs.current.processed,
            "batches": batches.current.processed if is_inside else 0,
        }

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Called by Lightning with what `state_dict` gave."""
        self._done = (state_dict["epochs"], state_dict["batches"])

    def prepare_data(self) -> None:
        """Let the source download what is missing: one process does so, before all read."""
        self._read()

    def setup(self, stage: str = "") -> None:
        """Read the images and cut the validation set: the same one each time.

        Raises:
            DataError: for data that are not what was stated.
            ConfigError: for more training or validation images than there are.
        """
        if self._sets:
            return
        splits = self._read()
        check_splits(self.name, splits, self.input_shape, self.num_classes)
        train, val = self._choose(splits["train"].labels.numpy())
        dataset = TensorDataset(*splits["train"])
        self._sets = {
            "train": (dataset, torch.from_numpy(train)),
            "val": (dataset, torch.from_numpy(val)),
            "test": (TensorDataset(*splits["test"]), torch.arange(len(splits["test"].labels))),
        }
        self.sizes = {name: len(indices) for name, (_, indices) in self._sets.items()}

    def _read(self) -> Mapping[str, Split]:
        return self.source() if self.root is None else self.source(root=self.root)

    def _choose(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the images to train on, and of those to validate on."""
        if self.val_size >= len(labels):
            raise ConfigError(f"data.val_size={self.val_size}: there are {len(labels):,} training images")
        train, val = stratified_split(labels, self.val_size, self.split_seed)
        if self.train_size is None:
            return train, val
        if self.train_size > len(train):
            raise ConfigError(
                f"data.train_size={self.train_size}: there are {len(train):,} training images, "
                f"besides {len(val):,} for validation"
            )
        return train[stratified_choice(labels[train], self.train_size, self.split_seed)], val

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
        """Bytes to float32 of the same shape: the arithmetic of torchvision's ToTensor and Normalize."""
        values = images.float().div_(255)
        for channel, (mean, std) in zip(values.unbind(-3), self._levels, strict=True):
            channel.sub_(mean).div_(std)
        return values

    def restore(self, images: Tensor) -> Tensor:
        """What `normalise` was given."""
        values = images.clone()
        for channel, (mean, std) in zip(values.unbind(-3), self._levels, strict=True):
            channel.mul_(std).add_(mean)
        return values.mul_(255).round_().clamp_(0, 255).byte()

    def _load(self, name: str, batch_size: int, shuffle: bool = False) -> DataLoader:
        dataset, indices = self._sets[name]
        sampler = BatchIndices(indices, batch_size, shuffle, self.seed)
        if self.trainer:
            sampler.rank, sampler.world_size = self.trainer.global_rank, self.trainer.world_size
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


class BatchIndices(SequentialSampler):
    """The indices of one batch after another, int64, each of shape (at most `batch_size`,).

    A SequentialSampler since Lightning, with `trainer.overfit_batches`, puts one in the place of any other.

    With `shuffle` the order depends on `seed` and the epoch, and on nothing that ran before. Of several
    processes (`world_size`) each takes its share; when shuffled, the last image may be seen twice to make the
    shares equal, which keeps the processes in step.
    """

    def __init__(
        self,
        indices: Tensor,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.indices = indices
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self._skipped = (0, 0)

    def skip(self, epochs: int, batches: int) -> None:
        """Go on after so many epochs, and batches of the next one."""
        self.epoch = epochs
        self._skipped = (epochs, batches)

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self._share() / self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        indices = self.indices
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(len(indices))
            indices = indices[torch.from_numpy(order)]
        share = indices[self.rank :: self.world_size]
        if len(share) < self._share():
            share = torch.cat([share, indices[:1]])
        epoch, batches = self._skipped
        return iter(share.split(self.batch_size)[batches if epoch == self.epoch else 0 :])

    def _share(self) -> int:
        size = len(self.indices)
        if self.shuffle:
            return math.ceil(size / self.world_size)
        return len(range(self.rank, size, self.world_size))


def _one_a_channel(name: str, value: float | Sequence[float], channels: int) -> list[float]:
    values = list(value) if isinstance(value, Sequence) else [value] * channels
    if len(values) != channels:
        raise ConfigError(f"data.{name} has {len(values)} numbers, and images have {channels} channels")
    return values
