"""Put the previews of a training one after the other: a clip of how its pictures came about.

    python scripts/make_clip.py runs/tiny --out out/training.webp

It moves in a browser and in Markdown: animated WebP, or GIF by the file's name.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from common import run
from PIL import Image

from drivegen.scene.pictures import user_image
from drivegen.sheet.colours import BACKGROUND, TEXT
from drivegen.sheet.text import write
from drivegen.support.errors import InputError
from drivegen.support.files import write_atomically

LINE = 22
KINDS = {".webp": "WEBP", ".gif": "GIF"}


def main(
    folder: Annotated[Path, typer.Argument(help="a run, or its folder of previews")],
    out: Annotated[Path, typer.Option(help="FILE.webp or FILE.gif")] = Path("out/training.webp"),
    width: Annotated[int, typer.Option(help="of the clip in pixels; previews that are narrower stay as they are")] = 680,
    seconds: Annotated[float, typer.Option(help="each preview is shown")] = 0.4,
    last: Annotated[float, typer.Option(help="seconds that the last one is shown")] = 2.5,
    quality: Annotated[int, typer.Option(help="of WebP, 1 to 100")] = 70,
) -> None:
    """Write the clip."""
    if out.suffix.lower() not in KINDS:
        raise InputError(f"--out {out} must end in {' or '.join(KINDS)}")
    if width < 16 or not 0.02 <= seconds <= 60 or not 0.02 <= last <= 60 or not 1 <= quality <= 100:
        raise InputError("--width must be 16 or more, --seconds and --last 0.02 to 60, --quality 1 to 100")
    sheets = [frame(path, step, width) for step, path in previews(folder)]
    size = sheets[-1].size
    odd = [sheet.size for sheet in sheets if sheet.size != size]
    if odd:
        raise InputError(f"{folder}: previews of one size are needed; the last is {size}, another {odd[0]}")
    times = [round(seconds * 1000)] * (len(sheets) - 1) + [round(last * 1000)]
    buffer = io.BytesIO()
    options = {"quality": quality, "method": 6} if out.suffix.lower() == ".webp" else {"optimize": True}
    sheets[0].save(
        buffer, format=KINDS[out.suffix.lower()], save_all=True, append_images=sheets[1:], duration=times, loop=0, **options
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, buffer.getvalue())
    print(f"{out}: {len(sheets)} previews, {len(buffer.getvalue()) / 1e3:.0f} kB")


def previews(folder: Path) -> Sequence[tuple[int, Path]]:
    """List a run's previews with their steps, in order."""
    where = folder / "previews" if (folder / "previews").is_dir() else folder
    named = ((re.fullmatch(r"step-(\d+)\.png", path.name), path) for path in where.glob("step-*.png"))
    found = sorted((int(match[1]), path) for match, path in named if match)
    if not found:
        raise InputError(f"{where} has no previews step-*.png; name a run that draws them (preview.every)")
    return found


def frame(path: Path, step: int, width: int) -> Image.Image:
    """Draw one preview at most so wide, with its step below."""
    picture = user_image(path, "preview")
    if picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", (picture.width, picture.height + LINE), BACKGROUND)
    sheet.paste(picture, (0, 0))
    write(sheet, (4, picture.height + 4), f"step {step:,}", 13, TEXT, width=picture.width - 8)
    return sheet


if __name__ == "__main__":
    run(main)
