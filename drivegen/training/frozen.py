"""Digests of the parts that a training uses and does not change, so that a resumed run notices a replaced one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.host.host import Host
from drivegen.support.errors import InputError


def frozen_digests(host: Host) -> dict[str, str]:
    """Return a digest per part of a host over everything that is not trained: weights, tokenizer, schedule and options.

    A part without frozen values has none. Trainable parameters are in the checkpoint itself.
    """
    backbone = host.backbone
    schedule = NoiseSchedule.trained(backbone.scheduler)
    extra = backbone.components
    networks = {f"component {n!r}" if n in extra else n: network for n, network in backbone.networks.items()}
    found = {name: module_digest(network) for name, network in networks.items()}
    found["vae"] = _text(found["vae"], [getattr(backbone.vae.config, key, None) for key in ("scaling_factor", "shift_factor")])
    found["scheduler"] = _text(schedule.prediction_type, _digest_of([("betas", schedule.alphas_cumprod)]))
    for tower in backbone.texts:
        found[tower.name.replace("text_encoder", "tokenizer")] = _text(tower.tokenizer.get_vocab())
    for name in host.plugins:
        plugin = host.plugin(name)
        found[f"plugin {name!r}"] = _text(type(plugin).__qualname__, plugin.config, module_digest(plugin))
    for name in host.tuners:
        tuner = host.tuner(name)
        made_of = [dict(tuner.sources)] if tuner.sources else []  # only where there are some: older checkpoints have none
        found[f"tuner {name!r}"] = _text(type(tuner).__qualname__, tuner.config, tuner.scale, *made_of, module_digest(tuner))
    return {name: digest for name, digest in found.items() if digest}


def module_digest(network: nn.Module) -> str:
    """Return a digest of everything in a network that is not trained; empty where all of it is."""
    return _digest_of(_frozen(network))


def own_digest(network: nn.Module, host: nn.Module, changing: Iterable[Tensor]) -> str:
    """Return a digest of what a network beside the host has of its own and never changes; empty where there is nothing.

    Args:
        network: an objective, whose twins share most tensors with the host.
        host: whose tensors are digested already.
        changing: those that a checkpoint holds.
    """
    others = {id(tensor) for tensor in (*host.parameters(), *changing)}
    own = ((name, p) for name, p in sorted(network.named_parameters()) if not p.requires_grad and id(p) not in others)
    return _digest_of(own)


def check_frozen(saved: Mapping[str, Any] | None, now: Mapping[str, str], where: str | Path) -> None:
    """Raise InputError that names the frozen parts replaced since a checkpoint was written.

    Args:
        saved: digests in the checkpoint; None in older ones, which are accepted.
        now: digests of the present parts.
        where: the checkpoint, for the error.
    """
    if not isinstance(saved, Mapping):
        return
    changed = [name for name in dict.fromkeys([*saved, *now]) if saved.get(name) != now.get(name)]
    if changed:
        raise InputError(
            f"{where} was trained on other frozen parts than those here: {', '.join(map(str, changed))}"
            "; put the old model, plugin or data back, or start anew with another output"
        )


def frames_digest(refs: Iterable[Any]) -> str:
    """Return a digest of the training frames in their order: a position in the data is meaningless among others."""
    return _text([(ref.root, ref.token, ref.views, *(ref.size or ())) for ref in refs])


def _frozen(network: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """List what is frozen: parameters, and, where nothing trains, buffers, which a training may change."""
    parameters = dict(network.named_parameters())
    trains = any(p.requires_grad for p in parameters.values())
    for name, tensor in sorted(network.state_dict().items()):
        if (name in parameters and not parameters[name].requires_grad) or (name not in parameters and not trains):
            yield name, tensor


def _digest_of(tensors: Iterable[tuple[str, Tensor]]) -> str:
    total, empty = hashlib.sha256(), True
    for name, tensor in tensors:
        plain, empty = tensor.detach().cpu().contiguous(), False
        total.update(f"{name} {plain.dtype} {tuple(plain.shape)} ".encode())
        total.update(plain.view(-1).view(torch.uint8).numpy().data)
    return "" if empty else total.hexdigest()


def _text(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
