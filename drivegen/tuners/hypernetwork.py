"""Hypernetworks as AUTOMATIC1111's interface has them: small networks before the keys and the values of attention."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drivegen.plugin.tuner import Site, Tuner, own_layers
from drivegen.support import files, weights
from drivegen.support.errors import InputError, nearest
from drivegen.tuners.hypernetwork_file import ACTIVATIONS, HypernetworkFile, read
from drivegen.tuners.prompt_part import on_prompt

FILE = "hypernetwork.pt"

_WIDEST, _MOST_LAYERS = 64, 20


class Residual(nn.Module):
    """What one network adds to what it is given: linear layers, each with an activation and a norm behind it if asked.

    Args:
        width: of what it is given.
        structure: widths of the layers as multiples of that, the first and the last 1.
        activation: a name among `ACTIVATIONS`.
        layer_norm: whether a norm follows each layer.
        activate_output: whether the last layer has the activation, too.
    """

    def __init__(
        self, width: int, structure: Sequence[float], activation: str, layer_norm: bool, activate_output: bool
    ) -> None:
        super().__init__()
        sizes = [int(width * factor) for factor in structure]
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(sizes)])
        self.norms = nn.ModuleList([nn.LayerNorm(size) for size in sizes[1:]] if layer_norm else [])
        made = ACTIVATIONS[activation]
        self.activation, self.activate_output = None if made is None else made(), activate_output
        for layer in self.layers:  # that interface's own beginning, but for the last: a fresh one changes nothing
            nn.init.normal_(layer.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added to x (N, S, width)."""
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if self.activation is not None and (self.activate_output or i < len(self.layers) - 1):
                x = self.activation(x)
            x = self.norms[i](x) if self.norms else x
        return x


class _Before(nn.Module):
    """What a hypernetwork changes in the keys or values of one attention: ``W·(x + h(x)) = y + W·h(x)``.

    Args:
        residual: h, which all attentions of one width share.
        cross: whether it is of a cross-attention; there prompts' tokens alone are changed.
    """

    def __init__(self, residual: Residual, cross: bool) -> None:
        super().__init__()
        self.__dict__["residual"] = residual  # its parameters are the tuner's, once
        self.cross = cross

    def forward(self, x: Tensor, y: Tensor, site: Site) -> Tensor:
        """Return y with the difference added.

        Args:
            x: what keys or values are made of (N, S, width).
            y: keys or values.
            site: the layer.
        """
        residual: Residual = self.__dict__["residual"]
        dtype = next(residual.parameters()).dtype

        def added(part: Tensor) -> Tensor:
            return F.linear(residual(part.to(dtype)), site.layer.weight.to(dtype))

        return on_prompt(x, y, site, added) if self.cross else y + added(x).to(y.dtype)


class Hypernetwork(Tuner):
    """Small networks before keys and values, one pair per width of what attentions read; saved as AUTOMATIC1111's `.pt`.

    In cross-attention prompts' tokens alone go through them, as boxes and cameras have no such in that interface. Several add
    up. Drop-out of files is for their training, and is off.

    Args:
        structure: widths of the layers as multiples of the input's, the first and the last 1.
        activation: between the layers, a name among `ACTIVATIONS`.
        layer_norm: whether a norm follows each layer.
        activate_output: whether the activation follows the last layer, too.
        widths: those that are changed; None = all that the attentions of the UNet read.
    """

    def __init__(
        self, structure: Sequence[float] = (1, 2, 1), activation: str = "linear", layer_norm: bool = False,
        activate_output: bool = False, widths: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        fits = isinstance(structure, (list, tuple)) and 2 <= len(structure) <= _MOST_LAYERS
        if not fits or not all(isinstance(f, (int, float)) and 0 < f <= _WIDEST for f in structure):
            raise InputError(f"structure = {structure!r:.80} must be 2 to {_MOST_LAYERS} numbers above 0, up to {_WIDEST}")
        if structure[0] != 1 or structure[-1] != 1:
            raise InputError(
                f"structure = {structure!r:.80} must begin and end with 1: what comes out is added to what goes in"
            )
        if activation not in ACTIVATIONS:
            raise InputError(
                f"activation = {activation!r:.80} is none of {', '.join(ACTIVATIONS)}{nearest(activation, ACTIVATIONS)}"
            )
        self.structure, self.activation, self.layer_norm = tuple(structure), activation, layer_norm
        self.activate_output, self.widths = activate_output, widths
        self.networks = nn.ModuleDict()

    @classmethod
    def read_options(cls, source: Path) -> dict[str, Any] | None:
        """Return the options of a file of this layout; None where it is none."""
        found = read(source)
        return None if found is None else _options(found)

    def attach(self, backbone: Any) -> None:
        """Change the keys and values of the UNet's attentions of these widths; raises InputError where none has one of them."""
        from diffusers.models.attention_processor import Attention

        layers = dict(own_layers(backbone.unet))
        places: dict[int, list[tuple[str, bool]]] = {}
        for name, module in backbone.unet.named_modules():
            if isinstance(module, Attention) and f"{name}.to_k" in layers:
                width = int(layers[f"{name}.to_k"].in_features)
                places.setdefault(width, []).append((name, bool(module.is_cross_attention)))
        wanted = sorted(places) if self.widths is None else list(self.widths)
        strange = [width for width in wanted if width not in places]
        if strange or not wanted:
            raise InputError(
                f"it is for attentions that read width {', '.join(map(str, strange)) or 'none'}, and those of this model read "
                f"{', '.join(map(str, sorted(places)))}: it was made for another base"
            )
        kind = (self.structure, self.activation, self.layer_norm, self.activate_output)
        for width in wanted:
            for part in "kv":
                self.networks[f"{width}_{part}"] = Residual(width, *kind)
        for width in wanted:
            for name, cross in places[width]:
                for part in "kv":
                    residual: Any = self.networks[f"{width}_{part}"]
                    self.change("unet", f"{name}.to_{part}", lambda _, layer, r=residual, c=cross: _Before(r, c))  # type: ignore[misc]
        self.networks.to(next(backbone.unet.parameters()).device)

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> Path:
        """Write `FILE` as AUTOMATIC1111's interface does.

        Args:
            folder: a new one.
            dtype: number format of the weights; None keeps theirs.
        """
        import io

        names = list(dict.fromkeys(name.split("_")[0] for name in self.networks))
        values: dict[Any, Any] = {int(width): tuple(self._state(f"{width}_{part}", dtype) for part in "kv") for width in names}
        values |= {
            "step": 0, "name": "hypernetwork", "layer_structure": list(self.structure), "activation_func": self.activation,
            "is_layer_norm": self.layer_norm, "weight_initialization": "Normal", "use_dropout": False,
            "dropout_structure": None, "last_layer_dropout": False, "activate_output": self.activate_output,
            "sd_checkpoint": None, "sd_checkpoint_name": None,
        }  # fmt: skip
        made = io.BytesIO()
        torch.save(values, made)
        folder.mkdir(parents=True, exist_ok=True)
        files.write_atomically(folder / FILE, made.getvalue())
        return folder / FILE

    def _state(self, name: str, dtype: torch.dtype | None) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        for i, key in enumerate(self._file().places()):
            part: Any = self.networks[name]
            module = part.norms[i // 2] if self.layer_norm and i % 2 else part.layers[i // 2 if self.layer_norm else i]
            for kind in ("weight", "bias"):
                value = getattr(module, kind).detach().cpu()
                state[f"linear.{key}.{kind}"] = value.clone() if dtype is None else value.to(dtype)
        return state

    def _file(self) -> HypernetworkFile:
        return HypernetworkFile({}, self.structure, self.activation, self.layer_norm, self.activate_output, ())

    def load(self, source: Path) -> None:
        """Take the numbers of a file of this layout, of the same options."""
        path = source / FILE if source.is_dir() else source
        found = read(path)
        if found is None:
            raise InputError(f"{path} is no hypernetwork")
        ours = {f"{name}": value for name, value in self._options().items() if name != "widths"}
        its = {name: value for name, value in _options(found).items() if name != "widths"}
        if different := [f"{name} {its[name]}, here {ours[name]}" for name in its if its[name] != ours[name]]:
            raise InputError(f"{path} has another structure: {'; '.join(different)}")
        theirs = {f"{width}_{part}" for width in found.parts for part in "kv"}
        if theirs != set(self.networks):
            here = sorted({int(name.split("_")[0]) for name in self.networks})
            raise InputError(f"{path} is for attentions of the widths {sorted(found.parts)}, and here they are {here}")
        state: dict[str, Tensor] = {}
        for width, pair in found.parts.items():
            for part, one in zip("kv", pair, strict=True):
                for i, key in enumerate(found.places()):
                    kind = "norms" if self.layer_norm and i % 2 else "layers"
                    index = i // 2 if self.layer_norm else i
                    for word in ("weight", "bias"):
                        state[f"{width}_{part}.{kind}.{index}.{word}"] = one[f"linear.{key}.{word}"].float()
        weights.load_strict(self.networks, state, str(path))

    def _options(self) -> dict[str, Any]:
        return _options(self._file())


def _options(file: HypernetworkFile) -> dict[str, Any]:
    return {
        "structure": list(file.structure), "activation": file.activation, "layer_norm": file.layer_norm,
        "activate_output": file.activate_output and file.activation != "linear", "widths": sorted(file.parts) or None,
    }  # fmt: skip
