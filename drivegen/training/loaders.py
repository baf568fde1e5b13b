"""What the data of both kinds of training share: loaders of what is trained on and what is held out, split among processes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl

from drivegen.support.errors import InputError
from drivegen.training.frames import FrameRef, Sources
from drivegen.training.order import InTurn, Loader, Order, spread


class SplitData(pl.LightningDataModule):
    """A LightningDataModule over `Sources`; a subclass says what an item is.

    Args:
        images: images per step.
        seed: of the order.
        workers: processes that read items; 0 = this one.
        batches: number of batches of the run; None = one pass per epoch.
        val_frames: how many held-out frames are validated on, spread over their scenes; None = all.
    """

    def __init__(self, *, images: int, seed: int, workers: int, batches: int | None, val_frames: int | None) -> None:
        super().__init__()
        self.images, self.seed, self.workers, self.batches, self.val_frames = images, seed, workers, batches, val_frames

    @abstractmethod
    def open(self) -> Sources:
        """Open the datasets, unless they are open."""

    @abstractmethod
    def training_items(self) -> tuple[Any, Sequence[int]]:
        """Return the dataset that is trained on, and the number of views of each item."""

    @abstractmethod
    def items_of(self, refs: list[FrameRef]) -> Any:
        """Return a dataset of some frames."""

    def order(self, views: Sequence[int], rank: int, world: int) -> Order:
        """Return the order of the training items.

        Args:
            views: number of views of each.
            rank: which process this is.
            world: number of processes.
        """
        return Order(views, self.images, self.seed, rank, world)

    def _share(self) -> tuple[int, int]:
        """Say which process this is, and of how many."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def train_dataloader(self) -> Loader:
        """Return the loader of the training items."""
        dataset, views = self.training_items()
        return Loader(dataset, self.order(views, *self._share()), dataset.collate, self.workers, self.batches)

    def val_dataloader(self) -> Sequence[Any] | InTurn:
        """Return the held-out items one by one; none where no scene is held out, for which `Trainer.validate` is refused."""
        sources = self.open()
        if not sources.val:
            if self.trainer is not None and self.trainer.state.fn == "validate":
                raise InputError("there is nothing to validate on: val_scenes holds no scene out")
            return []
        dataset = self.items_of(spread(sources.val, self.val_frames))
        return InTurn(dataset, dataset.collate, self.workers, *self._share())
