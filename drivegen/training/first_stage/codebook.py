"""The codes of a vector-quantised first stage during training (van den Oord et al. 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivegen.training.first_stage.settings import CodebookConfig


class Codebook(nn.Module):
    """Quantises latents by the codes (K, D) of a VQModel, which it updates.

    counts (K,) and sums (K, D) are moving averages of the number of latents assigned to a code in a step, and of their sum.
    """

    counts: Tensor
    sums: Tensor

    def __init__(self, codes: nn.Embedding, settings: CodebookConfig) -> None:
        super().__init__()
        self.settings = settings
        self.__dict__["codes"] = codes  # the network's own: its parameters are not this module's
        codes.weight.requires_grad_(settings.update == "gradient")
        self.register_buffer("counts", torch.ones(codes.num_embeddings))
        self.register_buffer("sums", codes.weight.detach().clone().float())

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise latents (N, D, h, w): the codes, with the latents' gradient; the loss; the codes' indices (N·h·w,)."""
        flat = latents.float().movedim(1, -1).flatten(0, -2)
        table: Tensor = self.__dict__["codes"].weight.float()
        numbers = torch.cdist(flat.detach(), table.detach()).argmin(1)
        near = table[numbers]
        loss = self.settings.commitment * F.mse_loss(flat, near.detach())
        if self.settings.update == "gradient":
            loss = loss + F.mse_loss(near, flat.detach())
        straight = flat + (near - flat).detach()
        shape = (latents.shape[0], *latents.shape[2:], latents.shape[1])
        return straight.view(shape).movedim(-1, 1), loss, numbers

    @torch.no_grad()
    def learn(self, latents: Tensor, numbers: Tensor) -> None:
        """Move the codes towards the latents (N, D, h, w) assigned to them, and reassign unused ones."""
        s, codes = self.settings, self.__dict__["codes"].weight
        flat = latents.detach().float().movedim(1, -1).flatten(0, -2)
        found = torch.bincount(numbers, minlength=len(codes)).float()
        self.counts.lerp_(found, 1 - s.decay)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, numbers, flat), 1 - s.decay)
        if s.update == "ema":
            used = self.counts > 1e-3
            codes[used] = (self.sums[used] / self.counts[used, None]).to(codes)
        idle = (self.counts < s.revive_below).nonzero()[:, 0]
        if len(idle):
            chosen = flat[torch.randint(len(flat), (len(idle),)).to(flat.device)]
            codes[idle], self.sums[idle], self.counts[idle] = chosen.to(codes), chosen, 1.0

    def usage(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the share of the codes that a batch uses, and the perplexity of their use."""
        share = torch.bincount(numbers, minlength=len(self.counts)).float()
        share = share / share.sum()
        return (share > 0).float().mean(), torch.exp(-(share * (share + 1e-10).log()).sum())
