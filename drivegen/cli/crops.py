"""`drivegen crops`: objects cut out of a dataset's recorded frames."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from drivegen import crops, datasets
from drivegen.cli.screen import Screen
from drivegen.support.errors import InputError
from drivegen.support.progress import progress


def cut(root: Path, out: Path, wanted: crops.Wanted, version: str | None, num: int | None, screen: Screen) -> None:
    """Find the objects, largest first where not all are taken, and write them.

    Args:
        root: the dataset.
        out: a new or empty folder.
        wanted: which objects.
        version: of the dataset, where it has several.
        num: at most so many; None takes all.
        screen: where it is said what was done.

    Raises InputError where nothing is found.
    """
    source = datasets.open(root, version)
    tokens = source.samples()
    found: list[crops.Crop] = []
    there: Counter[str] = Counter()
    with progress("looking", len(tokens), "frames") as advance:
        for token in tokens:
            frame = source.frame(token)
            there.update(box.detection_class or box.category for box in frame.boxes)
            found += crops.find(frame, wanted)
            advance()
    if not found:
        asked = ", ".join(wanted.categories)
        if not any(there):
            raise InputError(f"{root} has no boxes, so that nothing can be cut out")
        listed = ", ".join(f"{name} ({count})" for name, count in there.most_common(12))
        raise InputError(
            f"no object of {asked} in {root} is as large and as visible as asked (least_px {wanted.least_px:g}, visible "
            f"{wanted.visible:g}); its boxes are of {listed}"
        )
    if num is not None and len(found) > num:
        largest = sorted(found, key=lambda crop: crop.visible * _area(crop), reverse=True)[:num]
        found = [crop for crop in found if any(crop is one for one in largest)]
    with progress("cutting", len(found), "pictures") as advance:
        crops.write(found, out, advance)
    objects = len({crop.box.instance or id(crop.box) for crop in found})
    height, width = wanted.size
    screen.line(f"{len(found)} pictures of {objects} objects, {height}x{width}, in {out}; {crops.TABLE} says what each shows")


def _area(crop: crops.Crop) -> float:
    left, top, right, bottom = crop.rectangle
    return (right - left) * (bottom - top)
