"""Control scores with and without the referee's gradient pulling: classifier guidance, on unseen scenes of the city.

    python scripts/classifier_guidance.py tiny --scenes 8 --scale 1 --limit 0.2 --out out/classifier

The same referee guides and judges, so the gain shows that the gradient has an effect, not that pictures are better.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from common import UNSEEN, Model, Seed, Steps, run

from drivegen.support.errors import InputError


def main(
    model: Model,
    scenes: int = 8,
    seed: Seed = UNSEEN,
    scale: float = 1.0,
    limit: Annotated[float, typer.Option(help="greatest move of a view's clean latents per step; 0: none")] = 0.2,
    exact: Annotated[bool, typer.Option(help="differentiate through the network")] = True,
    steps: Steps = None,
    without: Annotated[list[str] | None, typer.Option(help="plugins to null; may be repeated")] = None,
    out: Path = Path("out/classifier"),
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Generate each scene twice from one seed, judge both, print the scores, and keep a sheet of each."""
    from drivegen.evaluate import referee
    from drivegen.evaluate.cities import plain_city
    from drivegen.evaluate.figures import GROUPS_SCORED, Truth, control_figures
    from drivegen.evaluate.head import LayoutHead
    from drivegen.evaluate.labels import Judged
    from drivegen.evaluate.variants import Key, noise_seed
    from drivegen.pipeline.pipeline import Pipeline
    from drivegen.sampling import Classifier

    if scenes < 2:
        raise InputError(f"--scenes {scenes} must be 2 or more: the score's floor is that of other scenes")
    pipe, judge = Pipeline.from_pretrained(model, device=device, dtype=dtype), referee.default()
    judge.net.to(pipe.device)
    city = plain_city(out / "city", scenes, 1, seed, pipe.model.image_size)
    classifier = Classifier(LayoutHead(judge), scale, exact=exact, limit=limit or None, name="referee")
    truth, found = Truth(scenes), {"without": Judged(), "with": Judged()}
    for key in (Key(scene, 0) for scene in range(scenes)):
        frame = city.frames[key]
        truth.see(judge, key, {channel: city.view(key, channel) for channel in frame.channels})
        for name, pulling in (("without", None), ("with", classifier)):
            made = pipe(
                frame, seed=noise_seed(seed, key), num_inference_steps=steps, without=without or (), classifier=pulling
            )  # fmt: skip
            found[name].add(judge, key, {channel: np.asarray(image) for channel, image in made.pictures().items()})
            made.sheet().save(out / f"{key.name}-{name}.png")
    print(f"{model}, {scenes} scenes, {classifier}")
    for name, judged in found.items():
        figures = {figure.name: figure for figure in control_figures(truth, judged, name)}
        for group in GROUPS_SCORED:
            score, iou = figures[f"{group}_control"], figures[f"{group}_iou"]
            print(f"{group:9} {name:8} IoU {iou.value:.3f}  control {score.value:.3f} [{score.low:.3f}, {score.high:.3f}]")


if __name__ == "__main__":
    run(main)
