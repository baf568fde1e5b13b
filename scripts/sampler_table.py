"""What each installed sampler finds of a Gaussian, whose best prediction is known in closed form; prints a table.

    python scripts/sampler_table.py --steps 4 --steps 20 --steps 100

The data are N(0.3, 0.7²) in each value, the model predicts epsilon on Stable Diffusion's schedule, and samplers of distilled
models are given what a consistency model of these data predicts. Nothing but the sampler is between the noise and the result.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from common import run
from torch import Tensor

from drivegen.catalog import samplers
from drivegen.support.errors import InputError
from drivegen.testing.samplers import DEVIATION, MEAN, Case, gaussian

OPTIONS: dict[str, dict[str, Any]] = {"tcd": {"eta": 1.0}}
"""Below γ = 1 `tcd` wants a network that predicts the way itself, which a consistency model does not."""


def main(
    names: Annotated[list[str] | None, typer.Argument(help="samplers; all if left out")] = None,
    steps: Annotated[list[int] | None, typer.Option(help="in how many steps, repeated; default: 4, 10, 20, 50, 200")] = None,
) -> None:
    """Print mean and deviation of what is sampled, and the evaluations of 20 steps."""
    counts = steps or [4, 10, 20, 50, 200]
    lines = ["| sampler | evaluations in 20 steps | " + " | ".join(f"{n} steps" for n in counts) + " |"]
    lines.append("|---" * (len(counts) + 2) + "|")
    for name in names or sorted(entry.kind for entry in samplers.offers()):
        evaluations = found(name, 20)
        cells = [said(found(name, n)) for n in counts]
        lines.append(f"| {name} | {'–' if evaluations is None else evaluations[2]} | {' | '.join(cells)} |")
    lines.append(f"| right | | {' | '.join([f'{MEAN:.3f}, {DEVIATION:.3f}'] * len(counts))} |")
    print("\n".join(lines))


def found(name: str, steps: int) -> tuple[float, float, int] | None:
    """Return mean, deviation and evaluations, or None where the sampler refuses so many steps."""
    case, asked = Case(samplers.load(name), OPTIONS.get(name, {}), steps), [0]
    try:
        run = case.run()
    except InputError:
        return None
    exact = gaussian(case.made().schedule(run), case.sampler.distilled)

    def denoise(x: Tensor, t: Tensor, known: Any = None) -> Tensor:
        asked[0] += 1
        return exact(x, t)

    x = case.sample(run, denoise)
    return float(x.mean()), float(x.std()), asked[0]


def said(figures: tuple[float, float, int] | None) -> str:
    """Write mean and deviation."""
    return "refused" if figures is None else f"{figures[0]:.3f}, {figures[1]:.3f}"


if __name__ == "__main__":
    run(main)
