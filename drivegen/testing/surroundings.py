"""Checks of a plugin beside others: their order, their scales, clips of several frames, backbones of other widths."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from drivegen.host import batch as data
from drivegen.host.evaluation import Conditions
from drivegen.plugin import Arrays, Grid, Now, Plugin, Signal
from drivegen.support.errors import InputError
from drivegen.testing.case import Case, close
from drivegen.testing.frames import elsewhere


class Witness(Plugin):
    """A second plugin that adds a term of its own at the UNet's input, to test order with."""

    def attach(self, backbone: Any) -> None:
        def build(name: str, site: nn.Module) -> nn.Module:
            torch.manual_seed(5)
            return _WitnessLayer(int(backbone.unet.config.block_out_channels[0]))

        self.tap("conv_in", build)


class _WitnessLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.randn(1, width, 1, 1))

    def forward(self, x: Tensor, y: Tensor, now: Now) -> Tensor:
        return self.shift


@torch.no_grad()
def order_does_not_matter(case: Case) -> None:
    """Before or after another plugin, the prediction is the same."""
    after, before = (case.host(extra={"witness": Witness}, first=first) for first in (True, False))
    # Layers are initialised in the order of attachment, so the same weights have to be put there.
    before.plugins.load_state_dict(after.plugins.state_dict())
    close(case.run(before), case.run(after), "before another plugin against after it")


class TokenWitness(Plugin):
    """A second plugin that appends three tokens of its own."""

    def attach(self, backbone: Any) -> None:
        torch.manual_seed(6)
        self.tokens = nn.Parameter(torch.randn(3, backbone.token_width))

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        return Signal(self.tokens.expand(len(keep), -1, -1))


@torch.no_grad()
def others_scales_reach_it(case: Case) -> None:
    """Masks and scales of other plugins' tokens apply in the UNet and in the plugin's branches.

    Tokens that are masked out change nothing, and tokens given twice at half the scale equal those given once.
    """
    host = case.host(extra={"token_witness": TokenWitness})
    batch = case.batch(host)
    plain = host.encode(batch.arrays, batch.grid)
    signals = dict(plain.signals)
    for name, signal in plain.signals.items():
        if name != case.name and signal.tokens is not None:
            # Only the witness is doubled: where all tokens are, attention without scales is the same.
            parts = [signal.tokens] * (2 if name == "token_witness" else 1)
            mask = signal.tokens.new_ones(signal.tokens.shape[:2]).bool() if signal.mask is None else signal.mask
            masks = [mask] * len(parts)
            signals[name] = replace(
                signal, tokens=torch.cat([*parts, 7 + signal.tokens], dim=1),
                mask=torch.cat([*masks, torch.zeros_like(mask)], dim=1),
            )  # fmt: skip
    changed = Conditions(batch.grid, signals, {"token_witness": 0.5})
    what = "others' tokens masked, and twice at half the scale, against plain (is every branch named with self.attends?)"
    close(case.predict(host, changed), case.predict(host, plain), what)


@torch.no_grad()
def works_on_clips(case: Case) -> None:
    """Two clips of two frames give the results of four single frames or, where frames of a clip see each other, a
    prediction.
    """
    host = case.host()
    here = case.frames[:2]
    batch = case.batch(host, (*here, *map(elsewhere, here)))
    views, count = batch.grid.views, batch.grid.scenes
    keep = torch.tensor([False, *[True] * (count - 1)])
    clips = case.run(host, keep, batch=data.Batch(Grid(count // 2, 2, views), batch.arrays))
    if not case.clips:
        close(clips, case.run(host, keep, batch=batch), "clips of two frames against single frames")


@torch.no_grad()
def fits_other_widths(case: Case) -> None:
    """On a backbone of other widths it predicts, or is refused where it is attached."""
    backbone = case.wider_backbone()
    if backbone is None:
        return
    try:
        host = case.host(backbone=backbone)
    except InputError:
        return
    try:
        case.run(host)
    except InputError as error:
        raise AssertionError(f"it does not work on a backbone of other widths: {error}") from error
