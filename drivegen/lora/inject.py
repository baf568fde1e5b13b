"""LoRAs in a host: added and removed, without changing the plugins and what is trainable or frozen."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from drivegen.host.host import Host
from drivegen.lora.files import NETWORKS, LoRA
from drivegen.lora.places import Places
from drivegen.lora.shifts import add_shift, remove_shifts
from drivegen.support.errors import InputError
from drivegen.words.teach import forget, teach

_ADAPTER = "default"
_WORDS = "_lora_words"
"""Where a host notes which of its words came with LoRAs, and go with them."""
APART = "_lora_tuners"
"""Where it notes which of its tuners are LoRAs that act by themselves."""


def apply(host: Host, loras: Sequence[tuple[LoRA, float]]) -> None:
    """Replace the LoRAs of a host by others, each with a scale; their sum is one LoRA of the summed rank.

    What is trainable or frozen does not change. Raises InputError where one does not fit; then none is active.
    """
    remove(host)
    try:
        for network in NETWORKS:
            model: nn.Module | None = host.backbone.component(network)
            if model is None:
                if any(lora.layers.get(network) or lora.shifts.get(network) for lora, _ in loras):
                    said = f"which this {host.backbone.family.name} model does not have"
                    raise InputError(f"the LoRA changes the {network}, {said}")
                continue
            places = Places(network, model)
            total: dict[str, tuple[Tensor, Tensor]] = {}
            for lora, scale in loras:
                for name, change in lora.layers.get(network, {}).items():
                    own, (a, b) = places.factors(name, change)
                    old = total.get(own)
                    total[own] = (
                        (a, scale * b) if old is None else (torch.cat([old[0], a]), torch.cat([old[1], scale * b], dim=1))
                    )
                for name, shift in lora.shifts.get(network, {}).items():
                    add_shift(model, *places.shifted(name, shift), scale)
            if total:
                _put(host, network, total)
        teach_words(host, [lora for lora, _ in loras])
    except InputError:
        remove(host)
        raise
    host.rehook()


def teach_words(host: Host, loras: Sequence[LoRA]) -> None:
    """Add the words that LoRAs bring; the same word of two files is one where its vectors are the same."""
    brought: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for lora in loras:
        for there, own in zip(brought, (lora.words, lora.second_words), strict=True):
            for word, vectors in own.items():
                if word in there and not torch.equal(vectors, there[word]):
                    raise InputError(
                        f"two LoRAs bring the word {word!r:.80}, each with vectors of its own; leave one of them out"
                    )
                there[word] = vectors
    if brought[0]:
        teach(host.backbone, *brought)
        vars(host)[_WORDS] = tuple(brought[0])


def _put(host: Host, network: str, placed: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    from peft import LoraConfig as PeftConfig

    model: Any = getattr(host.backbone, network)
    ranks = {name: a.shape[0] for name, (a, _) in placed.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    others = {f"^{re.escape(name)}": r for name, r in ranks.items() if r != rank}
    config = PeftConfig(
        r=rank, lora_alpha=rank, target_modules=list(placed), rank_pattern=others, alpha_pattern=others, init_lora_weights=False
    )
    _inject(host, model, config)
    with torch.no_grad():
        for name, (a, b) in placed.items():
            layer = model.get_submodule(name)
            for part, value in ((layer.lora_A[_ADAPTER], a), (layer.lora_B[_ADAPTER], b)):
                part.to(layer.weight.dtype)
                part.weight.copy_(value)
                part.requires_grad_(False)


def _inject(host: Host, model: Any, config: Any) -> None:
    """Let PEFT wrap layers, and restore requires_grad of all other parameters, which PEFT freezes."""
    from peft import inject_adapter_in_model

    trained = {id(p) for p in host.parameters() if p.requires_grad}
    try:
        inject_adapter_in_model(config, model, adapter_name=_ADAPTER)
    except ValueError as error:
        raise InputError(f"no layer can take the LoRA: {' '.join(str(error).split())[:300]}") from error
    for name, parameter in host.named_parameters():
        if ".lora_" not in name:
            parameter.requires_grad_(id(parameter) in trained)
    model.train(model.training)
    host.rehook()


def remove(host: Host) -> None:
    """Remove every LoRA: the host's original layers are in place again."""
    from diffusers.utils import recurse_remove_peft_layers

    for name in vars(host).pop(APART, ()):
        host.remove_tuner(name)
    for network in NETWORKS:
        model = host.backbone.component(network)
        if model is None:
            continue
        if any(True for _ in _layers(model)):
            recurse_remove_peft_layers(model)
        if getattr(model, "peft_config", None) is not None:
            del model.peft_config
        remove_shifts(model)
    forget(host.backbone, vars(host).pop(_WORDS, ()))
    host.rehook()


def _layers(model: nn.Module) -> Iterable[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))
