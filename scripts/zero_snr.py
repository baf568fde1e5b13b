"""Draw what zero terminal SNR is for: a night and a bright day, begun at pure noise and begun where less than that is known.

    python scripts/zero_snr.py --out docs/images/zero_snr.jpg

The model was trained to the very end of the noise, so that every beginning can be compared with the same weights. A model whose
schedule ends earlier is given pure noise where it learned to find a trace of the picture, and takes the noise's mean for it:
here sampling begins at the noise level where such a schedule ends. Prints the mean brightness of the pictures as a table.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from common import Model, run
from PIL import Image

from drivegen import Pipeline, world
from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.scene import Frame
from drivegen.scene.pictures import load_image
from drivegen.sheet.canvas import rounded
from drivegen.sheet.colours import BACKGROUND, DIM
from drivegen.sheet.text import write
from drivegen.support.errors import InputError
from drivegen.world.dataset import render_frame

CITY = 31337
CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT")
SHOWN, STEPS = "CAM_FRONT", 10
GAP, LINE = 6, 22
BETAS = (0.00085, 0.012)
"""Of Stable Diffusion 1.5's schedule, scaled linear over 1000 timesteps."""


def main(
    model: Model = "tiny",
    scene: Annotated[list[int] | None, typer.Option(help=f"scenes of the city of seed {CITY}; default: a night, a day")] = None,
    out: Annotated[Path, typer.Option(help="JPEG file")] = Path("docs/images/zero_snr.jpg"),
    dtype: str = "auto",
    threads: int = 1,
) -> None:
    """Write the picture, and print the table."""
    torch.set_num_threads(threads)
    pipe = Pipeline.from_pretrained(model, dtype=dtype)
    ways = beginnings(NoiseSchedule.trained(pipe.host.backbone.scheduler))
    rows, table = [], []
    with tempfile.TemporaryDirectory() as folder:
        for index in scene or (1, 8):
            frame = rendered(index, pipe.model.image_size, Path(folder) / str(index))
            renders = {channel: load_image(frame.camera(channel)) for channel in frame.channels}
            made = {"render": renders}
            for name, settings in ways.items():
                made[name] = dict(pipe(frame, sampler="dpm++", seed=index, **settings).pictures())
            light = {name: brightness(pictures) for name, pictures in made.items()}
            title = frame.description.split(".")[0]
            table.append(f"| {title} | {' | '.join(f'{value:.0f}' for value in light.values())} |")
            rows.append((title, {name: (views[SHOWN], light[name]) for name, views in made.items()}))
    print("\n".join([f"| | {' | '.join(light)} |", f"|---|{'---|' * len(light)}", *table]))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows).save(out, quality=85, optimize=True, progressive=True)
    print(out)


def beginnings(own: NoiseSchedule) -> dict[str, dict[str, Any]]:
    """Name the ways to begin, and the settings of each; raises InputError unless the model's schedule ends at pure noise."""
    if own.terminal_snr != 0:
        raise InputError("the model's noise ends before pure noise; there is nothing to compare it with")
    betas = torch.linspace(*(math.sqrt(beta) for beta in BETAS), 1000, dtype=torch.float64).square()
    plain = (1 - betas).cumprod(0)

    def at(t: int) -> list[int]:
        first = int((own.alphas_cumprod.double() - plain[t]).abs().argmin())
        return [round(first - i * (first + 1) / STEPS) for i in range(STEPS)]

    last = [round(own.steps - 1 - i * own.steps / STEPS) for i in range(STEPS)]
    return {
        "pure noise": {"timesteps": last},
        "the end of Stable Diffusion's schedule": {"timesteps": at(999)},
        "its timestep 751": {"timesteps": at(751)},
        "pure noise, guidance not rescaled": {"timesteps": last, "guidance_rescale": 0.0},
    }


def rendered(index: int, size: tuple[int, int], root: Path) -> Frame:
    """Render the front of the first frame of a scene.

    Args:
        index: number of the scene.
        size: (height, width) of the pictures in pixels.
        root: folder of the pictures.
    """
    city = world.build(CITY, index, 1, size)
    frame = city.scene.frames[0]
    for channel in set(frame.channels) - set(CAMERAS):
        frame = frame.drop_camera(channel)
    return render_frame(city, frame, root)


def brightness(pictures: dict[str, Image.Image]) -> float:
    """Return the mean luma of pictures, from 0 to 255."""
    return float(np.mean([np.asarray(picture.convert("L"), dtype=np.float64).mean() for picture in pictures.values()]))


def sheet(rows: list[tuple[str, dict[str, tuple[Image.Image, float]]]]) -> Image.Image:
    """Draw a row per scene: the front view of each way, its name and the brightness of its views above it."""
    first = next(iter(rows[0][1].values()))[0]
    columns = len(rows[0][1])
    canvas = Image.new("RGB", (GAP + columns * (first.width + GAP), len(rows) * (LINE + first.height + GAP)), BACKGROUND)
    for r, (_, views) in enumerate(rows):
        top = r * (LINE + first.height + GAP)
        for c, (name, (picture, light)) in enumerate(views.items()):
            left = GAP + c * (first.width + GAP)
            write(canvas, (left, top + 4), f"{light:.0f}  {name}", 11, DIM, width=first.width)
            canvas.paste(picture, (left, top + LINE), rounded(first, 4))
    return canvas


if __name__ == "__main__":
    run(main)
