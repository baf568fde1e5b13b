"""LoRAs that act each by itself, as tuners: so that one is held to some steps, or to a part of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drivegen.host.host import Host
from drivegen.lora.changes import Shift
from drivegen.lora.files import NETWORKS, LoRA
from drivegen.lora.inject import APART, remove, teach_words
from drivegen.lora.layer import applied
from drivegen.lora.places import Places
from drivegen.lora.shifts import shifted
from drivegen.plugin.tuner import Site, Tuner
from drivegen.support.errors import InputError


def apply_apart(host: Host, loras: Sequence[tuple[str, LoRA, float]]) -> dict[str, str]:
    """Replace the LoRAs of a host by others, each of which acts by itself; `remove` takes them out, too.

    Args:
        host: networks and plugins.
        loras: (name, what it changes, scale) of each.

    Returns the names of the host's tuners by theirs. Raises InputError where one does not fit; then none is active.
    """
    remove(host)
    names: dict[str, str] = {}
    try:
        for i, (name, lora, scale) in enumerate(loras):
            own = next(own for k in range(len(host.tuners) + 1) if (own := f"lora_file_{i + k}") not in host.tuners)
            tuner = FromFile()
            tuner.__dict__["lora"] = lora
            host.add_tuner(own, tuner)
            names[name] = own
            vars(host).setdefault(APART, []).append(own)
            tuner.scale = scale
        teach_words(host, [lora for _, lora, _ in loras])
    except InputError:
        remove(host)
        raise
    return names


def changed_layers(host: Host, lora: LoRA) -> tuple[tuple[str, str], ...]:
    """Return (network, name of the layer) of what a LoRA changes in a host; raises InputError where it does not fit."""
    out = []
    for network, places in _places(host.backbone, lora).items():
        out += [(network, places.named(name)) for name in (*lora.layers.get(network, {}), *lora.shifts.get(network, {}))]
    return tuple(out)


def _places(backbone: Any, lora: LoRA) -> dict[str, Places]:
    out = {}
    for network in NETWORKS:
        if lora.layers.get(network) or lora.shifts.get(network):
            model = backbone.component(network)
            if model is None:
                raise InputError(f"the LoRA changes the {network}, which this {backbone.family.name} model does not have")
            out[network] = Places(network, model)
    return out


class FromFile(Tuner):
    """What a LoRA's file changes, weights, biases and norms, computed beside the layers."""

    lora: LoRA

    def attach(self, backbone: Any) -> None:
        """Change the layers that the file names."""
        for network, places in _places(backbone, self.lora).items():
            pairs = dict(places.factors(name, change) for name, change in self.lora.layers.get(network, {}).items())
            shifts = dict(places.shifted(name, shift) for name, shift in self.lora.shifts.get(network, {}).items())
            for name in dict.fromkeys([*pairs, *shifts]):
                self.change(network, name, lambda _, layer, n=name, p=pairs, s=shifts: _Layer(layer, p.get(n), s.get(n)))  # type: ignore[misc]

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> Path:
        """Refuse: a LoRA's own file is its copy.

        Args:
            folder: not written to.
            dtype: not looked at.
        """
        raise InputError("a LoRA that was read from a file is not written again; its own file is its copy")

    def load(self, source: Path) -> None:
        """Refuse: it has its numbers already."""
        raise InputError(f"a LoRA that was read from a file has its numbers; load {source} as another one")


class _Layer(nn.Module):
    """The change of one layer: y + B·A·x, and differences of its bias or norm.

    Args:
        layer: the layer.
        pair: A and B.
        shift: the difference of its bias, or of a norm.
    """

    A: Tensor
    B: Tensor

    def __init__(self, layer: Any, pair: tuple[Tensor, Tensor] | None, shift: Shift | None) -> None:
        super().__init__()
        self.pair, self.shift = pair is not None, shift
        for name, value in zip(("A", "B"), pair or (), strict=False):
            self.register_buffer(name, value.to(layer.weight.device, layer.weight.dtype), persistent=False)

    def forward(self, x: Tensor, y: Tensor, site: Site) -> Tensor:
        """Return y with what the file adds.

        Args:
            x: what the layer was given.
            y: what it gave.
            site: the layer.
        """
        made = y
        if self.pair:
            inner = applied(site.layer, x, self.A)
            made = made + (F.conv2d(inner, self.B) if self.B.ndim == 4 else F.linear(inner, self.B))
        return made if self.shift is None else shifted(site.layer, x, made, self.shift)
