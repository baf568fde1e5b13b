"""Which frames make which batch: a function of (seed, epoch), so that a run can go on from any position."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from drivegen.support.errors import InputError


class Order:
    """Batches of equal view count; a batch has as many scenes as `images` images hold, and at least one.

    Every frame comes once an epoch. rank and world split an epoch's batches evenly between processes.
    """

    def __init__(self, views: Sequence[int], images: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.views, self.images, self.seed, self.rank, self.world = np.asarray(views), images, seed, rank, world
        self.per_epoch = max(1, len(self._epoch(0)) // world)
        self._last: tuple[int, list[list[int]]] | None = None

    def _epoch(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.views))
        batches = []
        for count in np.unique(self.views):
            chosen = order[self.views[order] == count]
            scenes = max(1, self.images // int(count))
            batches += [chosen[i : i + scenes].tolist() for i in range(0, len(chosen), scenes)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def batch(self, position: int) -> list[int]:
        """Return the indices of the batch at a position, counted from the start of the run."""
        epoch, offset = divmod(position, self.per_epoch)
        if self._last is None or self._last[0] != epoch:
            self._last = (epoch, self._epoch(epoch))
        batches = self._last[1]
        return batches[(offset * self.world + self.rank) % len(batches)]


class Loader:
    """A DataLoader over an `Order` whose `state_dict` is its position: a restored one skips what was seen without reading it.

    length is the number of batches of the whole run; None = one pass over the data at a time.
    """

    def __init__(
        self, dataset: Dataset[Any], order: Order, collate: Callable[[list[Any]], Any], workers: int = 0,
        length: int | None = None,
    ) -> None:  # fmt: skip
        self.dataset, self.order, self.collate, self.workers, self.length = dataset, order, collate, workers, length
        self.position = 0

    def __len__(self) -> int:
        return self.length or self.order.per_epoch

    def __iter__(self) -> Iterator[Any]:
        end = self.length or (self.position // self.order.per_epoch + 1) * self.order.per_epoch
        batches = (self.order.batch(i) for i in range(self.position, end))
        loader: DataLoader[Any] = DataLoader(
            self.dataset, batch_sampler=list(batches), collate_fn=self.collate, num_workers=self.workers,
            multiprocessing_context="fork" if self.workers else None,
        )  # fmt: skip
        with own_words():
            for batch in loader:
                self.position += 1
                yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the position."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a position."""
        self.position = int(state["position"])


@contextmanager
def own_words() -> Iterator[None]:
    """Give a data worker's error its own message, of which torch makes the end of a printed traceback."""
    try:
        yield
    except (InputError, OSError) as error:
        kind, text = type(error), str(error)
        ends = [m.end() for m in re.finditer(rf"^(?:[\w.]+\.)?{kind.__name__}: ", text, re.MULTILINE)]
        if not text.startswith("Caught ") or not ends:
            raise
        raise kind(text[ends[-1] :].strip()) from error
