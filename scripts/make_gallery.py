"""Draw the pictures of docs/gallery.md: a scene with and without each condition of a model, and what the others prepare.

python scripts/make_gallery.py            every condition
python scripts/make_gallery.py bev_map    one
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import run
from PIL import Image

from drivegen import GenerationSettings, Pipeline, Views
from drivegen.catalog import registry
from drivegen.cli.generate import BUILT_IN
from drivegen.datasets import nuscenes
from drivegen.host import batch
from drivegen.host.host import Host
from drivegen.plugin import Plugin
from drivegen.scene import Frame
from drivegen.scene.pictures import load_image
from drivegen.sheet.canvas import rounded
from drivegen.sheet.colours import BACKGROUND, DIM
from drivegen.sheet.prepared import prepared_sheet
from drivegen.sheet.text import write
from drivegen.support.errors import InputError, nearest
from drivegen.testing import tiny_backbone

CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT")
GAP, LINE = 6, 22
NIGHT = "Night, clear. Two-way street in a suburb with parked cars."

OPTIONS: dict[str, dict[str, Any]] = {
    "controlnet": {"picture": "layout"},
    "t2i_adapter": {"picture": "depth"},
    "concat": {"picture": "pose"},
    "pose_weight": {"classes": {"pedestrian": 3.0}, "far": 0.5},
}
"""Of the conditions that the model does not have: the options that are shown."""

ELSEWHERE = {
    "guidance_embedding": "it reads no scene, so there is nothing to draw",
    "image_prompt": "scripts/make_recipes.py draws it, with a model that was trained with it",
    "picture_size": "it is for SDXL, and needs a model of that",
}
"""Conditions that need more than the scene."""


def main(
    kinds: Annotated[list[str] | None, typer.Argument(help="conditions to draw; all if left out")] = None,
    model: Annotated[str, typer.Option(help="'tiny' or a model folder")] = "tiny",
    out: Annotated[Path, typer.Option(help="folder of the pictures")] = Path("docs/images/gallery"),
    steps: Annotated[int | None, typer.Option(help="denoising steps; the model's own if left out")] = None,
) -> None:
    """Write a JPEG file for each condition."""
    pipe = Pipeline.from_pretrained(model)
    known = [kind for kind, entry in registry.kinds().items() if entry.target.startswith("drivegen_plugins.")]
    drawn = kinds or [kind for kind in known if kind not in ELSEWHERE]
    for kind in drawn:
        if kind not in known:
            raise InputError(f"{kind!r} is none of drivegen's conditions{nearest(kind, known)}")
        if kind in ELSEWHERE:
            raise InputError(f"{kind}: {ELSEWHERE[kind]}")
    height, width = pipe.model.image_size
    data = nuscenes.open(BUILT_IN)
    frame = data.frame(data.samples()[0]).resized(width, height)
    for channel in set(frame.channels) - set(CAMERAS):
        frame = frame.drop_camera(channel)
    out.mkdir(parents=True, exist_ok=True)
    present: dict[str | None, Views] = {}
    for kind in drawn:
        names = [name for name in pipe.host.plugins if type(pipe.host.plugin(name)) is registry.load(kind)]
        if names:
            # By day text changes little that map and boxes do not say already.
            prompt = NIGHT if pipe.host.plugin(names[0]).takes_prompt else None
            common = GenerationSettings(seed=0, steps=steps, prompt=prompt)
            if prompt not in present:
                present[prompt] = pipe(frame, common)
            null = pipe(frame, common.replaced(without=names[:1]))
            sheet = rows({f"with {kind}": present[prompt].pictures(), f"{kind} null": null.pictures()})
        else:
            sheet = prepared(kind, frame)
        sheet.save(out / f"{kind}.jpg", quality=82, optimize=True, progressive=True)
        print(out / f"{kind}.jpg")


def rows(pictures: dict[str, dict[str, Image.Image]]) -> Image.Image:
    """Draw a row of cameras for each title."""
    first = next(iter(pictures.values()))[CAMERAS[0]]
    width = GAP + len(CAMERAS) * (first.width + GAP)
    sheet = Image.new("RGB", (width, len(pictures) * (LINE + first.height + GAP)), BACKGROUND)
    for r, (title, by_camera) in enumerate(pictures.items()):
        top = r * (LINE + first.height + GAP)
        write(sheet, (GAP, top + 3), title, 14, DIM, width=width - 2 * GAP)
        for c, channel in enumerate(CAMERAS):
            sheet.paste(by_camera[channel], (GAP + c * (first.width + GAP), top + LINE), rounded(first, 4))
    return sheet


def prepared(kind: str, frame: Frame) -> Image.Image:
    """Draw what a condition that the model lacks prepares, over the recorded pictures."""
    plugin: Plugin = registry.load(kind)(**OPTIONS.get(kind, {}))
    Host(tiny_backbone(vae_factor=8), {kind: plugin})  # what is prepared may depend on the VAE's factor, and on no weights
    arrays = batch.prepare(frame, {kind: plugin})[kind]
    drawn = {name: in_colour(array) for name, array in arrays.items() if not name.startswith("null_")}
    sheet = prepared_sheet([load_image(camera) for camera in frame.cameras], drawn)
    if sheet is None:
        raise InputError(f"{kind} prepares no pictures; say in scripts/make_gallery.py how it is shown")
    return sheet


def in_colour(array: np.ndarray) -> np.ndarray:
    """Return pictures (V, 3, H, W) from 0 to 1 or -1 to 1 as bytes, other arrays as they are."""
    if array.ndim != 4 or array.shape[1] != 3 or array.dtype.kind != "f":
        return array
    low = -1.0 if array.min() < 0 else 0.0
    return ((array - low) / (1.0 - low) * 255).round().clip(0, 255).astype(np.uint8)


if __name__ == "__main__":
    run(main)
