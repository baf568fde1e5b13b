"""What passes between host and plugins: the layout of a batch, signals, residuals, the state of the current step.

Shapes: B scenes (times T frames), V views, N = B·T·V rows, S tokens, D width, C×h×w latents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Arrays = dict[str, Tensor]


@dataclass(frozen=True)
class Grid:
    """How the N = B·T·V rows of a batch are laid out: (scenes, frames, views), views fastest."""

    scenes: int
    frames: int
    views: int

    @property
    def rows(self) -> int:
        """N."""
        return self.scenes * self.frames * self.views


@dataclass(frozen=True, eq=False)
class Signal:
    """A condition's output of `encode`, computed once per batch.

    Args:
        tokens: (N, S, D), or (B, S, D) to be shared by the views; the host casts them to the latents' dtype. None for none.
        mask: (N, S) or (B, S) bool, True = attended to; None = all are.
        data: anything that the plugin's own hooks need at every step; the host does not read it.
        added: vectors that the network is given besides tokens, (B, …) or (N, …), by the names of the family's `added`.
    """

    tokens: Tensor | None = None
    mask: Tensor | None = None
    data: Any = None
    added: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Residuals:
    """Terms that the host adds inside the UNet, each of the shape at its place; None for none.

    Args:
        down: one for each skip connection, the input's first, as in a ControlNet.
        mid: for the output of the middle block.
        intrablock: one for each down block, added inside it, as in a T2I-Adapter.
    """

    down: tuple[Tensor, ...] | None = None
    mid: Tensor | None = None
    intrablock: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, eq=False)
class Now:
    """The state of the current step, passed to taps.

    Args:
        grid: how the N rows are laid out.
        t: timesteps (N,).
        progress: the fraction of steps done.
        latent_size: (h, w).
        signal: this plugin's own.
        site: the tapped module; its weights may be read, never changed.
        scratch: this plugin's own, for one evaluation of the UNet.
    """

    grid: Grid
    t: Tensor
    progress: float
    latent_size: tuple[int, int]
    signal: Signal
    site: nn.Module
    scratch: dict[str, Any]


class Context(Protocol):
    """The state of the current step, passed to `residuals`."""

    grid: Grid
    progress: float
    added: Mapping[str, Tensor]
    """The vectors (N, …) that the network is given besides tokens; a branch of its family is given them too."""

    def attend(self, names: tuple[str, ...] | None = None) -> AbstractContextManager[Tensor]:
        """Give the tokens (N, S, D) of all plugins, or of the named ones, and apply their mask and scales within the block.

        The networks that receive them must have been named with `Plugin.attends`.
        """
        ...


Denoiser = Callable[..., Tensor]
"""``denoise(x, t, known={})`` → prediction (N, C, h, w); known maps an instance name to False for null."""


def per_row(values: Tensor, grid: Grid) -> Tensor:
    """Repeat values (B·T, …) for the views of each scene: (N, …); values of shape (N, …) are returned as they are."""
    if values.shape[0] == grid.rows:
        return values
    return values.repeat_interleave(grid.views, dim=0)


def select_or_null(keep: Tensor, kept: Tensor, null: Tensor) -> Tensor:
    """Select `kept` where keep is True and `null` elsewhere, so that nothing of the arrays leaks into null.

    Args:
        keep: (B,) bool.
        kept: (B, …).
        null: broadcastable to kept.
    """
    return torch.where(keep.view(-1, *([1] * (kept.ndim - 1))), kept, null.to(kept.dtype))
