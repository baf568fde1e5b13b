"""Text: a prompt template over the frame's description, through the backbone's text encoder, as tokens or as one vector."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from drivegen.plugin import Arrays, Input, Now, Plugin, Signal, per_row, select_or_null
from drivegen.plugin.control_branch import zero
from drivegen.scene import Frame
from drivegen.support.errors import InputError


class Text(Plugin):
    """The prompt's tokens; null is the empty prompt, or the negative one.

    template may name {description} and {location}.
    """

    takes_prompt: ClassVar[bool] = True
    accepts = (
        Input("prompt", "text", "in place of the frame's description"),
        Input("negative", "text", "what null is, in place of the empty prompt"),
    )

    def __init__(self, template: str = "{description}") -> None:
        super().__init__()
        try:
            template.format(description="", location="")
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(f"text template {template!r} may use {{description}} and {{location}} only: {error!r}") from error
        self.template = template

    def attach(self, backbone: Any) -> None:
        self.tokenizer = backbone.tokenizer

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray]:
        given = user_input or {}
        prompt = self.template.format(description=given.get("prompt", frame.description), location=frame.location)
        negative = given.get("negative", "")
        return {"ids": self.tokenize(prompt), "null_ids": self.tokenize(negative)}

    def tokenize(self, prompt: str) -> np.ndarray:
        """Give the (S,) ids of a prompt, padded; warns with the text that does not fit."""
        length = min(int(self.tokenizer.model_max_length), 77)
        whole = self.tokenizer(prompt, truncation=False)["input_ids"]
        if len(whole) > length:
            lost = self.tokenizer.decode(whole[length - 1 : -1])
            warnings.warn(f"the prompt has {len(whole)} tokens and {length} fit; dropped: {lost!r}", stacklevel=2)
        ids = self.tokenizer(prompt, truncation=True, max_length=length, padding="max_length")["input_ids"]
        return np.array(ids, dtype=np.int64)

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        if "states" in arrays:
            return Signal(select_or_null(keep, arrays["states"], arrays["null_states"]))
        # Where a row is null the prompt's ids are not read at all.
        ids = select_or_null(keep, arrays["ids"], arrays["null_ids"])
        distinct, rows = torch.unique(ids, dim=0, return_inverse=True)
        return Signal(self._states(distinct)[rows])

    def precompute(self, arrays: Arrays) -> Arrays | None:
        if any(parameter.requires_grad for parameter in self.backbone.text_encoder.parameters()):
            return None
        return {"states": self._states(arrays["ids"]), "null_states": self._states(arrays["null_ids"])}

    def _states(self, ids: Tensor) -> Tensor:
        """Run the text encoder on ids (B, S): what is appended (B, S, D)."""
        states: Tensor = self.backbone.text_encoder(ids).last_hidden_state
        return states


class PooledText(Text):
    """The text encoder's state at the end of the prompt, through two layers, as a term of the time embedding.

    Tokens reach a UNet at its cross-attentions, the time embedding reaches each of its residual blocks: so what a prompt says
    of the whole picture (its light, its weather) gets to all resolutions, as in SDXL (Podell et al. 2023, section 2.2). Null is
    the empty prompt, or the negative one.
    """

    def attach(self, backbone: Any) -> None:
        super().attach(backbone)
        width, time = int(backbone.text_encoder.config.hidden_size), int(backbone.unet.time_embedding.linear_2.out_features)
        self.project = nn.Sequential(nn.Linear(width, time), nn.SiLU(), zero(nn.Linear(time, time)))
        self.tap("time_embedding", lambda name, site: _Vector())

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        return Signal(data=self.project(super().encode(arrays, keep).tokens))

    def _states(self, ids: Tensor) -> Tensor:
        pooled: Tensor = self.backbone.text_encoder(ids).pooler_output
        return pooled


class _Vector(nn.Module):
    """The vector of each scene, for all of its views."""

    def forward(self, x: Tensor, y: Tensor, now: Now) -> Tensor:
        return per_row(now.signal.data, now.grid)
