"""Compare ways to generate with fewer network passes: cost, likeness to the model's own settings, control; writes a table.

    python scripts/speed_table.py tiny --scenes 12 --lora runs/lcm_lora/lora --out out/speed

Each way is a row: a name and settings of generation, by `--way`; the first is what the others are compared with. OUT/images
keeps nothing: a row is generated and judged at once, and OUT/rows.json is what an interrupted run goes on from.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from common import UNSEEN, Model, Seed, run
from torch.utils.flop_counter import FlopCounterMode

from drivegen.support import files, strict_yaml
from drivegen.support.errors import InputError

WAYS = (
    "own: {}",
    "reuse 2: {reuse: {interval: 2}}",
    "reuse 3: {reuse: {interval: 3}}",
    "reuse 5: {reuse: {interval: 5}}",
    "ddim 10: {sampler: ddim, steps: 10}",
    "ddim 4: {sampler: ddim, steps: 4}",
    "unipc 8: {sampler: unipc, steps: 8}",
)
WITH_LORA = (
    "LoRA, 8 steps: {sampler: lcm, steps: 8, guidance: 1.0, sampler_options: {original_inference_steps: 20}, lora: true}",
    "LoRA, 4 steps: {sampler: lcm, steps: 4, guidance: 1.0, sampler_options: {original_inference_steps: 20}, lora: true}",
    "LoRA, 2 steps: {sampler: lcm, steps: 2, guidance: 1.0, sampler_options: {original_inference_steps: 20}, lora: true}",
)

FIGURES = ("drivable_control", "vehicle_control", "weather_accuracy", "time_of_day_accuracy", "frechet")
"""Columns of the table; rows.json has more."""


def main(
    model: Model,
    way: Annotated[list[str] | None, typer.Option(help="'NAME: {setting: value, …}', repeated; default: a list")] = None,
    lora: Annotated[Path | None, typer.Option(help="file or folder of a LoRA, for ways with `lora: true`")] = None,
    scenes: Annotated[int, typer.Option(help="unseen scenes, of one frame each")] = 12,
    seed: Seed = UNSEEN,
    out: Path = Path("out/speed"),
    dtype: str = "float32",
    threads: int = 1,
) -> None:
    """Generate, count, judge; write OUT/rows.json and OUT/table.md."""
    torch.set_num_threads(threads)
    chosen = tuple(way or (*WAYS, *(WITH_LORA if lora is not None else ())))
    ways = {name: settings for text in chosen for name, settings in strict_yaml.parse(text, "--way").items()}
    kept = out / "rows.json"
    rows: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    work = Work(model, lora, scenes, seed, out, dtype)
    for name, settings in ways.items():
        if name in rows:
            continue
        rows[name] = work.row(dict(settings), first=not rows)
        out.mkdir(parents=True, exist_ok=True)
        files.write_json(kept, rows)
        print(name, rows[name], flush=True)
    text = table(rows)
    files.write_atomically(out / "table.md", text.encode())
    print(text)


class Work:
    """The model, the unseen scenes and the judge."""

    def __init__(self, model: str, lora: Path | None, scenes: int, seed: int, out: Path, dtype: str) -> None:
        from drivegen.evaluate import referee
        from drivegen.evaluate.cities import plain_city
        from drivegen.evaluate.figures import Truth
        from drivegen.evaluate.images import Store
        from drivegen.evaluate.measure import fingerprint
        from drivegen.evaluate.renders import conditions_of
        from drivegen.lora.files import FILE
        from drivegen.pipeline.pipeline import Pipeline

        self.pipe, self.lora, self.seed, self.out = Pipeline.from_pretrained(model, dtype=dtype), lora, seed, out
        weights = None if lora is None else files.sha256(lora / FILE if lora.is_dir() else lora)
        told_by = {"weights": fingerprint(self.pipe.model), "lora": weights, "scenes": scenes, "seed": seed, "dtype": dtype}
        Store(out).bind(told_by)  # rows and city of another model, LoRA or seed are not taken for these
        self.city = plain_city(out / "city", scenes, 1, seed, self.pipe.model.image_size)
        self.keys = sorted(self.city.frames)
        told = {key: conditions_of(self.city.frames[key].description) for key in self.keys}
        self.truth = Truth(scenes, {k: c[0] for k, c in told.items()}, {k: c[1] for k, c in told.items()})
        self.judge = referee.default()
        for key in self.keys:
            self.truth.see(self.judge, key, {c: self.city.view(key, c) for c in self.city.frames[key].channels})

    def row(self, settings: dict[str, Any], first: bool) -> dict[str, Any]:
        """Generate every frame one way, and measure.

        Args:
            settings: of the generation; ``lora: true`` puts the LoRA in place.
            first: whether the others are compared with this one; its pictures are kept in OUT/own.
        """
        from drivegen.evaluate import figures
        from drivegen.evaluate.labels import Judged
        from drivegen.evaluate.variants import noise_seed

        if settings.pop("lora", False):
            if self.lora is None:
                raise InputError("a way says lora: true; give --lora FILE")
            self.pipe.load_lora(self.lora)
        judged, seconds, psnr, counted = Judged(), [], [], {}
        for key in self.keys:
            frame = self.city.frames[key]
            given = {"seed": noise_seed(self.seed, key), "output_type": "np", **settings}
            if not counted:
                counted = self._counted(frame, given)
            began = time.process_time()
            views = {c: (np.asarray(v) * 255).round().astype(np.uint8) for c, v in self.pipe(frame, **given).items()}
            seconds.append(time.process_time() - began)
            judged.add(self.judge, key, views)
            psnr.append(self._likeness(key, np.stack(list(views.values())), first))
        self.pipe.unload_lora()
        found = [*figures.control_figures(self.truth, judged, "all"), *figures.condition_figures(self.truth, judged, "all")]
        found.append(figures.frechet_figure("frechet", "all", judged, self.truth.renders))
        values = {figure.name: round(float(figure.value), 4) for figure in found}
        return {**counted, "seconds": round(float(np.median(seconds)), 2), "psnr": round(float(np.mean(psnr)), 2), **values}

    def _counted(self, frame: Any, given: dict[str, Any]) -> dict[str, Any]:
        """Count the evaluations of the network, and the operations of all of a generation but its decoding."""
        passes, forward = [0], type(self.pipe.host).forward

        def counting(*args: Any, **kwargs: Any) -> Any:
            passes[0] += 1
            return forward(*args, **kwargs)

        type(self.pipe.host).forward = counting  # type: ignore[method-assign]
        try:
            with FlopCounterMode(display=False) as counter:
                self.pipe(frame, **{**given, "output_type": "latent"})
        finally:
            type(self.pipe.host).forward = forward  # type: ignore[method-assign]
        return {"passes": passes[0], "gflop": round(counter.get_total_flops() / 1e9, 1)}

    def _likeness(self, key: Any, pictures: np.ndarray, first: bool) -> float:
        """Return the signal-to-noise ratio in dB to the first way's pictures; infinite for its own."""
        file = self.out / "own" / f"{key.name}.npy"
        if first:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, pictures)
            return math.inf
        error = np.mean((pictures.astype(np.float64) - np.load(file)) ** 2)
        return 10 * math.log10(255**2 / max(float(error), 1e-9))


def table(rows: dict[str, Any]) -> str:
    """Format the rows as Markdown."""
    head = ["way", "passes", "GFLOP", "CPU seconds", "PSNR, dB", *(name.replace("_", " ") for name in FIGURES)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, row in rows.items():
        own = ["–" if math.isinf(row["psnr"]) else f"{row['psnr']:.1f}"]
        cells = [name, str(row["passes"]), f"{row['gflop']:.0f}", f"{row['seconds']:.1f}", *own]
        lines.append(f"| {' | '.join([*cells, *(f'{row[n]:.3f}' for n in FIGURES)])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
