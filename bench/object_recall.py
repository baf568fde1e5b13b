"""How much of each object there is in generated pictures, by distance and size: what the referee finds, and what stands out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from drivegen.evaluate.images import Images
from drivegen.evaluate.metrics.scores import Estimate, bootstrap, ratio
from drivegen.evaluate.referee import GROUPS, VEHICLE_GROUP
from drivegen.scene import Frame
from drivegen.world import CLASSES, VEHICLES, View

RIM_PX = 2
"""Width of what an object is compared with."""

LEAST_PX = 6
"""Objects of which fewer pixels are seen do not count."""

PEDESTRIAN_GROUP = GROUPS.index("pedestrian")


@dataclass(frozen=True)
class Seen:
    """An object in one view: its scene, group (index into GROUPS), distance, the side of a square of as many pixels as are seen
    of it, the share of them that the referee gives to its group, and that of the places beside it that stand out less.
    """

    scene: int
    group: int
    distance_m: float
    side_px: float
    found: float
    stands_out: float


def seen_objects(
    scene: int, frame: Frame, truth: Mapping[str, View], pictures: Images, labels: Mapping[str, NDArray[np.uint8]]
) -> list[Seen]:
    """List the vehicles and pedestrians of a frame's views.

    Args:
        scene: number of the scene.
        frame: as it is read from the dataset.
        truth: renders by camera channel, whose instances count the frame's boxes.
        pictures: what is judged.
        labels: the referee's label images (H, W) of them.
    """
    found = []
    for channel, view in truth.items():
        camera, taken = frame.camera(channel), view.instances > 0
        for number in np.unique(view.instances[taken]).tolist():
            mask = view.instances == number
            kind = int(np.bincount(view.classes[mask]).argmax())
            group = VEHICLE_GROUP if kind in VEHICLES else PEDESTRIAN_GROUP if CLASSES[kind] == "pedestrian" else None
            if group is None or mask.sum() < LEAST_PX:
                continue
            away = frame.boxes[number - 1].global_SE3_object.translation - camera.global_SE3_camera.translation
            share = float((labels[channel][mask] == group).mean())
            beside = stands_out(mask, taken, pictures[channel])
            found.append(Seen(scene, group, float(np.linalg.norm(away)), float(np.sqrt(mask.sum())), share, beside))
    return found


@dataclass(frozen=True)
class Bin:
    """A row of the table: its heading, the objects' group, and which of their measures lies from low to below high."""

    title: str
    group: int
    measure: Literal["distance_m", "side_px"] = "distance_m"
    low: float = 0.0
    high: float = math.inf

    def holds(self, one: Seen) -> bool:
        """Tell whether an object is in it."""
        return one.group == self.group and self.low <= getattr(one, self.measure) < self.high


def bins() -> list[Bin]:
    """Vehicles and pedestrians, all and by distance and size."""
    made = []
    edges = (("vehicles", VEHICLE_GROUP, 20, 40, 8, 16), ("pedestrians", PEDESTRIAN_GROUP, 12, 24, 5, 9))
    for name, group, near, far, small, large in edges:
        made += [
            Bin(name, group),
            Bin(f"{name} nearer than {near} m", group, high=near),
            Bin(f"… {near} to {far} m", group, low=near, high=far),
            Bin("… further", group, low=far),
            Bin(f"{name} of {large}² pixels and more", group, "side_px", low=large),
            Bin(f"… {small}² to {large}²", group, "side_px", small, large),
            Bin("… smaller", group, "side_px", high=small),
        ]
    return made


def mean_over(objects: Iterable[Seen], what: Literal["found", "stands_out"], scenes: int) -> Estimate:
    """Average a share over objects, with a 95 % interval over scenes; NaN ones are left out.

    Args:
        objects: of one bin.
        what: which share.
        scenes: how many there are.
    """
    sums = np.zeros((scenes, 2))
    for each in objects:
        value = getattr(each, what)
        if math.isfinite(value):
            sums[each.scene] += (value, 1.0)
    return bootstrap(sums, ratio)


def table(columns: Mapping[str, Sequence[Sequence[Seen]]], scenes: int, pair: tuple[str, str]) -> str:
    """Write shares per bin in Markdown: a column's mean over its runs, and its least and greatest run where there are several.

    The embedded referee hardly finds pedestrians in renders, so of these it is also said how often they stand out.

    Args:
        columns: objects of each run, by the column's heading; every run has the same objects.
        scenes: how many there are.
        pair: two columns; the last column has the second's runs less the first's, seed by seed.
    """
    both = [f"{pair[1]} less {pair[0]}"] if all(name in columns for name in pair) else []
    heads = [*columns, *both]
    lines = [f"| share of pixels found | objects | {' | '.join(heads)} |", "|---" * (2 + len(heads)) + "|"]
    rows: list[tuple[Bin, Literal["found", "stands_out"], str]] = [(row, "found", row.title) for row in bins()]
    rows += [(row, "stands_out", f"{row.title}: stand out") for row in bins() if row.group == PEDESTRIAN_GROUP]
    for row, what, title in rows:
        count = sum(row.holds(o) and math.isfinite(getattr(o, what)) for o in next(iter(columns.values()))[0])
        means = {
            name: [mean_over(filter(row.holds, run), what, scenes).value for run in runs] for name, runs in columns.items()
        }
        cells = [spread(values) for values in means.values()]
        if both:
            cells.append(spread([b - a for a, b in zip(means[pair[0]], means[pair[1]], strict=False)], "+.3f"))
        lines.append(f"| {title} | {count} | {' | '.join(cells if count else ['–'] * len(cells))} |")
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """Write the mean of runs, and the least and the greatest in brackets where there are several; form is of the numbers."""
    mean = format(float(np.mean(values)), form)
    return f"{mean} ({min(values):{form}} to {max(values):{form}})" if len(values) > 1 else mean


def stands_out(mask: NDArray[np.bool_], taken: NDArray[np.bool_], picture: NDArray[np.uint8]) -> float:
    """Compare an object's contrast with that of places beside it: the share of them that it exceeds; chance is a half.

    Contrast is the distance of the mean colours within the mask and in a rim of RIM_PX about it. The places are the mask
    shifted to either side by one to four widths, where no object is. NaN where there is no such place.

    Args:
        mask: (H, W) where the object is seen.
        taken: (H, W) where any object is.
        picture: (H, W, 3).
    """
    ground = picture.astype(np.float64)
    rim = cv2.dilate(mask.astype(np.uint8), np.ones((2 * RIM_PX + 1,) * 2, np.uint8)).astype(bool) & ~mask
    columns = np.flatnonzero(mask.any(0))
    width = int(columns[-1] - columns[0]) + 1

    def contrast(step: int) -> float:
        inner, outer = (_shifted(each, step) for each in (mask, rim))
        outer &= ~taken | _shifted(mask, step)
        if inner.sum() != mask.sum() or outer.sum() < rim.sum() / 2:
            return math.nan
        return float(np.linalg.norm(ground[inner].mean(0) - ground[outer].mean(0)))

    own = contrast(0)
    steps = [sign * times * width for times in (1, 2, 3, 4) for sign in (-1, 1)]
    beside = [contrast(step) for step in steps if not (_shifted(mask, step) & taken).any()]
    known = [value for value in beside if math.isfinite(value)]
    return float(np.mean([own > value for value in known])) if known and math.isfinite(own) else math.nan


def _shifted(mask: NDArray[np.bool_], step: int) -> NDArray[np.bool_]:
    """Move a mask by columns to the right; what leaves the picture is lost."""
    out = np.zeros_like(mask)
    width = mask.shape[1]
    if abs(step) < width:
        out[:, max(step, 0) : width + min(step, 0)] = mask[:, max(-step, 0) : width - max(step, 0)]
    return out


def precision_sums(truth: Mapping[str, View], labels: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Count [right, said]: pixels that the referee gives to vehicles and that are of one, and all that it gives to them.

    Args:
        truth: renders by camera channel.
        labels: the referee's label images (H, W) by camera channel.
    """
    sums = np.zeros(2)
    for channel, view in truth.items():
        said = labels[channel] == VEHICLE_GROUP
        sums += [(said & np.isin(view.classes, list(VEHICLES))).sum(), said.sum()]
    return sums
