"""MNIST as a LightningDataModule: bytes in memory, a batch at a time, normalised on the device."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler, TensorDataset

from cnn_lab import datasets as mnist
from cnn_lab.errors import ConfigError, DataError
from cnn_lab.settings.ranges import check_ranges


class ImageDataModule(LightningDataModule):
    """MNIST's training, validation and test images.

    Batches are (images, labels): images (batch, 1, 28, 28), float32, `(x / 255 - mean) / std`; labels
    (batch,), int64, 0 to 9. Until they are on the device they are bytes.

    Args:
        root: folder in torchvision's layout, with `MNIST/raw/` below it; None for the embedded sample.
        mean, std: of the pixels, in [0, 1], that the images are normalised by.
        batch_size: images in a training batch; the last one of an epoch may be smaller.
        eval_batch_size: images in a validation or test batch. Changes memory and speed, no result.
        val_size: images cut from the 60,000 for validation, as many of each digit as its share; 0 for none.
        split_seed: chooses them, independent of `seed`.
        test_each_epoch: measure on the test images where others measure on validation images. It shows the
            test curve, and nothing may be chosen by it.
        allow_sample: train on the embedded sample where MNIST is not in `root` and cannot be downloaded.
        num_workers: loader processes. They cost more than they give for images that are in memory.
        seed: decides the order of the training images, epoch by epoch.

    Attributes:
        name: "MNIST", or what the sample is called. Known after `setup`, like `sizes` and `sample_reason`.
        sizes: images in "train", "val" and "test".
        sample_reason: why the sample stands in for MNIST; empty where it does not.
        leaves_traces: whether `root` may get a record of the files that were checked, see `mnist.read_mnist`.
    """

    input_shape = mnist.IMAGE_SHAPE
    num_classes = mnist.NUM_CLASSES

    def __init__(
        self,
        root: str | None,
        mean: float = 0.1307,
        std: float = 0.3081,
        batch_size: int = 64,
        eval_batch_size: int = 100,
        val_size: int = 5_000,
        split_seed: int = 0,
        test_each_epoch: bool = False,
        allow_sample: bool = True,
        num_workers: int = 0,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        limits = {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "num_workers": num_workers}
        check_ranges("data", {**limits, "std": std, "split_seed": split_seed})
        self.root = root
        self.mean = mean
        self.std = std
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.split_seed = split_seed
        self.test_each_epoch = test_each_epoch
        self.allow_sample = allow_sample
        self.num_workers = num_workers
        self.seed = seed
        self.name = "MNIST"
        self.sizes: dict[str, int] = {}
        self.sample_reason = ""
        self.leaves_traces = True
        self._sets: dict[str, tuple[TensorDataset, Tensor]] = {}
        self._done = (0, 0)  # epochs, and batches of the next one

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint holds, so that a run goes on with its next batch."""
        if not self.trainer:
            return {"epochs": 0, "batches": 0}
        epochs, batches = (
            self.trainer.fit_loop.epoch_progress,
            self.trainer.fit_loop.epoch_loop.batch_progress,
        )
        is_inside = epochs.current.started > epochs.current.processed
        return {
            "epochs": epochs.current.processed,
            "batches": batches.current.processed if is_inside else 0,
        }

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Called by Lightning with what `state_dict` gave."""
        self._done = (state_dict["epochs"], state_dict["batches"])

    def prepare_data(self) -> None:
        """Download what is missing. Where that fails, `setup` turns to the sample.

        Raises:
            DataError: when MNIST cannot be had and `allow_sample` is false.
        """
        if self.root is None or self.sample_reason or mnist.is_complete(self.root):
            return
        try:
            mnist.download_mnist(self.root)
        except DataError as error:
            if not self.allow_sample:
                raise DataError(
                    f"MNIST is not in {mnist.raw_folder(self.root)} and cannot be downloaded: {error}. "
                    "Set data.root to where it is, or data.allow_sample=true to train on the embedded sample"
                ) from error
            self.sample_reason = str(error)

    def setup(self, stage: str = "") -> None:
        """Read the images and cut the validation set: the same one each time."""
        if self._sets:
            return
        if self.root is None or not mnist.is_complete(self.root):
            self.name = f"MNIST sample ({sum(mnist.SAMPLE_SIZES.values()):,})"
            splits = mnist.read_sample()
            self._sets = {name: (_as_dataset(split), _all_of(split)) for name, split in splits.items()}
        else:
            self.sample_reason = ""  # another run may have had more luck meanwhile
            self._sets = self._split_mnist()
        self.sizes = {name: len(indices) for name, (_, indices) in self._sets.items()}

    def _split_mnist(self) -> dict[str, tuple[TensorDataset, Tensor]]:
        splits = mnist.read_mnist(self.root, self.leaves_traces)
        labels = splits["train"].labels
        if not 0 <= self.val_size < len(labels):
            raise ConfigError(f"data.val_size={self.val_size}: there are {len(labels):,} training images")
        train, val = mnist.stratified_split(labels, self.val_size, self.split_seed)
        dataset = _as_dataset(splits["train"])
        return {
            "train": (dataset, torch.from_numpy(train)),
            "val": (dataset, torch.from_numpy(val)),
            "test": (_as_dataset(splits["test"]), _all_of(splits["test"])),
        }

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
        return self.normalise(images).to(dtype), labels.long()  # type: ignore[arg-type]

    def normalise(self, images: Tensor) -> Tensor:
        """Bytes to float32 of the same shape: the arithmetic of torchvision's ToTensor and Normalize."""
        return images.float().div_(255).sub_(self.mean).div_(self.std)

    def restore(self, images: Tensor) -> Tensor:
        """What `normalise` was given."""
        return images.mul(self.std).add_(self.mean).mul_(255).round_().clamp_(0, 255).byte()

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


def _as_dataset(split: mnist.Split) -> TensorDataset:
    """Images (n, 1, 28, 28) and labels (n,), as bytes, without a copy where the memory may be written."""
    images, labels = (torch.from_numpy(array.copy()) for array in split)
    return TensorDataset(images.unsqueeze(1), labels)


def _all_of(split: mnist.Split) -> Tensor:
    return torch.arange(len(split.labels))
