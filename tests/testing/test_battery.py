"""The battery finds what it says it finds: plugins that break one promise each, beside honest ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from drivegen.catalog import registry
from drivegen.plugin import Arrays, Now, Plugin, Signal, select_or_null
from drivegen.scene import Frame
from drivegen.testing import CHECKS, Case
from drivegen.testing.frames import elsewhere, frame
from tests.testing.broken import BROKEN, Count


class OneToken(Plugin):
    """One number of the frame as one token; null is a token of its own."""

    def attach(self, backbone: Any) -> None:
        self.to_token = nn.Linear(1, backbone.token_width)
        self.null = nn.Parameter(torch.zeros(backbone.token_width))

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray]:
        return {"count": np.array(len(frame.boxes))}

    def value(self, arrays: Arrays) -> Tensor:
        return arrays["count"].float()

    def token(self, arrays: Arrays) -> Tensor:
        out: Tensor = self.to_token(self.value(arrays).view(-1, 1) / 10)
        return out

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        return Signal(select_or_null(keep, self.token(arrays), self.null)[:, None])


class Leaking(OneToken):
    """Ignores keep."""

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        return Signal(self.token(arrays)[:, None])


class LeakingSix(Leaking):
    """Ignores keep, and finds six in every frame."""

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray]:
        return {"count": np.array(6)}


class LeakingRaster(Leaking):
    """Ignores keep, and the raster is even."""

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray]:
        return {"count": np.full((5, 5), 200, dtype=np.uint8)}

    def value(self, arrays: Arrays) -> Tensor:
        return arrays["count"].float().mean(dim=(1, 2))


class LeakingGreatest(LeakingRaster):
    """Ignores keep, and reads the greatest value alone."""

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray]:
        return {"count": np.arange(2500, dtype=np.int64).reshape(50, 50) // 100}

    def value(self, arrays: Arrays) -> Tensor:
        return arrays["count"].amax(dim=(1, 2)).float()


class LeakingWhenNull(Leaking):
    """Hands the condition over as what describes null."""

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray]:
        return {"null_count": np.array(len(frame.boxes))}

    def value(self, arrays: Arrays) -> Tensor:
        return arrays["null_count"].float()


class TappedToken(OneToken):
    """A token, and a tap beside it."""

    share = 0.0

    def attach(self, backbone: Any) -> None:
        super().attach(backbone)
        self.tap("conv_in", lambda name, site: Louder(self.share))


class Louder(nn.Module):
    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.tensor(share))

    def forward(self, x: Tensor, y: Tensor, now: Now) -> Tensor:
        return self.share * y


class LoudToken(TappedToken):
    share = 0.3


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Leaking, LeakingSix, LeakingRaster, LeakingGreatest, LeakingWhenNull])
def test_a_null_that_leaks_is_found(kind: type[Plugin]) -> None:
    with pytest.raises(AssertionError, match=r"null.* not the same bits"):
        CHECKS["null_leaks_nothing"](Case(kind))


def test_a_fresh_plugin_that_adds_beside_its_tokens_is_found() -> None:
    with pytest.raises(AssertionError, match="a fresh plugin, tokens left out, against none: relative difference"):
        CHECKS["identity_at_initialisation"](Case(LoudToken))


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_every_check_finds_what_breaks_it(check: str) -> None:
    with pytest.raises(AssertionError):
        CHECKS[check](Case(BROKEN[check]))


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_an_honest_plugin_passes_whatever_stands_beside_it(check: str) -> None:
    CHECKS[check](Case(Count, others={"boxes": registry.load("boxes"), "camera": registry.load("camera")}))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [OneToken, TappedToken])
@pytest.mark.parametrize("check", ["identity_at_initialisation", "null_leaks_nothing"])
def test_honest_plugins_pass(kind: type[Plugin], check: str) -> None:
    CHECKS[check](Case(kind))


def test_the_frames_differ_in_what_plugins_read() -> None:
    assert len({len(frame(seed).boxes) for seed in (0, 1)}) == 2
    here, there = frame(1), elsewhere(frame(1))
    assert here.channels == there.channels
    for part in ("token", "boxes", "map", "description", "location", "timestamp_us"):
        assert getattr(here, part) != getattr(there, part), part
    assert len(here.boxes) != len(there.boxes)


class AtTheEnd(Count):
    """Taps whole blocks that are checkpointed, so that its own layer is the last thing which a recomputation reaches."""

    class layer(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.mix = nn.Conv2d(width, width, 1)

        def forward(self, x: Tensor, y: Tensor, now: Now) -> Tensor:
            mixed: Tensor = self.mix(y).tanh() ** 2
            return mixed

    def attach(self, backbone: Any) -> None:
        for block in (0, 1):
            self.tap(f"down_blocks.{block}.resnets.0", lambda name, site: self.layer(site.out_channels))


@pytest.mark.slow
def test_a_recomputation_that_ends_inside_of_a_tap_is_no_mistake() -> None:
    CHECKS["checkpointing_is_exact"](Case(AtTheEnd))
