"""In which batches the images of a part come, and where they lie meanwhile."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import SequentialSampler, TensorDataset

SHARE_OF_GPU = 0.25  # of its free memory, which images may take


def keep_on(device: torch.device, datasets: Sequence[TensorDataset]) -> None:
    """Keep all images on a GPU, if they fit there: then a batch is cut without the host."""
    if device.type != "cuda":
        return
    size = sum(values.nbytes for images in datasets for values in images.tensors if values.is_cpu)
    if size < torch.cuda.mem_get_info(device)[0] * SHARE_OF_GPU:
        for images in datasets:
            images.tensors = tuple(values.to(device) for values in images.tensors)


class BatchIndices(SequentialSampler):
    """The indices of one batch after another, int64, each of shape (at most `batch_size`,).

    A SequentialSampler since Lightning, with `trainer.overfit_batches`, puts one in the place of any other.

    With `shuffle` the order depends on `seed` and the epoch, and on nothing that ran before. Of several
    processes (`world_size`) each takes its share; when shuffled, the last image may be seen twice to make the
    shares equal, which keeps the processes in step. An image that would be left alone at the end joins the
    batch before, since batch norm cannot learn from one image.

    Attributes:
        device: where the batches of indices lie, which is where the images do.
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
        self.device = torch.device("cpu")
        self._skipped = (0, 0)

    def skip(self, epochs: int, batches: int) -> None:
        """Go on after so many epochs, and batches of the next one."""
        self.epoch = epochs
        self._skipped = (epochs, batches)

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        share = self._share()
        is_one_alone = share > self.batch_size > 1 and share % self.batch_size == 1
        return math.ceil(share / self.batch_size) - is_one_alone

    def __iter__(self) -> Iterator[Tensor]:
        indices = self.indices
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(len(indices))
            indices = indices[torch.from_numpy(order)]
        share = indices[self.rank :: self.world_size]
        if len(share) < self._share():
            share = torch.cat([share, indices[:1]])
        cuts = range(self.batch_size, len(self) * self.batch_size, self.batch_size)
        epoch, batches = self._skipped
        return iter(share.to(self.device).tensor_split(list(cuts))[batches if epoch == self.epoch else 0 :])

    def _share(self) -> int:
        size = len(self.indices)
        if self.shuffle:
            return math.ceil(size / self.world_size)
        return len(range(self.rank, size, self.world_size))
