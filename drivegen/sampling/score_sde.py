"""Sampling by the reverse of a stochastic differential equation, with predictor and corrector (Song et al. 2021)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from drivegen.plugin import Denoiser
from drivegen.plugin.sampler import Run, Sampler
from drivegen.support.values import number, whole


class _ScoreSDE(Sampler):
    """Reverse diffusion as the predictor, and before each of its steps Langevin dynamics at the same noise as the corrector.

    Args:
        corrector_steps: steps of Langevin dynamics before each predictor step.
        snr: their size, as signal-to-noise ratio r.
    """

    zero_snr = False

    def __init__(self, corrector_steps: int = 1, snr: float = 0.16) -> None:
        self.corrector_steps = whole(corrector_steps, "corrector_steps", 0, 100)
        self.snr = number(snr, "snr", 0, 1)

    def _langevin(self, x: Tensor, score: Tensor, noise: Tensor, alpha: float) -> Tensor:
        """Give x after one step of Langevin dynamics, its size from the norms of each row (algorithms 4 and 5)."""
        ratio = _norm(noise) / _norm(score).clamp(min=1e-12)
        step = 2 * alpha * (self.snr * ratio) ** 2
        return x + step * score + (2 * step).sqrt() * noise


class VarianceExploding(_ScoreSDE):
    """The variance exploding SDE: x0 + σ·z, geometric steps in σ; one evaluation per predictor and corrector step."""

    def timesteps(self, run: Run) -> Tensor:
        """Give where the model's own schedule has the noise levels; between its timesteps they are not whole."""
        return run.left(_timesteps_of(_levels(run), run))

    def __call__(self, denoise: Denoiser, x: Tensor, run: Run) -> Tensor:
        """Sample; the callback sees latents of this SDE, x0 + σ·z."""
        timesteps, schedule = self.timesteps(run), run.schedule
        sigmas = [*_levels(run).tolist(), 0.0][-len(timesteps) - 1 :]
        x = x * sigmas[0] if run.clean is None else run.clean + sigmas[0] * x if len(timesteps) else run.clean

        def score(x: Tensor, t: Tensor, sigma: float) -> Tensor:
            own = x / math.sqrt(1 + sigma**2)
            return -schedule.epsilon(own, t, denoise(own, t)) / sigma

        for i, t in enumerate(timesteps):
            sigma, after = sigmas[i], sigmas[i + 1]
            for _ in range(self.corrector_steps):
                x = self._langevin(x, score(x, t, sigma), run.draw(x), 1.0)
            gone = sigma**2 - after**2
            x = x + gone * score(x, t, sigma)
            if after > 0:  # the last step draws none (appendix G)
                x = x + math.sqrt(gone) * run.draw(x)
            x = run.stepped(i, t, x)
        return x


class VariancePreserving(_ScoreSDE):
    """The variance preserving SDE, whose discrete steps are those of the model's training, some of them at once."""

    def timesteps(self, run: Run) -> Tensor:
        """Give whole timesteps at equal distances from the last to the first."""
        spaced = torch.linspace(run.schedule.steps - 1, 0, run.steps, dtype=torch.float64)
        return run.left(spaced.round().long().to(run.device))

    def __call__(self, denoise: Denoiser, x: Tensor, run: Run) -> Tensor:
        """Sample."""
        timesteps, schedule = self.timesteps(run), run.schedule
        alphas = [*schedule.alphas_cumprod.double().cpu()[timesteps.cpu()].tolist(), 1.0]
        if run.clean is not None:
            x = math.sqrt(alphas[0]) * run.clean + math.sqrt(1 - alphas[0]) * x

        def score(x: Tensor, t: Tensor, alpha: float) -> Tensor:
            return -schedule.epsilon(x, t, denoise(x, t)) / math.sqrt(1 - alpha)

        for i, t in enumerate(timesteps):
            beta = 1 - alphas[i] / alphas[i + 1]
            for _ in range(self.corrector_steps):
                x = self._langevin(x, score(x, t, alphas[i]), run.draw(x), 1 - beta)
            x = (2 - math.sqrt(1 - beta)) * x + beta * score(x, t, alphas[i])
            if i + 1 < len(timesteps):
                x = x + math.sqrt(beta) * run.draw(x)
            x = run.stepped(i, t, x)
        return x


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))


def _levels(run: Run) -> Tensor:
    """Give noise levels σ from the model's greatest to its smallest, in equal ratios (steps,), fp64 on the CPU."""
    alphas = run.schedule.alphas_cumprod.double().cpu()
    sigmas = ((1 - alphas) / alphas).sqrt().log()
    return torch.linspace(float(sigmas[-1]), float(sigmas[0]), run.steps, dtype=torch.float64).exp()


def _timesteps_of(sigmas: Tensor, run: Run) -> Tensor:
    """Find the timesteps at which `NoiseSchedule.rates` has noise levels: ᾱ is interpolated between whole ones."""
    alphas = run.schedule.alphas_cumprod.double().cpu()
    wanted = 1 / (1 + sigmas**2)
    high = torch.searchsorted(-alphas, -wanted).clamp(1, max(1, len(alphas) - 1))
    low = high - 1
    within = (alphas[low] - wanted) / (alphas[low] - alphas[high])
    return (low + within).clamp(0, len(alphas) - 1).float().to(run.device)
