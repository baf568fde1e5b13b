"""The networks of a first stage: built, started from another's weights, and called through one interface."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def latents_of(network: Any, pixels: Tensor) -> Tensor:
    """Encode pixels (N, 3, H, W) in [−1, 1] to latents (N, C, h, w): a posterior's mean, or latents before quantisation."""
    encoded = network.encode(pixels)
    return encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean


def reconstruct(network: Any, pixels: Tensor) -> Tensor:
    """Encode and decode pixels (N, 3, H, W) without sampling."""
    return network.decode(latents_of(network, pixels)).sample


def encoding_parts(network: Any) -> list[nn.Module]:
    """Return the modules that make latents of pictures, and the codes where there are any."""
    names = ("encoder", "quant_conv", "quantize")
    return [part for name in names if isinstance(part := getattr(network, name, None), nn.Module)]


@torch.no_grad()
def take_over(network: Any, source: Any) -> None:
    """Copy the weights that two networks share: every weight of the same name, as far as both extend along each dimension.

    So a first stage gets more latent channels or wider layers and keeps what it has learned. Means and log-variances are the
    halves of a tensor, and each is copied to its own half.
    """
    given, has_variance = source.state_dict(), type(network).__name__ == "AutoencoderKL"
    for name, own in network.state_dict().items():
        if name not in given or given[name].ndim != own.ndim:
            continue
        rows = 2 if has_variance and name.startswith(("encoder.conv_out.", "quant_conv.")) else 1
        columns = 2 if has_variance and name == "quant_conv.weight" else 1
        for a, b in zip(_parts(own, rows, columns), _parts(given[name], rows, columns), strict=True):
            shared = tuple(slice(0, min(m, n)) for m, n in zip(a.shape, b.shape, strict=True))
            a[shared] = b[shared].to(a)


def _parts(tensor: Tensor, rows: int, columns: int) -> list[Tensor]:
    return [part for row in tensor.chunk(rows) for part in (row.chunk(columns, 1) if columns > 1 else [row])]
