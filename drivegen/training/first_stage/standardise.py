"""Latents of mean 0 and standard deviation 1, which the second stage learns best."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from drivegen.training.fill import to_unit
from drivegen.training.first_stage.images import Images
from drivegen.training.first_stage.networks import latents_of


@torch.no_grad()
def standardise(vae: Any, dataset: Images, count: int = 512) -> None:
    """Bring every latent channel to mean 0 and standard deviation 1.

    The change is folded into the 1×1 convolutions around the latents, so reconstructions do not change and scaling_factor is 1.
    One factor for all channels would leave channels of small variance below the noise for most of the schedule. A network
    without those convolutions gets one factor for all.

    Args:
        vae: the network, changed in place.
        dataset: the images that the statistics are measured on.
        count: number of images, spread over the dataset.
    """
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
    device = next(vae.parameters()).device
    latents = []
    for part in np.array_split(chosen, max(1, len(chosen) // 8)):
        pixels = torch.stack([torch.from_numpy(np.ascontiguousarray(dataset[int(i)][1])) for i in part]).to(device)
        latents.append(latents_of(vae, to_unit(pixels)).float())
    found = torch.cat(latents)
    before, after = vae.quant_conv, vae.post_quant_conv
    if before is None or after is None or hasattr(vae, "quantize"):
        vae.register_to_config(scaling_factor=1.0 / float(found.std()))
        return
    mean, std = found.mean((0, 2, 3)), found.std((0, 2, 3))
    channels = len(mean)
    before.weight[:channels] /= std[:, None, None, None]
    before.bias[:channels] = (before.bias[:channels] - mean) / std
    before.bias[channels:] -= 2 * std.log()
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= std[None, :, None, None]
    vae.register_to_config(scaling_factor=1.0)
