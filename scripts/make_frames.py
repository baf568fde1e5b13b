"""Draw frames of the city as a model generates them, beside their renders: the first ones of a city, none of them selected.

    python scripts/make_frames.py runs/tiny/model --out out/frames
    python scripts/make_frames.py --measured out/measure --out out/frames

The city is one that no model was trained on. Generated pictures are kept below --work, so that an interrupted run goes on, and
several processes may be begun. With --measured nothing is generated: the pictures are those of scripts/measure_model.py, the
first frame of each scene in order, then the second ones.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from common import Steps, run
from PIL import Image

from drivegen.support.errors import InputError
from drivegen.support.files import write_atomically

if TYPE_CHECKING:
    from drivegen.evaluate.cities import City
    from drivegen.evaluate.images import Store

SEED = 73_024
GAP, LINE = 4, 20
VIEW_PX = 168
"""Width of a view on the page."""

QUALITY = 72


def main(
    model: Annotated[str, typer.Argument(help="'tiny' or a model folder")] = "tiny",
    frames: Annotated[int, typer.Option(help="how many, each of a scene of its own")] = 24,
    each: Annotated[int, typer.Option(help="frames per picture")] = 6,
    seed: Annotated[int, typer.Option(help="seed of the city")] = SEED,
    out: Annotated[Path, typer.Option(help="folder of the pictures")] = Path("docs/images/frames"),
    work: Annotated[Path, typer.Option(help="what an interrupted run goes on from")] = Path("out/frames"),
    measured: Annotated[Path | None, typer.Option(help="--out of scripts/measure_model.py, whose pictures are drawn")] = None,
    steps: Steps = None,
    dtype: str = "auto",
    threads: Annotated[int, typer.Option(help="0: as many as torch takes")] = 0,
) -> None:
    """Write a JPEG file for so many frames each."""
    if frames < 1 or each < 1 or seed < 0:
        raise InputError(f"--frames {frames}, --each {each} must be 1 or more, --seed {seed} 0 or more")
    if threads:
        torch.set_num_threads(threads)
    city, store = _generated(model, frames, seed, work, steps, dtype) if measured is None else _measured(measured)
    blocks = []
    for key, frame in sorted(city.frames.items(), key=lambda item: (item[0].frame, item[0].scene))[:frames]:
        if not store.has("all", key.name, frame):
            raise InputError(f"{store.root} has no pictures of frame {key.name}; measure with --only all first")
        renders = {channel: Image.fromarray(city.view(key, channel).rgb) for channel in frame.channels}
        made = {channel: Image.fromarray(array) for channel, array in store.load("all", key.name, frame).items()}
        blocks.append(block(frame.description, [renders, made]))
    if len(blocks) < frames:
        raise InputError(f"{city.root} has {len(blocks)} frames, and --frames asks for {frames}")
    out.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(_parts(blocks, each), 1):
        buffer = io.BytesIO()
        column(part).save(buffer, format="JPEG", quality=QUALITY, optimize=True, progressive=True)
        write_atomically(out / f"{number}.jpg", buffer.getvalue())
        print(out / f"{number}.jpg", f"{len(buffer.getvalue()) / 1e3:.0f} kB")


def _generated(model: str, frames: int, seed: int, work: Path, steps: int | None, dtype: str) -> tuple[City, Store]:
    """Generate the first frame of so many scenes, where it is not there yet."""
    from drivegen.evaluate.cities import plain_city
    from drivegen.evaluate.images import Job, Store, generate
    from drivegen.evaluate.measure import fingerprint
    from drivegen.evaluate.variants import noise_seed
    from drivegen.pipeline.pipeline import Pipeline
    from drivegen.support.progress import progress

    pipe = Pipeline.from_pretrained(model, dtype=dtype)
    store = Store(work / "images")
    said = str(pipe.dtype).removeprefix("torch.")
    store.bind({"weights": fingerprint(pipe.model), "city_seed": seed, "scenes": frames, "steps": steps, "dtype": said})
    city = plain_city(work / "city", frames, 1, seed, pipe.model.image_size)
    jobs = [Job("all", key.name, frame, noise_seed(seed, key)) for key, frame in sorted(city.frames.items())]
    with progress("generating", len(jobs), "frames") as advance:
        for _ in generate(pipe, jobs, store, steps):
            advance()
    return city, store


def _measured(folder: Path) -> tuple[City, Store]:
    """Open what a measurement left."""
    from drivegen.evaluate.cities import open_city
    from drivegen.evaluate.images import Store
    from drivegen.support.weights import read_object

    settings = read_object(folder / "images" / "settings.json")
    return open_city(folder / "city", int(settings["scenes"]), int(settings["frames_a_scene"])), Store(folder / "images")


def block(title: str, rows: Sequence[Mapping[str, Image.Image]]) -> Image.Image:
    """Draw a frame: its title, and a row of all cameras for each set of pictures, in one order.

    Args:
        title: what is written above.
        rows: pictures by camera channel.
    """
    from drivegen.sheet.canvas import rounded
    from drivegen.sheet.colours import BACKGROUND, DIM
    from drivegen.sheet.text import write

    first = next(iter(rows[0].values()))
    size = (VIEW_PX, round(first.height * VIEW_PX / first.width))
    width = GAP + max(len(row) for row in rows) * (size[0] + GAP)
    sheet = Image.new("RGB", (width, LINE + len(rows) * (size[1] + GAP)), BACKGROUND)
    write(sheet, (GAP, 3), title, 12, DIM, width=width - 2 * GAP)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row.values()):
            small = picture.resize(size, Image.Resampling.LANCZOS)
            sheet.paste(small, (GAP + c * (size[0] + GAP), LINE + r * (size[1] + GAP)), rounded(small, 3))
    return sheet


def column(blocks: Sequence[Image.Image]) -> Image.Image:
    """Put blocks below each other, aligned to the left."""
    from drivegen.sheet.colours import BACKGROUND

    width, height = max(each.width for each in blocks), sum(each.height for each in blocks)
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    top = 0
    for each in blocks:
        sheet.paste(each, (0, top))
        top += each.height
    return sheet


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


if __name__ == "__main__":
    run(main)
