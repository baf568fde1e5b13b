"""How well `drivegen edit` does, judged against the procedural city's own picture of each edited scene.

    python scripts/measure_edit.py tiny --out out/edit --cases 12

Unseen scenes are edited in turn by removing a vehicle, inserting one, moving one, putting another class in its place. What the
model draws within the masks is read by the referee, beside what it draws there when it generates the whole edited frame, and
beside the city's own picture; outside of the masks nothing may differ; along their edges the step between pixels is compared
with that of the city's own pictures, before and after. Cases that are in OUT already are not run again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from drivegen import Pipeline, world
from drivegen.edit import Edited, Edits, Insert, Move, Replace, edit
from drivegen.edit.paint import planned
from drivegen.evaluate.referee import GROUP_OF_CLASS, VEHICLE_GROUP, load
from drivegen.pipeline.views import save_png
from drivegen.scene import Frame
from drivegen.support.errors import InputError
from drivegen.support.files import write_json
from drivegen.world.dataset import render_frame
from scripts.common import UNSEEN, Model, Seed, Steps, run

Row = dict[str, object]

LEAST_PX = 150
"""Of a vehicle that is edited so many pixels are seen, at the city's 128 x 224."""

PLACES = ((12.0, -3.5, 0.0), (14.0, 0.0, 0.0), (-12.0, 0.0, 0.0), (16.0, 3.5, 180.0), (-14.0, 3.5, 180.0), (20.0, 0.0, 0.0))
"""Where a vehicle is inserted: the first place that is free; ahead and left in metres, degrees."""


def edits_of(frame: Frame, kind: str) -> Iterator[Edits]:
    """Give edits of a kind, the most visible vehicle's first."""
    if kind == "insert":
        yield from (Edits(insert=(Insert(name, *place),)) for place in PLACES for name in ("car", "truck"))
        return
    ego = frame.global_SE3_ego.translation
    boxes = [box for box in frame.boxes if box.detection_class in ("car", "truck", "bus")]
    for box in sorted(boxes, key=lambda box: float(np.linalg.norm(box.global_SE3_object.translation - ego))):
        if kind == "remove":
            yield Edits(remove=(box.instance,))
        elif kind == "replace":
            yield Edits(replace=(Replace(box.instance, "car" if box.detection_class != "car" else "truck"),))
        else:
            yield from (
                Edits(move=(Move(box.instance, dx, dy, 0),)) for dx, dy in ((4.0, 0.0), (-4.0, 0.0), (0.0, 2.5), (0, -2.5))
            )


def chosen(frame: Frame, kind: str) -> Edits | None:
    """Return the first edit that fits and is seen well enough."""
    for edits in edits_of(frame, kind):
        try:
            _, areas = planned(frame, edits)
        except InputError:
            continue
        if sum(area.seen for area in areas.values()) >= LEAST_PX:
            return edits
    return None


def edge_step(picture: NDArray[np.uint8], alpha: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (sum, number) of the grey steps between neighbouring pixels of which one is drawn anew and one recorded."""
    grey, inside = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float64), alpha > 0
    across = inside[:, 1:] != inside[:, :-1]
    down = inside[1:] != inside[:-1]
    steps = np.concatenate([np.abs(np.diff(grey, axis=1))[across], np.abs(np.diff(grey, axis=0))[down]])
    return np.array([steps.sum(), len(steps)])


def case(pipe: Pipeline, frame: Frame, city: world.CityScene, edits: Edits, steps: int | None) -> tuple[Row, Edited]:
    """Edit a frame, and compare; counts are summed over its views."""
    done = edit(pipe, frame, edits, seed=1, steps=steps)
    whole = pipe(done.frame, seed=1, steps=steps)
    referee = load()
    seen = [channel for channel, area in done.areas.items() if area.bounds is not None]
    true = {channel: city.render(done.frame, channel) for channel in seen}
    pictures = {
        "edited": [np.asarray(done.after[c]) for c in seen], "generated": [np.asarray(whole[c]) for c in seen],
        "city": [true[c].rgb for c in seen], "recorded": [np.asarray(done.before[c]) for c in seen],
    }  # fmt: skip
    masks = [done.areas[c].alpha for c in seen]
    row: Row = {}
    for name, shown in pictures.items():
        counts = np.zeros(2)
        for groups, channel, alpha in zip(referee(shown).groups, seen, masks, strict=True):
            inside = alpha > 0.5
            own, right = (groups == VEHICLE_GROUP)[inside], (GROUP_OF_CLASS[true[channel].classes] == VEHICLE_GROUP)[inside]
            counts += ((own & right).sum(), (own | right).sum())
        row[name] = counts.tolist()
        row[f"{name} edge"] = np.sum([edge_step(p, a) for p, a in zip(shown, masks, strict=True)], axis=0).tolist()
    outside = [
        np.square(np.asarray(done.after[c]).astype(float) - np.asarray(done.before[c]))[area.alpha == 0].sum()
        for c, area in done.areas.items()
    ]
    row["squared error outside"] = float(np.sum(outside))
    return row, done


def main(
    model: Model,
    out: Annotated[Path, typer.Option(help="folder for cases, sheets and the table")],
    cases: Annotated[int, typer.Option(help="number of edits")] = 12,
    seed: Seed = UNSEEN,
    steps: Steps = None,
    most: Annotated[int | None, typer.Option(help="run at most so many now")] = None,
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    pipe, ran = None, 0
    kinds = ("remove", "insert", "move", "replace")
    for index in range(cases):
        kind, file = kinds[index % len(kinds)], out / f"{index:03}.json"
        if file.exists() or (most is not None and ran >= most):
            continue
        pipe = pipe or Pipeline.from_pretrained(model, dtype="float32")
        city = world.build(seed, index // len(kinds), 1, pipe.model.image_size)
        frame = render_frame(city, city.scene.frames[0], out / "city")
        edits = chosen(frame, kind)
        ran += 1
        if edits is None:
            write_json(file, {"kind": kind, "skipped": True})
            continue
        row, done = case(pipe, frame, city, edits, steps)
        save_png(done.sheet(), out / f"{index:03}.png")
        for channel, area in done.areas.items():
            if area.bounds is not None:
                save_png(Image.fromarray(city.render(done.frame, channel).rgb), out / f"{index:03}_{channel}_city.png")
        write_json(file, {"kind": kind, "seed": seed, "steps": steps, **row})
        print(table([json.loads(f.read_text()) for f in sorted(out.glob("[0-9]*.json"))]))


def table(rows: list[Row]) -> str:
    """Write the figures per kind of edit, and of all."""
    rows = [row for row in rows if not row.get("skipped")]
    lines = [
        "| edit | cases | vehicle IoU in the mask: edited | generated | city's own picture | recorded | edited / generated "
        "| edge: edited / both pictures' own | PSNR outside |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in (*dict.fromkeys(str(row["kind"]) for row in rows), "all"):
        own = [row for row in rows if kind in (row["kind"], "all")]
        iou = {n: _ratio(own, n) for n in ("edited", "generated", "city", "recorded")}
        edge = _ratio(own, "edited edge") / np.mean([_ratio(own, f"{name} edge") for name in ("city", "recorded")])
        exact = all(row["squared error outside"] == 0 for row in own)
        figures = " | ".join(f"{value:.2f}" for value in (*iou.values(), iou["edited"] / iou["generated"], edge))
        lines.append(f"| {kind} | {len(own)} | {figures} | {'∞' if exact else 'finite'} |")
    return "\n".join(lines)


def _ratio(rows: list[Row], name: str) -> float:
    total = np.sum([row[name] for row in rows], axis=0)
    return float(total[0] / total[1]) if total[1] else float("nan")


if __name__ == "__main__":
    run(main)
