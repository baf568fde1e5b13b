"""Plugins that break one promise each, as their authors might; `BROKEN` names the check that must find it."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from drivegen.plugin import Arrays, Now, Plugin, Residuals, Signal, Unknown, select_or_null
from drivegen.plugin.control_branch import control_branch, zero
from drivegen.scene import Frame


class Shift(nn.Module):
    """A term for the UNet's input: a vector per row, through a layer that begins at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = zero(nn.Linear(1, width))

    def forward(self, x: Tensor, y: Tensor, now: Now) -> Tensor:
        values: Tensor = self.project(self.rows(now))
        return values[:, :, None, None]

    def rows(self, now: Now) -> Tensor:
        """The value (N, 1) of each row, from one per frame (B, 1)."""
        return now.signal.data.repeat_interleave(now.grid.views, dim=0)


class Count(Plugin):
    """How many boxes there are, added to the UNet's input; keeps every promise."""

    layer: ClassVar[type[Shift]] = Shift

    def attach(self, backbone: Any) -> None:
        self.tap("conv_in", lambda name, site: self.layer(site.out_channels))

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray]:
        return {"count": np.array([len(frame.boxes)], np.float32)}

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        return Signal(data=select_or_null(keep, self.value(arrays), torch.zeros(())))

    def value(self, arrays: Arrays) -> Tensor:
        """What is told (B, 1)."""
        return arrays["count"]


class Loud(Count):
    """Begins with an effect."""

    class layer(Shift):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            nn.init.ones_(self.project.weight)


class Silent(Count):
    """Has no effect at all."""

    class layer(Shift):
        def forward(self, x: Tensor, y: Tensor, now: Now) -> Tensor:
            return 0.0 * super().forward(x, y, now)


class Deaf(Count):
    """Prepares arrays, and reads none of them."""

    def value(self, arrays: Arrays) -> Tensor:
        return torch.ones(len(arrays["count"]), 1)


class Leaking(Count):
    """Pays no heed to keep."""

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        return Signal(data=self.value(arrays))


class Meddling(Count):
    """Changes the backbone where it is attached."""

    def attach(self, backbone: Any) -> None:
        super().attach(backbone)
        with torch.no_grad():
            backbone.unet.conv_out.bias.add_(1.0)


class Idle(Count):
    """Has a layer that takes part in nothing."""

    def attach(self, backbone: Any) -> None:
        super().attach(backbone)
        self.idle = nn.Linear(1, 1)


class Borrowing(Count):
    """Holds the backbone's own memory as a buffer."""

    def attach(self, backbone: Any) -> None:
        super().attach(backbone)
        self.register_buffer("bias", backbone.unet.conv_in.bias.detach())


class Forgetful(Count):
    """Draws a number where it is attached, and keeps it where no state dict sees it."""

    drawn: ClassVar[int] = 0

    def attach(self, backbone: Any) -> None:
        super().attach(backbone)
        Forgetful.drawn += 1
        self.factor = float(Forgetful.drawn)

    def value(self, arrays: Arrays) -> Tensor:
        return arrays["count"] * self.factor


class Closing(Count):
    """Keeps its layer where a copy does not copy it, and so calls the original's for ever."""

    class layer(Shift):
        known: ClassVar[list[nn.Linear]] = []

        def __init__(self, width: int) -> None:
            super().__init__(width)
            self.place = len(self.known)
            self.known.append(self.project)

        def forward(self, x: Tensor, y: Tensor, now: Now) -> Tensor:
            values: Tensor = self.known[self.place](self.rows(now))
            return values[:, :, None, None]


class Counting(Count):
    """Is another at each call, so that a recomputation differs."""

    class layer(Shift):
        calls = 0

        def forward(self, x: Tensor, y: Tensor, now: Now) -> Tensor:
            type(self).calls += 1
            return super().forward(x, y, now) * self.calls


class ReadingOthers(Count):
    """Looks at what a plugin before it has made of the stream, and so depends on the order."""

    class layer(Shift):
        def forward(self, x: Tensor, y: Tensor, now: Now) -> Tensor:
            return super().forward(x, y, now) * y


class Averaging(Count):
    """Mixes the frames of a batch."""

    def value(self, arrays: Arrays) -> Tensor:
        return arrays["count"].mean(dim=0, keepdim=True).expand(len(arrays["count"]), 1)


class OneScene(Count):
    """Takes the first value of each scene for all its frames: right as long as there is one frame per scene."""

    class layer(Shift):
        def rows(self, now: Now) -> Tensor:
            return now.signal.data[: now.grid.scenes].repeat_interleave(now.grid.rows // now.grid.scenes, dim=0)


class ThirtyTwo(Plugin):
    """Believes that tokens are 32 wide."""

    def attach(self, backbone: Any) -> None:
        self.token = nn.Parameter(torch.zeros(32))

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        return Signal(self.token.expand(len(keep), 1, -1))


class Fine(Count):
    """Tells digits that bfloat16 does not have."""

    class layer(Shift):
        def forward(self, x: Tensor, y: Tensor, now: Now) -> Tensor:
            coarse = y.to(torch.bfloat16).float()
            return 50 * (y - coarse) + super().forward(x, y, now) if y.dtype == torch.float32 else super().forward(x, y, now)


class Unnamed(Count):
    """Names another network than its branch, which mask and scales then do not reach."""

    def attach(self, backbone: Any) -> None:
        super().attach(backbone)
        self.branch = control_branch(backbone.unet)
        self.attends(nn.Identity())  # not the branch

    def residuals(self, x: Tensor, t: Tensor, context: Any, signal: Signal) -> Residuals:
        embedding = torch.zeros(len(x), 32, *x.shape[-2:])
        with context.attend() as tokens:
            states = 1.0 * tokens  # another object than the one that was given
            down, mid = self.branch(x, t, encoder_hidden_states=states, controlnet_cond=embedding, return_dict=False)
        return Residuals(tuple(down), mid)


class Guessing(Count):
    """Says that a frame is unknown, and then tells its guess."""

    neighbours = (0.0, 0.5)

    def prepare(self, frame: Frame, user_input: Any = None) -> Any:
        known = super().prepare(frame)
        return known if frame.neighbours else Unknown({"count": known["count"] + 3})

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        return Signal(data=self.value(arrays))


class Rounding(Count):
    """Keeps less in the cache than it needs."""

    def precompute(self, arrays: Arrays) -> Arrays | None:
        return {"count": (arrays["count"] / 4).round() * 4}


BROKEN: dict[str, type[Plugin]] = {
    "identity_at_initialisation": Loud, "has_an_effect": Silent, "reads_its_arrays": Deaf, "null_leaks_nothing": Leaking,
    "scale_zero_is_absence": Meddling, "gradients_reach_the_plugin_only": Idle, "state_holds_no_backbone": Borrowing,
    "survives_saving": Forgetful, "survives_copies": Closing, "checkpointing_is_exact": Counting,
    "order_does_not_matter": ReadingOthers, "others_scales_reach_it": Unnamed, "batch_equals_singles": Averaging,
    "works_on_clips": OneScene, "fits_other_widths": ThirtyTwo, "unknown_is_null": Guessing,
    "precomputed_is_the_same": Rounding,
    "bf16_is_near_fp32": Fine,
}  # fmt: skip
