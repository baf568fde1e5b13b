"""The order of frames in batches: a function of (seed, epoch), so that a run can be resumed at any position."""

from __future__ import annotations

import multiprocessing
import pickle
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from drivegen.support.errors import CannotGoOn, InputError


class Order:
    """Batches of equal view count and size; a batch has as many scenes as fit into `images` images, and at least one.

    Every frame comes once per epoch; batches that cannot be split evenly between processes wait for another epoch.

    Args:
        views: number of views of each frame.
        images: most images of a batch.
        seed: of the order.
        rank: which process this is.
        world: number of processes, between which an epoch's batches are split evenly.
        sizes: (height, width) of each frame's pictures; None = all are of one.
    """

    def __init__(
        self, views: Sequence[int], images: int, seed: int, rank: int = 0, world: int = 1,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> None:  # fmt: skip
        self.views, self.images, self.seed, self.rank, self.world = np.asarray(views), images, seed, rank, world
        alike = [(count, *size) for count, size in zip(views, sizes or [(0, 0)] * len(views), strict=True)]
        self._rigs = sorted(set(alike))
        number = {rig: i for i, rig in enumerate(self._rigs)}
        self._rig = np.array([number[rig] for rig in alike])
        batches = len(self._epoch(0))
        if batches < world:
            raise InputError(
                f"{len(self.views)} frames make {batches} batches of up to {images} images, too few for {world} processes;"
                " lower train.images, or take fewer processes"
            )
        self.per_epoch = max(1, batches // world)
        self._last: tuple[int, list[list[int]]] | None = None

    def _epoch(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.views))
        batches = []
        for rig, (count, *_) in enumerate(self._rigs):
            chosen = order[self._rig[order] == rig]
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


class Balanced(Order):
    """Batches with as many frames of each of two kinds, or more; kinds with fewer frames come more than once per epoch.

    Frames of a view count and size that a kind lacks come in batches of their own.

    Args:
        views: number of views of each frame.
        kinds: of which kind each frame is; bools, or numbers.
        images: most images of a batch, which holds a frame of each kind at least.
        seed: of the order.
        rank: which process this is.
        world: number of processes.
        sizes: (height, width) of each frame's pictures; None = all are of one.
    """

    def __init__(
        self, views: Sequence[int], kinds: Sequence[int], images: int, seed: int, rank: int = 0, world: int = 1,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> None:  # fmt: skip
        self.kinds = np.asarray(kinds)
        super().__init__(views, images, seed, rank, world, sizes)

    def _epoch(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng([self.seed, epoch])
        batches = []
        for rig, (count, *_) in enumerate(self._rigs):
            kinds = [np.flatnonzero((self._rig == rig) & (self.kinds == kind)) for kind in np.unique(self.kinds)]
            if any(len(kind) == 0 for kind in kinds):  # of a rig that the other kind does not have
                alone, size = rng.permutation(np.concatenate(kinds)), max(1, self.images // int(count))
                batches += [alone[i : i + size].tolist() for i in range(0, len(alone), size)]
                continue
            share = max(1, self.images // int(count) // len(kinds))
            whole = -(-max(map(len, kinds)) // share) * share
            drawn = [np.concatenate([rng.permutation(kind) for _ in range(-(-whole // len(kind)))])[:whole] for kind in kinds]
            batches += [np.concatenate([kind[i : i + share] for kind in drawn]).tolist() for i in range(0, whole, share)]
        return [batches[i] for i in rng.permutation(len(batches))]


class Loader:
    """A DataLoader over an `Order` whose `state_dict` is its position: a restored one continues there without reading what came
    before.

    Args:
        dataset: where the items are.
        order: their order.
        collate: makes a batch of a list of items.
        workers: processes that read items; 0 = this one.
        length: number of batches of the whole run; None = one pass over the data.
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
        for batch in _read(self.dataset, _Batches(self.order, self.position, end), self.collate, self.workers):
            self.position += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the position."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a position."""
        self.position = int(state["position"])


class InTurn:
    """Items one by one, from the first at every pass; the result depends on no batch size and no seed.

    Args:
        dataset: where the items are.
        collate: makes a batch of a list of one.
        workers: processes that read items; 0 = this one.
        rank: which process this is.
        world: number of processes, of which each takes its share.
    """

    def __init__(
        self, dataset: Any, collate: Callable[[list[Any]], Any], workers: int = 0, rank: int = 0, world: int = 1
    ) -> None:  # fmt: skip
        self.dataset, self.collate, self.workers = dataset, collate, workers
        self.indices = range(rank, len(dataset), world)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Any]:
        return _read(self.dataset, [[index] for index in self.indices], self.collate, self.workers)


class _Batches:
    """The batches of an order from one position to another, made when they are asked for: a run may have millions."""

    def __init__(self, order: Order, start: int, end: int) -> None:
        self.order, self.start, self.end = order, start, end

    def __len__(self) -> int:
        return max(0, self.end - self.start)

    def __iter__(self) -> Iterator[list[int]]:
        return (self.order.batch(i) for i in range(self.start, self.end))


def _read(dataset: Any, batches: Any, collate: Callable[[list[Any]], Any], workers: int) -> Iterator[Any]:
    """Read batches of indices; a generator of its own seeds the workers, so that reading draws nothing from torch's."""
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_sampler=batches, collate_fn=collate, num_workers=workers, generator=torch.Generator().manual_seed(0),
        multiprocessing_context="fork" if workers else None,
    )  # fmt: skip
    with own_words(workers):
        yield from loader


def spread(items: Sequence[Any], count: int | None) -> list[Any]:
    """Return at most `count` items at equal distances; None = all."""
    count = len(items) if count is None else min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


@contextmanager
def own_words(workers: int) -> Iterator[None]:
    """Raise a data worker's error with its own message; torch would append it to a printed traceback.

    Args:
        workers: how many there are; without any, an error is the reading's own.
    """
    others = set(multiprocessing.active_children())
    try:
        try:
            yield
        except (InputError, OSError, EOFError, pickle.UnpicklingError) as error:
            kind, text = type(error), str(error)
            if workers and _is_of_a_lost_worker(error):
                _wait_until_gone(workers, others)
                raise _killed(f"DataLoader worker was ended from outside ({text or kind.__name__})") from error
            ends = [m.end() for m in re.finditer(rf"^(?:[\w.]+\.)?{kind.__name__}: ", text, re.MULTILINE)]
            if not text.startswith("Caught ") or not ends:
                raise
            raise kind(text[ends[-1] :].strip()) from error
    except RuntimeError as error:
        if (told := explained(error)) is None:
            raise
        raise told from error


def _wait_until_gone(workers: int, others: set[Any]) -> None:
    """Wait until a lost worker has ended and its end is taken note of.

    Its pipe breaks before it has ended; torch's signal handler would raise once more after that, in whatever runs then.
    """
    end = time.monotonic() + 5
    while len(set(multiprocessing.active_children()) - others) >= workers and time.monotonic() < end:
        time.sleep(0.01)


def _is_of_a_lost_worker(error: BaseException) -> bool:
    """Say whether a worker ended while its batch was handed over: the pipe or the socket between the two breaks first.

    Otherwise torch's signal handler says that the worker is gone; which of the two comes first is chance.
    """
    if str(error).startswith("Caught ") or getattr(error, "filename", None) is not None:
        return False
    if isinstance(error, (ConnectionError, FileNotFoundError, EOFError, pickle.UnpicklingError)):
        return True
    return isinstance(error, OSError) and error.errno is None and "end of file" in str(error)


def _killed(what: str) -> CannotGoOn:
    return CannotGoOn(
        f"{what}; the last checkpoint is kept; with less memory in use, such as fewer data.workers, go on from it"
    )


def explained(error: BaseException) -> CannotGoOn | None:
    """Describe a data worker that was killed, or a lack of memory, in a sentence; None for any other error."""
    if isinstance(error, CannotGoOn):  # which is a sentence already
        return None
    line = str(error).strip().split("\n")[0].rstrip(". ")
    if line.startswith("DataLoader worker (pid"):
        return _killed(line)
    if line.endswith("items of ancdata"):  # torch's words where a file that a worker passes on does not arrive
        return _killed(f"DataLoader worker could not hand over a batch ({line}): it was ended, or too many files are open")
    if any(words in str(error) for words in ("Connection closed by peer", "Connection reset by peer", "Broken pipe")):
        return CannotGoOn("another process of this run has ended, and says why; the last checkpoint is kept")
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in line:
        return CannotGoOn(
            f"memory ran out ({line or 'MemoryError'}); lower train.images or set train.gradient_checkpointing: true"
        )
    return None
