"""From clean latents back to the noise that DDIM would make them of."""

from __future__ import annotations

import math

from torch import Tensor

from drivegen.plugin import Denoiser
from drivegen.plugin.sampler import Run
from drivegen.sampling.samplers import DDIM


def invert(denoise: Denoiser, clean: Tensor, run: Run, iterations: int) -> Tensor:
    """Find the noise (N, C, h, w) from which DDIM reaches clean latents: each of its steps is solved for where it came from.

    A step is x' = cos δ·x − sin δ·v(x, t), and x = (x' + sin δ·v(x, t)) / cos δ is iterated from x' on (Pan et al. 2023 iterate
    on ε, of which zero terminal SNR leaves nothing). One iteration is DDIM inversion as it is commonly done: the network is
    evaluated at x' instead of at x.

    Args:
        denoise: ``denoise(x, t)``, guided as the sampling shall be.
        clean: latents of pictures.
        run: of the sampler `ddim`; its callback hears of each step once it is undone, from the last to the first.
        iterations: evaluations per step.
    """
    timesteps, alphas = DDIM().timesteps(run), run.schedule.alphas_cumprod.double().cpu()
    levels = [*alphas[timesteps.cpu()].tolist(), float(alphas[0])]
    x = clean
    for i in reversed(range(len(timesteps))):
        delta, t, reached = angle(levels[i], levels[i + 1]), timesteps[i], x
        for _ in range(iterations):
            x = (reached + math.sin(delta) * run.schedule.velocity(x, t, denoise(x, t))) / math.cos(delta)
        x = run.stepped(i, timesteps[i], x)
    return x


def angle(alpha: float, after: float) -> float:
    """Give how far DDIM's step from ᾱ to the next ᾱ turns x against v: x' = cos δ·x − sin δ·v (Salimans and Ho 2022)."""
    return math.acos(math.sqrt(alpha)) - math.acos(math.sqrt(after))
