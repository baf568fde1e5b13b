"""A patch discriminator (Isola et al. 2017) and its hinge loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call


class PatchDiscriminator(nn.Module):
    """Four 4×4 convolutions, two of them strided: one logit per patch of a picture (N, 3, H, W) in [−1, 1].

    Batch norms use the batch's own statistics and keep none, so that only weights have to be saved.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (channels, 2 * channels, 4 * channels)
        self.layers = nn.Sequential(
            nn.Conv2d(3, widths[0], 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(widths[0], widths[1], 4, 2, 1, bias=False), nn.BatchNorm2d(widths[1], track_running_stats=False),
            nn.LeakyReLU(0.2),
            nn.Conv2d(widths[1], widths[2], 4, 1, 1, bias=False), nn.BatchNorm2d(widths[2], track_running_stats=False),
            nn.LeakyReLU(0.2), nn.Conv2d(widths[2], 1, 4, 1, 1),
        )  # fmt: skip
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0.0, 0.02)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layers(pictures)

    def judged_by_others(self, pictures: Tensor) -> Tensor:
        """Return logits whose gradients reach the pictures but not the weights."""
        fixed = {name: parameter.detach() for name, parameter in self.named_parameters()}
        out: Tensor = functional_call(self, fixed, (pictures,))
        return out


def hinge(real: Tensor, made: Tensor) -> Tensor:
    """Return the discriminator's hinge loss from its logits (Lim and Ye 2017)."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + made).mean())


def adaptive_weight(made: Tensor, last: Tensor, wanted: Tensor, adversarial: Tensor) -> Tensor:
    """Return the weight at which two losses have gradients of equal norm at the generator's last layer (Esser et al. 2021, eq.
    7).

    Args:
        made: the generator's picture, with its graph.
        last: the weight of its last layer.
        wanted: gradient of the other losses at the picture.
        adversarial: gradient of the adversarial loss at the picture.
    """
    one, two = (torch.autograd.grad(made, last, gradient, retain_graph=True)[0].norm() for gradient in (wanted, adversarial))
    return (one / (two + 1e-6)).clamp(0, 1e4)
