"""Draw the recipes of docs/image_prompt.md from a model with an image prompt: a row of cameras each.

python scripts/make_recipes.py --model runs/image_prompt/model --data data/city --photo 7 --out docs/images/recipes.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw

from drivegen import InputError, Pipeline
from drivegen.datasets import nuscenes
from drivegen.pipeline.views import save_png
from drivegen.scene import pictures as camera_pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="runs/image_prompt/model")
    parser.add_argument("--data", default="data/city", help="dataset in the nuScenes schema")
    parser.add_argument("--frame", type=int, default=0, help="number of the sample that is drawn")
    parser.add_argument("--photo", type=int, default=-1, help="number of the sample whose first picture is the photo")
    parser.add_argument("--name", default="image_prompt", help="the plugin's name in the model")
    parser.add_argument("--cameras", type=int, default=4, help="how many views are shown")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("docs/images/recipes.png"))
    args = parser.parse_args()

    pipe = Pipeline.from_pretrained(args.model)
    pipe.host.plugin(args.name)
    data = nuscenes.open(args.data)
    tokens = data.samples()
    if not all(-len(tokens) <= number < len(tokens) for number in (args.frame, args.photo)):
        raise InputError(f"--frame {args.frame} and --photo {args.photo} must be among {len(tokens)} samples")
    frame, other = data.frame(tokens[args.frame]), data.frame(tokens[args.photo])
    if frame.token == other.token:
        raise InputError("--frame and --photo are the same sample; the photo must be another")
    height, width = pipe.model.image_size
    frame, other = frame.resized(width, height), other.resized(width, height)
    recorded = {camera.channel: camera_pictures.load_image(camera) for camera in frame.cameras}
    photo = camera_pictures.load_image(other.cameras[0])
    # The description names a weather of its own, which would contradict the photo.
    texts = [name for name in pipe.host.plugins if pipe.host.plugin(name).takes_prompt]
    common = {"seed": 3, "num_inference_steps": args.steps}

    def prompt(given: object) -> dict[str, object]:
        return {"inputs": {args.name: given}, **common}

    rows = {
        "recorded": recorded,
        "without an image prompt": pipe(frame, **common).pictures(),
        "variation: own pictures": pipe(frame, **prompt("own")).pictures(),
        "weather and style of the photo": pipe(frame, without=texts, **prompt(photo)).pictures(),
        "mixed: recorded structure, the photo's look": pipe(
            frame, image=recorded, strength=0.85, without=texts, **prompt(photo)
        ).pictures(),
    }
    channels = frame.channels[: args.cameras]
    label, gap = 16, 4
    sheet = Image.new("RGB", ((width + gap) * (len(channels) + 1) + gap, (height + label + gap) * len(rows) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for r, (title, pictures) in enumerate(rows.items()):
        top = gap + r * (height + label + gap)
        draw.text((gap, top), title, fill="black")
        for c, channel in enumerate(channels):
            sheet.paste(pictures[channel], (gap + c * (width + gap), top + label))
        if "photo" in title:
            left = gap + len(channels) * (width + gap)
            draw.text((left, top), "photo", fill="black")
            sheet.paste(photo, (left, top + label))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_png(sheet, args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
