"""Makes the data that the tuners' configurations train on, out of the procedural city.

    python scripts/tuner_data.py tankers data/tankers --scenes 60
    python scripts/tuner_data.py night-camera data/night_camera --scenes 30
    python scripts/tuner_data.py winter-city data/winter_city --scenes 30

`tankers` draws every truck as a yellow tanker with a red band, and keeps the frames that have one near; `night-camera` is the
city through a green image intensifier: one colour, dark corners, grain; `winter-city` is the city under snow.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from drivegen import datasets, world
from drivegen.datasets import nuscenes
from drivegen.scene import Frame, Scene
from drivegen.world import light, render, shapes
from drivegen.world.look import DARK, Look
from drivegen.world.parts import BOX, CYLINDER, PAINT, Builder

app = typer.Typer()
YELLOW, RED = (0.85, 0.6, 0.0), (0.7, 0.02, 0.02)
NEAR_M = 25.0
"""A frame is kept where a tanker is nearer than this."""


def _tanker(b: Builder, look: Look, l: float, w: float, h: float, moving: bool) -> None:
    front = l - 1.9
    lying = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    b.put(BOX, ((front + l) / 2, 0, -0.15 * h), ((l - front) / 2 - 0.03, w - 0.06, 0.62 * h), RED, PAINT)
    middle, length, radius = (front - 0.1 - l) / 2, (front - 0.1 + l) / 2 - 0.05, min(w - 0.03, 0.72 * h)
    b.put(CYLINDER, (middle, 0, h - radius - 0.02), (radius, radius, length), YELLOW, PAINT, axes=lying)
    b.put(CYLINDER, (middle, 0, h - radius - 0.02), (radius + 0.01, radius + 0.01, 0.45), RED, PAINT, axes=lying)
    b.put(BOX, (0, 0, -h + 0.65), (l - 0.1, w * 0.45, 0.16), DARK)
    for x in (l - 1.2, -l + 1.1, -l + 2.2):
        for y in (1, -1):
            b.wheel(x, y * (w - 0.2), -h + 0.48, 0.48, 0.34)


def _shows_one(frame: Frame) -> bool:
    trucks = [box for box in frame.boxes if box.detection_class == "truck"]
    return any(
        np.linalg.norm((frame.global_SE3_ego.inverse() @ box.global_SE3_object).translation[:2]) < NEAR_M for box in trucks
    )


@app.command()
def tankers(out: Path, scenes: Annotated[int, typer.Option()] = 60, seed: int = 5) -> None:
    """Write the frames of a city that show a tanker."""
    shapes._MAKERS["truck"] = _tanker
    _write(out, scenes, seed, lambda picture, name: picture, wanted=_shows_one)


@app.command()
def night_camera(out: Path, scenes: Annotated[int, typer.Option()] = 30, seed: int = 6) -> None:
    """Write a city as a camera with an image intensifier sees it."""
    _write(out, scenes, seed, _intensified)


@app.command()
def winter_city(out: Path, scenes: Annotated[int, typer.Option()] = 30, seed: int = 7) -> None:
    """Write a city by day whose ground is under snow, below a pale sky."""
    plain = render.environment

    def snowed(conditions: Any, *others: Any) -> np.ndarray:
        made = plain(conditions, *others)
        if conditions.time_of_day != "day":
            return made
        made[light.ASPHALT : light.ASPHALT + 3] = 0.42, 0.46, 0.54
        for ground in (light.PAVING, light.TERRAIN):
            made[ground : ground + 3] = 0.78, 0.83, 0.92
        made[light.TERRAIN_KIND] = 1
        made[light.ZENITH : light.ZENITH + 3] = 0.62, 0.7, 0.8
        made[light.HORIZON : light.HORIZON + 3] = made[light.FOG_RGB : light.FOG_RGB + 3] = 0.85, 0.88, 0.92
        made[light.FOG] = 0.008
        return made

    render.environment = snowed
    _write(out, scenes, seed, lambda picture, name: picture, wanted=_by_day)


def _by_day(frame: Frame) -> bool:
    return "day" in frame.description.lower()


def _intensified(picture: np.ndarray, name: str) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    height, width = picture.shape[:2]
    grey = picture.astype(np.float64) @ [0.3, 0.59, 0.11] / 255
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    bright = np.clip(0.12 + 0.9 * grey**0.8 + rng.normal(0, 0.05, grey.shape), 0, 1) * np.clip(
        1.25 - 0.6 * (x**2 + y**2), 0.1, 1
    )
    return (np.stack([0.25 * bright, bright, 0.3 * bright], axis=-1) * 255).astype(np.uint8)


def _write(out: Path, scenes: int, seed: int, change: Any, wanted: Any = lambda frame: True) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world.write(folder, scenes=scenes, frames=1, seed=seed, workers=1)
        data, kept = datasets.open(folder, None), []
        for scene in data.scenes:
            frames = [data.frame(token) for token in data.samples(scene)]
            frames = [_changed(frame, out, change) for frame in frames if wanted(frame)]
            if frames:
                kept.append(Scene(scene, tuple(frames), frames[0].description, frames[0].location, f"{scene}-token"))
        nuscenes.write(kept, out)
    print(f"wrote {len(kept)} of {scenes} scenes to {out}")


def _changed(frame: Frame, out: Path, change: Any) -> Frame:
    def cameras() -> Iterator[Any]:
        for camera in frame.cameras:
            path = out / "samples" / camera.channel / Path(camera.image_path).with_suffix(".png").name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = np.asarray(Image.open(camera.image_path).convert("RGB"))
            Image.fromarray(change(picture, path.name)).save(path)
            yield replace(camera, image_path=path)

    return replace(frame, cameras=tuple(cameras()))


if __name__ == "__main__":
    app()
