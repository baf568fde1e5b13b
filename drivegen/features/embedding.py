"""Pictures as vectors, for distances between sets of pictures: which network, and how pictures are brought to its size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from drivegen.features import efficientnet, inception
from drivegen.support.files import sha256

_TOGETHER = 16
"""Pictures that are computed at once."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """A network that turns pictures into vectors; `facts` says all that its vectors depend on, as JSON values.

    compute maps pictures (N, 3, side, side) in [−1, 1] to (N, D).
    """

    facts: dict[str, Any]
    compute: Callable[[Tensor], Tensor]
    side_px: int
    antialias: bool
    device: torch.device

    @torch.no_grad()
    def __call__(self, pictures: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return a vector (N, D) of each picture (H, W, 3)."""
        found = []
        for part in torch.from_numpy(np.stack(list(pictures))).split(_TOGETHER):
            x = part.to(self.device).permute(0, 3, 1, 2).float()
            x = F.interpolate(x, (self.side_px,) * 2, mode="bilinear", align_corners=False, antialias=self.antialias)
            found.append(self.compute(x / 127.5 - 1).float().cpu())
        return torch.cat(found).numpy()


def load(file: Path | None = None, device: torch.device | str = "cpu") -> Embedding:
    """Load the FID's Inception v3 from its file of weights, or without one EfficientNet-Lite0 from its installed package.

    Raises InputError where that is not installed, or the file holds something else.
    """
    device = torch.device(device)
    if file is not None:
        net: Any = inception.load(file)
        name, side, width, antialias = "Inception v3, FID (pool3)", inception.SIDE_PX, inception.WIDTH, False
    else:
        net = efficientnet.load()
        name, side, width, antialias = "EfficientNet-Lite0, ImageNet (last mean)", 224, efficientnet.WIDTH, True
    facts = {
        "features": name, "weights": sha256(file or efficientnet.shipped()), "width": width,
        "resize": f"{side}x{side}, bilinear, {'antialiased' if antialias else 'not antialiased'}",
    }  # fmt: skip
    return Embedding(facts, net.to(device).embedding, side, antialias, device)
