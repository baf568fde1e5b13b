"""BEVControl's sketches beside MagicDrive's conditions: trained for equal steps on the embedded model without its own.

    python scripts/bevcontrol_study.py --steps 300 --seeds 1 --scenes 16 --out out/bevcontrol_study --minutes 25

Three arms begin fresh on the embedded model's UNet, text, camera and pooled_text: MagicDrive's conditions (boxes, bev_map,
cross_view), the sketches with Coordinator, and the sketches with cross_view in its place. Writes OUT/table.md: how well they
are followed, and how well views agree. Views start from noise of their own and nothing else makes them agree. After --minutes
it ends, and the same command goes on.
"""

from __future__ import annotations

import shlex
import sys
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from common import UNSEEN, Cache, DataSeed, Minutes, TrainData, TrainScenes, run

HOUSE = Path(__file__).parents[1]
sys.path.insert(0, str(HOUSE))  # the laboratory (bench/) is no part of the installed package

REPLACED = ("boxes", "bev_map", "layout", "cross_view")
"""Plugins of the embedded model that the arms' own stand for."""

TITLES = {
    "magicdrive": "boxes, bev_map, cross_view (MagicDrive's)", "bevcontrol": "bevcontrol",
    "sketches_cross_view": "bevcontrol without Coordinator, cross_view",
}  # fmt: skip
CROSS_VIEW = {"views": {"kind": "cross_view", "drop": 0.0}}
ARMS: dict[str, dict[str, Any]] = {
    "magicdrive": {
        "boxes": {"kind": "boxes", "drop": 0.0},
        "bev_map": {"kind": "bev_map", "drop": 0.0, "options": {"width": 0.34, "channels": [16, 32, 64, 96]}},
        **CROSS_VIEW,
    },
    "bevcontrol": {"sketch": {"kind": "bevcontrol", "drop": 0.0}},
    "sketches_cross_view": {"sketch": {"kind": "bevcontrol", "drop": 0.0, "options": {"coordinator": False}}, **CROSS_VIEW},
}
ROWS = (
    ("drivable control score", "drivable_control"), ("drivable IoU", "drivable_iou"),
    ("… of other frames", "drivable_iou_other_frames"),
    ("vehicle control score", "vehicle_control"), ("vehicle IoU", "vehicle_iou"),
    ("… of other frames", "vehicle_iou_other_frames"),
    ("cross-view error over that of different seeds", "consistency"), ("… same seed", "consistency_same_seed"),
    ("… different seeds", "consistency_different_seeds"), ("Fréchet distance to renders, referee features", "frechet"),
)  # fmt: skip


def main(
    steps: Annotated[int, typer.Option(help="of each training")] = 300,
    images: Annotated[int, typer.Option(help="per step")] = 12,
    rate: Annotated[float, typer.Option(help="greatest learning rate")] = 4e-4,
    seeds: Annotated[int, typer.Option(help="trainings of each arm")] = 1,
    scenes: Annotated[int, typer.Option(help="unseen ones that are generated")] = 16,
    second: Annotated[int, typer.Option(help="of them from a second noise too, for the cross-view error")] = 8,
    sampling_steps: int = 20,
    data: TrainData = Path("data/city_study"),
    train_scenes: TrainScenes = 120,
    data_seed: DataSeed = 31,
    cache: Cache = Path("data/cache"),
    out: Path = Path("out/bevcontrol_study"),
    minutes: Minutes = None,
) -> None:
    """Train, generate, judge, write OUT/table.md."""
    from bench.study import Arm, Budget, Plan, Study
    from drivegen.evaluate import referee
    from drivegen.evaluate.figures import Truth, consistency_figure, control_figures, frechet_figure
    from drivegen.evaluate.labels import Judged
    from drivegen.evaluate.measure import machine
    from drivegen.support import files

    values = yaml.safe_load((HOUSE / "configs" / "bevcontrol.yaml").read_text())
    del values["plugins"]["sketch"]
    shared = list(values["plugins"])
    values["model"]["base"] = str(_bare(out / "base"))
    arms = []
    for name, plugins in ARMS.items():
        null = [*shared, *(key for key in plugins if key != "views")]
        sampling = {**values["sampling"], "noise": "independent", "agreement": 0.0, "null": null}
        group = [{"names": null, "probability": 0.1}]
        arms.append(
            Arm(name, values | {
                "plugins": values["plugins"] | plugins, "drop_groups": group, "sampling": sampling,
            })
        )  # fmt: skip
    train = {"steps": steps, "images": images, "lr": rate, "warmup": min(30, steps // 5), "ema": 0.98, "threads": 1,
             "checkpoint_every": max(1, steps // 3)}  # fmt: skip
    plan = Plan(out, arms, range(seeds), data, train_scenes, data_seed, cache, train, scenes, UNSEEN, sampling_steps, second)
    study, judge = Study(plan, Budget(None if minutes is None else 60 * minutes)), referee.default()
    done = list(study.run())
    if not done:
        return
    truth = Truth(scenes)
    for key in plan.frames:
        truth.see(judge, key, {c: study.city.view(key, c) for c in study.city.frames[key].channels})
    found: dict[str, dict[str, list[float]]] = {}
    for arm, seed in done:
        judged = Judged()
        for key in plan.frames:
            judged.add(judge, key, study.store(arm, seed).load("plain", key.name, study.city.frames[key]))
        figures = [*control_figures(truth, judged, arm.name), frechet_figure("frechet", arm.name, judged, truth.renders)]
        if second:
            figures += consistency_figure(study.disagreement(arm, seed), scenes, arm.name)
        for figure in figures:
            found.setdefault(figure.name, {}).setdefault(arm.name, []).append(figure.value)
    files.write_json(out / "figures.json", found)
    text = _table(found, [arm.name for arm in arms])
    text += f"\n- machine: {machine()}\n- date: {date.today().isoformat()}\n- command: {shlex.join(['python', *sys.argv])}\n"
    files.write_atomically(out / "table.md", text.encode())
    print(text)


def _table(found: dict[str, dict[str, list[float]]], arms: list[str]) -> str:
    """Write figures in Markdown: means over seeds, with the least and the greatest where there are several."""
    from bench.object_recall import spread

    lines = [f"| figure | {' | '.join(TITLES[arm] for arm in arms)} |", "|---" * (1 + len(arms)) + "|"]
    for title, name in ROWS:
        runs = [found.get(name, {}).get(arm, []) for arm in arms]
        cells = [spread(values) if values else "–" for values in runs]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _bare(folder: Path) -> Path:
    """Write the embedded model without the conditions that the arms bring, where it is not there."""
    if not (folder / "drivegen.json").is_file():
        from drivegen.pipeline.pipeline import Pipeline
        from drivegen.saved import model

        pipe = Pipeline.from_pretrained("tiny")
        for name in REPLACED:
            pipe.remove_plugin(name)
        model.save(pipe.host, folder, image_size=pipe.model.image_size)
    return folder


if __name__ == "__main__":
    run(main)
