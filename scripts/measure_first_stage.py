"""Measure what first stages keep of pictures: renders of the city that they have not seen, encoded, decoded and judged.

    python scripts/measure_first_stage.py tiny runs/embedded/first_stage/vae --seed 88001 --out out/first_stages

Writes OUT/figures.json and OUT/table.md, a column for each first stage, and OUT/<number>.png: renders above what was
reconstructed of them.
They must fit the embedded model's latents (12 channels, 8 pixels per latent), or another --model's.
"""

from __future__ import annotations

import shlex
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer
from common import Seed, run
from numpy.typing import NDArray

from drivegen.support import files
from drivegen.support.errors import InputError

if TYPE_CHECKING:
    from drivegen.evaluate.cities import City
    from drivegen.evaluate.images import Images
    from drivegen.evaluate.variants import Key
    from drivegen.pipeline.pipeline import Pipeline

ROWS = {
    "psnr": "PSNR, dB",
    "frechet_vae": "Fréchet distance to renders, referee features",
    "vae_drivable_iou": "drivable IoU",
    "vae_vehicle_iou": "vehicle IoU",
    "vehicle_share": "… of the renders'",
    "gradient": "energy of gradients, of the renders'",
    "fine": "energy at 0.25 to 0.5 cycles per pixel, of the renders'",
    "people_recall_relative": "people found, of the renders'",
    "small_recall_relative": "… below 0.15 % of a picture",
    "medium_recall_relative": "… 0.15 to 0.5 %",
    "large_recall_relative": "… above 0.5 %",
}
SHOWN = 6
"""Renders on a sheet."""


def main(
    vaes: Annotated[list[str], typer.Argument(help="'tiny' (that of --model), or folders and files of first stages")],
    model: Annotated[str, typer.Option(help="whose first stage they replace")] = "tiny",
    scenes: int = 10,
    frames_per_scene: int = 2,
    seed: Seed = 88001,
    out: Path = Path("out/first_stages"),
    dtype: str = "auto",
    device: str = "auto",
) -> None:
    """Reconstruct and judge; write OUT/figures.json, OUT/table.md and a sheet for each first stage."""
    from drivegen.evaluate.cities import plain_city
    from drivegen.evaluate.figures import Truth
    from drivegen.evaluate.measure import machine
    from drivegen.evaluate.referee import default
    from drivegen.pipeline.pipeline import Pipeline
    from drivegen.support.progress import track

    if scenes < 2 or frames_per_scene < 1:
        raise InputError(f"--scenes {scenes}, --frames-per-scene {frames_per_scene}: 2 scenes and 1 frame are needed")
    pipes = [Pipeline.from_pretrained(model, device=device, dtype=dtype, vae=None if name == model else name) for name in vaes]
    root = out / f"city_{seed}_{scenes}x{frames_per_scene}"
    city = plain_city(root, scenes, frames_per_scene, seed, pipes[0].model.image_size)
    referee, truth = default(), Truth(scenes)
    for key in track(sorted(city.frames), "judging renders"):
        truth.see(referee, key, {channel: city.view(key, channel) for channel in city.frames[key].channels})
    columns = []
    for number, (name, pipe) in enumerate(zip(vaes, pipes, strict=True), 1):
        columns.append(_measure(pipe, city, truth, out / f"{number}.png"))
        print(f"{name}: {columns[-1]}", flush=True)
    notes = {
        "seed": seed, "frames": len(city.frames), "scenes": scenes, "dtype": str(pipes[0].dtype).removeprefix("torch."),
        "machine": machine(), "date": date.today().isoformat(), "command": shlex.join(["python", *sys.argv]),
    }  # fmt: skip
    files.write_json(out / "figures.json", {"first_stages": dict(zip(vaes, columns, strict=True)), "notes": notes})
    table = _table([Path(name).parent.name if name != model else name for name in vaes], columns)
    files.write_atomically(out / "table.md", table.encode())
    print(table)


def _measure(pipe: Pipeline, city: City, truth: Any, sheet: Path) -> dict[str, float]:
    from drivegen.evaluate import people
    from drivegen.evaluate.figures import frechet_figure, iou_figures
    from drivegen.evaluate.images import reconstruct
    from drivegen.evaluate.labels import Judged
    from drivegen.evaluate.metrics.people import people_in
    from drivegen.evaluate.people_figures import recall_figures
    from drivegen.evaluate.referee import default
    from drivegen.evaluate.variants import ALL
    from drivegen.support.progress import track

    referee, finder, judged = default(), people.default(), Judged()
    persons, in_renders, in_rebuilt = {}, {}, {}
    sums: list[NDArray[Any]] = []
    shown: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = []
    for key in track(sorted(city.frames), "reconstructing"):
        frame = city.frames[key]
        views = {channel: city.view(key, channel) for channel in frame.channels}
        real = {channel: view.rgb for channel, view in views.items()}
        made = {channel: np.asarray(image) for channel, image in reconstruct(pipe, real).items()}
        judged.add(referee, key, made)
        sums += [_energies(made[channel], real[channel]) for channel in real]
        persons |= {(key, channel): people_in(frame, view) for channel, view in views.items()}
        in_renders |= _found(finder, key, real)
        in_rebuilt |= _found(finder, key, made)
        shown += [(real[channel], made[channel]) for channel in real]
    scenes = truth.scenes
    figures = [
        *iou_figures(truth, judged, "vae", ALL), *iou_figures(truth, truth.renders, "renders", ALL),
        frechet_figure("frechet_vae", ALL, judged, truth.renders),
        *recall_figures(persons, in_rebuilt, in_renders, scenes, ALL),
    ]  # fmt: skip
    _sheet(shown[:: max(1, len(shown) // SHOWN)][:SHOWN], sheet)
    found = {figure.name: figure.value for figure in figures}
    energy = np.sum([row[1:] for row in sums], 0)
    found |= {
        "psnr": float(np.mean([row[0] for row in sums])),
        "vehicle_share": found["vae_vehicle_iou"] / found["renders_vehicle_iou"],
        "gradient": float(energy[0] / energy[1]),
        "fine": float(energy[2] / energy[3]),
    }
    return {name: round(value, 4) for name, value in found.items() if name in ROWS or name.startswith("renders_")}


def _energies(made: NDArray[np.uint8], real: NDArray[np.uint8]) -> NDArray[Any]:
    """Return the PSNR in dB, then energy of gradients and of fine structure, each of the made picture and of the real one."""
    from drivegen.evaluate.metrics.spectrum import band_energy

    pictures = [picture.astype(np.float64).transpose(2, 0, 1) / 255 for picture in (made, real)]
    error = max(float(((pictures[0] - pictures[1]) ** 2).mean()), 1e-10)
    gradients = [float((np.diff(p, axis=1) ** 2).sum() + (np.diff(p, axis=2) ** 2).sum()) for p in pictures]
    fine = [float(band_energy(picture)[3]) for picture in pictures]
    return np.array([-10 * np.log10(error), *gradients, *fine])


def _found(finder: Any, key: Key, pictures: Images) -> dict[Any, Any]:
    return {(key, channel): mask for channel, mask in zip(pictures, finder(pictures.values()), strict=True)}


def _sheet(pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], path: Path) -> None:
    from PIL import Image

    rows = [np.concatenate([pair[i] for pair in pairs[half : half + 3]], 1) for half in (0, 3) for i in (0, 1) if pairs[half:]]
    Image.fromarray(np.concatenate(rows)).save(path)


def _table(names: list[str], columns: list[dict[str, float]]) -> str:
    lines = ["| what | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for row, title in ROWS.items():
        lines.append(f"| {title} | " + " | ".join(f"{c[row]:.3f}" if row in c else "–" for c in columns) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    run(main)
