"""Custom Diffusion (Kumari et al. 2023): keys and values that cross-attention makes of prompts, trained whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drivegen.plugin.tuner import Site, Tuner, own_layers
from drivegen.support import weights
from drivegen.support.errors import InputError
from drivegen.support.files import file_in
from drivegen.support.pickled import read_values
from drivegen.tuners.prompt_part import on_prompt

FILE = "pytorch_custom_diffusion_weights.safetensors"
_FILES = (FILE, "pytorch_custom_diffusion_weights.bin")
_MARK = "_custom_diffusion"


class Replaced(nn.Module):
    """A weight W' in the place of a layer's own W, as ``y + (W' − W)·x``.

    Args:
        layer: the layer.
        prompt: whether it is for prompts' tokens alone; their first learns nothing, as in the paper's code.
    """

    def __init__(self, layer: Any, prompt: bool) -> None:
        super().__init__()
        self.prompt = prompt
        self.weight = nn.Parameter(layer.weight.detach().float().clone())
        bias = None if prompt or layer.bias is None else layer.bias.detach().float().clone()
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: Tensor, y: Tensor, site: Site) -> Tensor:
        """Return what the layer gives with the other weight.

        Args:
            x: what the layer was given (N, S, in).
            y: what it gave (N, S, out).
            site: the layer.
        """
        dtype = self.weight.dtype
        difference = self.weight - site.layer.weight.to(dtype)
        if self.prompt:
            return on_prompt(x, y, site, lambda part: self._of_prompt(part.to(dtype), difference))
        bias = None if self.bias is None else self.bias - site.layer.bias.to(dtype)
        return y + F.linear(x.to(dtype), difference, bias).to(y.dtype)

    def _of_prompt(self, x: Tensor, difference: Tensor) -> Tensor:
        whole = F.linear(x, difference)
        return torch.cat([whole[:, :1].detach(), whole[:, 1:]], dim=1) if whole.requires_grad else whole


class CustomDiffusion(Tuner):
    """Keys and values of prompts' tokens in every cross-attention, saved as diffusers does.

    The words of its subjects are `textual_inversion`s beside it.

    Args:
        query_and_output: whether queries and outputs of these attentions are trained, too, as diffusers' ``crossattn`` does.
    """

    def __init__(self, query_and_output: bool = False) -> None:
        super().__init__()
        self.query_and_output = query_and_output

    @classmethod
    def read_options(cls, source: Path) -> dict[str, Any] | None:
        """Return the options of a file of this layout, or a folder with one; None where it is none."""
        path = file_in(source, _FILES, "Custom Diffusion")
        if not path.is_file():
            return None
        values = weights.names(path, {}) if weights.is_safetensors(path) else read_values(path)
        keys = [key for key in values if isinstance(key, str)] if isinstance(values, (list, dict)) else []
        if not any(_MARK in key for key in keys):
            return None
        return {"query_and_output": any(f"to_q{_MARK}" in key for key in keys)}

    def attach(self, backbone: Any) -> None:
        """Change the cross-attentions of the UNet; the others are named in the file, with nothing."""
        from diffusers.models.attention_processor import Attention

        layers = dict(own_layers(backbone.unet))
        self.others: list[str] = []
        parts = ("to_k", "to_v", *(("to_q", "to_out.0") if self.query_and_output else ()))
        for name, module in backbone.unet.named_modules():
            if isinstance(module, Attention) and not module.is_cross_attention:
                self.others.append(f"{name}.processor")
            elif isinstance(module, Attention) and f"{name}.to_k" in layers:
                for part in parts:
                    self.change("unet", f"{name}.{part}", lambda _, layer, p=part: Replaced(layer, p in ("to_k", "to_v")))  # type: ignore[misc]

    def _named(self) -> dict[str, nn.Parameter]:
        out: dict[str, nn.Parameter] = {}
        for _, name, key in self.sites:
            change: Any = self.changes[key]
            attention, part = name.split(".to_")
            part, dot, number = part.partition(".")
            stem = f"{attention}.processor.to_{part}{_MARK}{dot}{number}"
            out[f"{stem}.weight"] = change.weight
            if change.bias is not None:
                out[f"{stem}.bias"] = change.bias
        return out

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> Path:
        """Write `FILE`, which diffusers' ``load_attn_procs`` reads.

        Args:
            folder: a new one.
            dtype: number format of the weights; None keeps theirs.
        """
        folder.mkdir(parents=True, exist_ok=True)
        state = {key: p.detach().to(dtype or p.dtype) for key, p in self._named().items()}
        weights.save_state(state | {name: torch.zeros(0) for name in self.others}, folder / FILE)
        return folder / FILE

    def load(self, source: Path) -> None:
        """Take the weights of a file of this layout; raises InputError where it is of another base."""
        path = file_in(source, _FILES, "Custom Diffusion")
        state = {key: value for key, value in weights.load_file(path).items() if value.numel()}
        named = self._named()
        if not any(_MARK in key for key in state):
            raise InputError(f"{path} is no file of Custom Diffusion")
        if strange := sorted(set(state) ^ set(named)):
            what = "has" if strange[0] in state else "lacks"
            raise InputError(f"{path} was made for another base, or with other options: it {what} {strange[0]!r:.120}")
        for key, value in state.items():
            if value.shape != named[key].shape:
                its, ours = tuple(value.shape), tuple(named[key].shape)
                raise InputError(f"{path} was made for another base: {key} is of shape {its}, and here of {ours}")
        with torch.no_grad():
            for key, value in state.items():
                named[key].copy_(value)
