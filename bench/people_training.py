"""Training of the referee of people: renders cut about people, who are few and small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from drivegen.evaluate.metrics.people import SIZE_NAMES, Person, people_in
from drivegen.evaluate.people import PeopleNet, PeopleReferee, people_mask
from drivegen.support.progress import track

CUT = (64, 80)
"""(height, width) in pixels of what is cut from each picture."""

ABOUT_PEOPLE = 0.7
"""How often a picture with people in it is cut about one of their pixels, and not anywhere."""

WEIGHT = 6.0
"""Of a person's pixels; all others count 1."""


@dataclass(frozen=True, eq=False)
class PeopleLesson:
    """Pictures of the city: images (N, H, W, 3) uint8, and masks (N, H, W) of the people in them."""

    images: NDArray[np.uint8]
    masks: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.images)

    def make(self) -> nn.Module:
        """Make the network, `Lesson.make`."""
        return PeopleNet()

    def draw(self, chosen: NDArray[np.int64], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Cut pictures and labels, `Lesson.draw`."""
        height, width = (min(cut, side) for cut, side in zip(CUT, self.images.shape[1:3], strict=True))
        images, masks = [], []
        for i in chosen:
            about, down, across, which = torch.rand(4, generator=generator).tolist()
            rows, columns = np.nonzero(self.masks[i])
            y, x = down * (self.images.shape[1] - height), across * (self.images.shape[2] - width)
            if len(rows) and about < ABOUT_PEOPLE:
                place = int(which * len(rows))
                y, x = rows[place] - down * height, columns[place] - across * width
            top = int(np.clip(y, 0, self.images.shape[1] - height))
            left = int(np.clip(x, 0, self.images.shape[2] - width))
            images.append(self.images[i, top : top + height, left : left + width])
            masks.append(self.masks[i, top : top + height, left : left + width].astype(np.uint8))
        return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks))

    def loss(self, said: Tensor, labels: Tensor, chosen: NDArray[np.int64]) -> Tensor:
        """Compute the loss, `Lesson.loss`.

        Args:
            said: the network's output.
            labels: of `draw`.
            chosen: indices of the pictures.
        """
        return F.cross_entropy(said.float(), labels.long(), torch.tensor([1.0, WEIGHT]))


@dataclass(frozen=True, eq=False)
class Held:
    """Pictures to check on, and who is in each of them."""

    pictures: PeopleLesson
    people: Sequence[Sequence[Person]]


def read(roots: Sequence[Path]) -> Held:
    """Read every picture of datasets that `drivegen world` wrote."""
    from drivegen import world
    from drivegen.datasets import nuscenes

    images, masks, people = [], [], []
    for root in roots:
        dataset = nuscenes.open(root)
        for token in track(dataset.samples(), f"reading {root}"):
            frame = dataset.frame(token)
            for channel in frame.channels:
                view = world.truth(root, frame, channel)
                images.append(view.rgb)
                masks.append(people_mask(frame, view))
                people.append(people_in(frame, view))
    return Held(PeopleLesson(np.stack(images), np.stack(masks)), people)


def check(referee: PeopleReferee, held: Held) -> dict[str, Any]:
    """Measure on held-out renders: IoU and precision of a person's pixels, the share of people that are found, by size."""
    said = np.concatenate([referee(held.pictures.images[i : i + 32]) for i in range(0, len(held.pictures), 32)])
    true = held.pictures.masks
    hit = float((said & true).sum())
    counts: dict[str, list[int]] = {name: [0, 0] for name in ("all", *SIZE_NAMES)}
    for mask, people in zip(said, held.people, strict=True):
        for person in people:
            for name in ("all", person.size_name):
                counts[name][0] += person.found_in(mask)
                counts[name][1] += 1
    return {
        "iou": round(hit / max(1, int((said | true).sum())), 4),
        "precision": round(hit / max(1, int(said.sum())), 4),
        "recall_of_people": {name: [found, of] for name, (found, of) in counts.items()},
    }
