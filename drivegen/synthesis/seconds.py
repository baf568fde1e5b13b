"""How long a frame takes, for the plan's estimate."""

from __future__ import annotations

import time

from drivegen.datasets import SceneSource
from drivegen.pipeline.pipeline import Pipeline
from drivegen.synthesis.plan import Plan, settings_of
from drivegen.synthesis.recipe import Recipe
from drivegen.synthesis.unit import threads
from drivegen.synthesis.variants import vary


def seconds_per_frame(source: SceneSource, recipe: Recipe, pipe: Pipeline, plan: Plan) -> float:
    """Generate the plan's first frame with one step and with two, and return the seconds that its own steps would take.

    Args:
        source: the dataset.
        recipe: the plan's.
        pipe: the model.
        plan: the run's.
    """
    variant, label = recipe.labels[0]
    varied = vary(source.scene(plan.sources[0]), recipe, variant, label, plan.run)
    scene = varied.scene.with_neighbours(*pipe.neighbours) if any(pipe.neighbours) else varied.scene
    settings = pipe.settings(settings_of(recipe, recipe.variants[variant]))
    steps = settings.steps or pipe.model.sampling.steps
    took = []
    with threads(int(plan.facts["computing"]["threads"])):
        for count in (1, 1, min(2, steps)):  # the first one also meets what is done once per process
            began = time.perf_counter()
            (planned,) = pipe.plans(scene.frames[0], settings.replaced(steps=count))
            pipe.run(planned).pictures()
            took.append(time.perf_counter() - began)
    return took[1] + max(took[2] - took[1], 0.0) * (steps - 1)
