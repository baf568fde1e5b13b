"""Several LoRAs as one, or within the weights of a model: what generation with all of them computes, in one file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from drivegen.lora.changes import LowRank, Shift, as_factors, product
from drivegen.lora.files import NETWORKS, LoRA
from drivegen.lora.places import Places
from drivegen.support.errors import InputError

MERGED = "drivegen.merged_of"
"""What the header of a merged file calls the files that it is made of, with their hashes and scales."""


def merged(backbone: Any, loras: Sequence[tuple[LoRA, float]]) -> LoRA:
    """Return the sum of LoRAs, each times its scale: of the summed rank, or of the layer's own where that is less.

    Args:
        backbone: whose layers they change.
        loras: each with its scale.

    Raises InputError where one does not fit, and where one brings words, biases or norms, which a LoRA's file cannot say.
    """
    _refuse_words(loras)
    if any(any(lora.shifts.values()) for lora, _ in loras):
        raise InputError("a LoRA changes biases or norms, which diffusers' layout of LoRAs cannot say; merge into a model")
    layers: dict[str, dict[str, Any]] = {}
    for network, name, _, pairs in _placed(backbone, loras):
        a = torch.cat([a for a, _ in pairs])
        b = torch.cat([b for _, b in pairs], dim=1)
        layers.setdefault(network, {})[name] = LowRank(a, b) if len(a) < min(len(b), a[0].numel()) else _whole(a, b)
    return LoRA(layers)


@torch.no_grad()
def fuse(backbone: Any, loras: Sequence[tuple[LoRA, float]]) -> None:
    """Add LoRAs, each times its scale, to the weights of a backbone's own layers; nothing of them is beside the layers then.

    Args:
        backbone: without LoRAs in it; it is changed for good.
        loras: each with its scale.

    Raises InputError where one does not fit, or brings words, and changes nothing then.
    """
    _refuse_words(loras)
    shifts = list(_shifted(backbone, loras))
    for _, _, layer, pairs in list(_placed(backbone, loras)):
        delta = sum((product(a, b) for a, b in pairs), torch.zeros(layer.weight.shape))
        layer.weight.copy_(layer.weight.float() + delta.to(layer.weight.device))
    for layer, shift, scale in shifts:
        for name, value in (("weight", shift.weight), ("bias", shift.bias)):
            if value is not None:
                own = getattr(layer, name)
                own.copy_(own.float() + scale * value.to(own.device))


def check(backbone: Any, lora: LoRA) -> None:
    """Raise InputError where a LoRA does not fit a backbone, or brings words."""
    _refuse_words([(lora, 1.0)])
    for _ in (*_placed(backbone, [(lora, 1.0)]), *_shifted(backbone, [(lora, 1.0)])):
        pass


def _refuse_words(loras: Sequence[tuple[LoRA, float]]) -> None:
    words = [word for lora, _ in loras for word in lora.words]
    if words:
        raise InputError(f"a LoRA brings the word {words[0]!r:.80}, which is neither of layers nor of weights; leave it out")


def _placed(backbone: Any, loras: Sequence[tuple[LoRA, float]]) -> Iterable[tuple[str, str, Any, list[tuple[Tensor, Tensor]]]]:
    """Give each layer that is changed, with A and B of each LoRA, whose scale is in B."""
    for network, model, places in _networks(backbone, [lora for lora, _ in loras]):
        found: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for lora, scale in loras:
            for name, change in lora.layers.get(network, {}).items():
                own, (a, b) = places.factors(name, change)
                found.setdefault(own, []).append((a.float(), scale * b.float()))
        for name, pairs in found.items():
            yield network, name, model.get_submodule(name), pairs


def _shifted(backbone: Any, loras: Sequence[tuple[LoRA, float]]) -> Iterable[tuple[Any, Shift, float]]:
    for network, model, places in _networks(backbone, [lora for lora, _ in loras]):
        for lora, scale in loras:
            for name, shift in lora.shifts.get(network, {}).items():
                own, shift = places.shifted(name, shift)
                yield model.get_submodule(own), shift, scale


def _networks(backbone: Any, loras: Sequence[LoRA]) -> Iterable[tuple[str, nn.Module, Places]]:
    for network in NETWORKS:
        if any(lora.layers.get(network) or lora.shifts.get(network) for lora in loras):
            model = backbone.component(network)
            if model is None:
                raise InputError(f"a LoRA changes the {network}, which this {backbone.family.name} model does not have")
            yield network, model, Places(network, model)


def _whole(a: Tensor, b: Tensor) -> LowRank:
    return LowRank(*as_factors(product(a, b)))
