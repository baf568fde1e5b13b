"""The first stage of a model: pictures to the latents that the denoising network works in, and back (Rombach et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from drivegen.backbones.vae_files import factor_of

ENCODED_AT_ONCE = 4
"""The most pictures that are encoded at once."""
MOST_PX = 6 * 224 * 400
"""The most pixels that are encoded or decoded at once, unless one picture has more: memory does not grow with the views."""


class FirstStage:
    """A VAE as the host calls it: an AutoencoderKL, an AutoencoderTiny or a VQModel of diffusers.

    Latents are scaled: what the denoising network works in. Everything that encodes or decodes does so here.

    Args:
        vae: the network.
        float32: whether it computes in float32 alone, in a model of another format too.
    """

    def __init__(self, vae: Any, float32: bool = False) -> None:
        self.vae, self.float32 = vae, float32

    @property
    def factor(self) -> int:
        """Pixels per latent along each side."""
        return factor_of(self.vae)

    @property
    def channels(self) -> int:
        """C: channels of the latents."""
        return int(self.vae.config.latent_channels)

    @property
    def scaling(self) -> float:
        """The factor that latents of the VAE are multiplied with."""
        return float(self.vae.config.scaling_factor)

    @property
    def shift(self) -> float:
        """What is subtracted from them before."""
        return float(getattr(self.vae.config, "shift_factor", None) or 0.0)

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None, sample: bool = False) -> Tensor:
        """Encode pixels to scaled latents (N, C, h, w).

        Args:
            pixels: (N, 3, H, W) in [−1, 1].
            generator: draws the sample; None takes torch's own.
            sample: return a sample of the posterior rather than its mean; a VAE without a posterior has a point.
        """
        found = [self._encoded(part) for part in pixels.split(_encoded_at_once(pixels))]
        if not hasattr(found[0], "latent_dist"):
            return self.scale(torch.cat([part.latents for part in found]))
        posterior = found[0].latent_dist
        if len(found) > 1:  # one draw, however many parts there are
            posterior = type(posterior)(torch.cat([part.latent_dist.parameters for part in found]))
        return self.scale(posterior.sample(generator) if sample else posterior.mode())

    def moments(self, pixels: Tensor) -> Tensor:
        """Encode pixels (N, 3, H, W) in [−1, 1] to the posterior's mean and standard deviation (N, 2C, h, w), unscaled."""
        parts = []
        for part in pixels.split(_encoded_at_once(pixels)):
            encoded = self._encoded(part)
            if hasattr(encoded, "latent_dist"):
                parts += [torch.cat([encoded.latent_dist.mean, encoded.latent_dist.std], dim=1)]
            else:
                parts += [torch.cat([encoded.latents, torch.zeros_like(encoded.latents)], dim=1)]
        return torch.cat(parts)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents (N, C, h, w) to pixels (N, 3, H, W) in about [−1, 1]."""
        height, width = (side * self.factor for side in latents.shape[-2:])
        return torch.cat([self._decoded(part) for part in latents.split(_at_once(height, width))])

    def scale(self, latents: Tensor) -> Tensor:
        """Scale latents (N, C, h, w) of the VAE to the range that the denoising network works in."""
        return (latents - self.shift) * self.scaling

    def unscale(self, latents: Tensor) -> Tensor:
        """Scale latents (N, C, h, w) of the denoising network back to those of the VAE."""
        return latents / self.scaling + self.shift

    def _encoded(self, pixels: Tensor) -> Any:
        with self._computing(pixels.device):
            return self.vae.encode(pixels.to(self.vae.dtype))

    def _decoded(self, latents: Tensor) -> Tensor:
        with self._computing(latents.device):
            pixels: Tensor = self.vae.decode(self.unscale(latents).to(self.vae.dtype)).sample
        return pixels

    @contextmanager
    def _computing(self, device: torch.device) -> Iterator[None]:
        """Compute in float32 where the VAE must, whatever the model and the region around are."""
        if not self.float32:
            yield
            return
        if self.vae.dtype != torch.float32:  # as a caller converted it; it stays so
            self.vae.float()
        with torch.autocast(device.type, enabled=False):
            yield


def _at_once(height: int, width: int) -> int:
    """How many pictures of a size are encoded or decoded at once."""
    return max(1, MOST_PX // max(1, height * width))


def _encoded_at_once(pixels: Tensor) -> int:
    return min(ENCODED_AT_ONCE, _at_once(*pixels.shape[-2:]))
