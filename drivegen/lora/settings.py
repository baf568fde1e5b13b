"""Settings of a trainable LoRA."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from drivegen.support.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """A LoRA that is trained inside the frozen UNet, beside the plugins or alone."""

    rank: int = field(default=8, metadata={"ge": 1, "le": 1024})
    """Width of its two factors."""
    alpha: float | None = field(default=None, metadata={"gt": 0, "le": 1e6})
    """Its term counts alpha / rank; None = rank."""
    targets: str | tuple[str, ...] = r".*\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"
    """Pattern of the UNet's layers that it changes, or their names; a plugin's layers are not among them."""
    text_encoder: bool = False
    """Whether layers of the text encoder are changed, too."""
    text_targets: str | tuple[str, ...] = r".*self_attn\.(q_proj|k_proj|v_proj|out_proj)"
    """Pattern of the text encoder's layers that it changes, or their names."""

    def __post_init__(self) -> None:
        for name in ("targets", "text_targets"):
            if not isinstance(getattr(self, name), str):
                continue
            try:
                re.compile(getattr(self, name))
            except re.error as error:
                raise InputError(f"{name} = {getattr(self, name)!r} is not a regular expression: {error}") from error
