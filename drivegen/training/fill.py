"""Filling the caches: what is the same at every visit of a frame is computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from drivegen.host import boundary
from drivegen.host.host import Host
from drivegen.plugin import Plugin
from drivegen.plugin.unknown import unmarked
from drivegen.support.progress import track
from drivegen.training.cache import ArrayCache, digest, module_digest, plugin_digest
from drivegen.training.order import own_words

if TYPE_CHECKING:
    from drivegen.training.frames import FrameDataset


@dataclass(frozen=True)
class Caches:
    """Where each plugin's arrays and the latents' moments are kept."""

    prepared: Mapping[str, ArrayCache]
    moments: ArrayCache

    @classmethod
    def of(cls, root: Path, host: Host, size: tuple[int, int]) -> Caches:
        """Name the caches of a host: another VAE, size, option or code is another folder."""
        backbone = host.backbone
        text = module_digest(backbone.text_encoder)
        prepared = {}
        for name in host.plugins:
            plugin = host.plugin(name)
            key = plugin_digest(plugin, backbone.tokenizer)
            extra = [module_digest(backbone.component(part)) for part in plugin.requires if part in backbone.components]
            encoded = [text, *extra] if precomputes(plugin) else ""
            prepared[name] = ArrayCache(root, name, digest(key, size, encoded))
        return cls(prepared, ArrayCache(root, "latents", digest(module_digest(backbone.vae), size)))


def precomputes(plugin: Plugin) -> bool:
    """Tell whether frozen components make something of this plugin's arrays once and for all."""
    trains = any(p.requires_grad for p in plugin.backbone.text_encoder.parameters())
    return type(plugin).precompute is not Plugin.precompute and not trains


@torch.no_grad()
def fill(caches: Caches, dataset: FrameDataset, host: Host, workers: int) -> None:
    """Compute what the caches lack for a dataset's frames; frames are read in workers, networks run here."""
    every = [*caches.prepared.values(), caches.moments]
    missing = [i for i, ref in enumerate(dataset.refs) if not all(cache.has(ref.key) for cache in every)]
    if not missing:
        return
    device = next(host.backbone.vae.parameters()).device
    loader: Any = DataLoader(
        Subset(dataset, missing), batch_size=None, num_workers=workers, multiprocessing_context="fork" if workers else None
    )
    with own_words():
        for ref, prepared, picture in track(loader, "caching", len(missing), "frames"):
            key = ref.key
            if not caches.moments.has(key):
                caches.moments.write(key, {"moments": encode_moments(host.backbone, _tensor(picture["pixels"]).to(device))})
            for name, cache in caches.prepared.items():
                if not cache.has(key):
                    cache.write(key, _arrays(name, host.plugin(name), prepared[name], device))


def _tensor(array: Any) -> Tensor:
    return array if isinstance(array, Tensor) else torch.from_numpy(np.ascontiguousarray(array))


def _arrays(name: str, plugin: Plugin, prepared: Mapping[str, Any], device: torch.device) -> dict[str, np.ndarray]:
    arrays = {k: np.asarray(v) for k, v in prepared.items()}
    own = unmarked(arrays)
    if not own or not precomputes(plugin):
        return arrays
    joined = boundary.collate(name, plugin, [own])
    batch = {k: torch.from_numpy(np.ascontiguousarray(v)).to(device) for k, v in joined.items()}
    made = boundary.precompute(name, plugin, batch)
    mark = {k: v for k, v in arrays.items() if k not in own}
    return arrays if made is None else mark | {k: v[0].cpu().numpy() for k, v in made.items()}


def encode_moments(backbone: Any, pixels: Tensor) -> np.ndarray:
    """Encode uint8 pixels (V, 3, H, W) to the posterior's mean and standard deviation (V, 2C, h, w), fp16, unscaled."""
    return backbone.moments(to_unit(pixels)).cpu().numpy().astype(np.float16)


def to_unit(pixels: Tensor) -> Tensor:
    """Turn uint8 pixels into floats in [−1, 1]."""
    return pixels.float() / 127.5 - 1
