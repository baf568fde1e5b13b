"""Where in the picture a plugin acts: its terms are multiplied by a mask, at the resolution of each."""

from __future__ import annotations

import torch
from torch import Tensor

from drivegen.support.errors import InputError


class Region:
    """A mask (N, 1, H, W) of 0 to 1 that is resized to any term; 1 = the plugin acts there, 0 = it does not.

    Its values at a smaller size are means over the pixels that fall into one cell.
    """

    def __init__(self, mask: Tensor) -> None:
        if mask.ndim != 4 or mask.shape[1] != 1 or not bool(((mask >= 0) & (mask <= 1)).all()):
            raise InputError(f"a region is (N, 1, H, W) of 0 to 1, not of shape {tuple(mask.shape)}")
        self.mask = mask.float()
        self._sizes: dict[tuple[int, int], Tensor] = {}

    def at(self, size: tuple[int, int]) -> Tensor:
        """Return the mask (N, 1, h, w) at a size (h, w)."""
        if size not in self._sizes:
            self._sizes[size] = torch.nn.functional.interpolate(self.mask, size=size, mode="area")
        return self._sizes[size]

    def on(self, term: Tensor, like: Tensor, latent_size: tuple[int, int]) -> Tensor:
        """Multiply a term by the mask.

        Args:
            term: added to a stream of the UNet.
            like: the stream, (N, C, h, w) or (N, L, C) with the L places of one level of the UNet.
            latent_size: (h, w).

        Raises InputError for a stream without places in the picture.
        """
        if like.ndim == 4:
            return term * self.at((like.shape[-2], like.shape[-1])).to(term.dtype)
        if like.ndim == 3:
            size = latent_size
            while size[0] * size[1] > like.shape[1]:
                size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
            if size[0] * size[1] == like.shape[1]:
                return term * self.at(size).flatten(2).transpose(1, 2).to(term.dtype)
        raise InputError(f"a region does not fit a term of shape {tuple(like.shape)}, which has no places in the picture")
