"""Filling the caches: results that are the same at every visit of a frame are computed once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from drivegen.host import array_boundary
from drivegen.host.host import Host
from drivegen.plugin import Plugin
from drivegen.plugin.unknown import unmarked
from drivegen.scene.pictures import load_image
from drivegen.support import files
from drivegen.support.errors import InputError
from drivegen.support.locks import waited_for
from drivegen.support.progress import track
from drivegen.training.cache import ArrayCache, digest, module_digest, plugin_digest
from drivegen.training.extras import Enrich
from drivegen.training.missing import refuse_all
from drivegen.training.order import own_words
from drivegen.training.value_digest import Unreadable, value_digest

if TYPE_CHECKING:
    from drivegen.training.frames import FrameDataset, FrameRef

MOST_FAULTS = 1000
"""After as many frames that cannot be read the caches are filled no further."""


@dataclass(frozen=True)
class Caches:
    """The caches of each plugin's arrays and of the latents' moments."""

    prepared: Mapping[str, ArrayCache]
    moments: ArrayCache

    @classmethod
    def of(cls, root: Path, host: Host, size: tuple[int, int], enrich: Enrich | None = None) -> Caches:
        """Name the caches of a host: another VAE, size, option, code or `enrich` is another folder.

        A plugin whose digest cannot be computed has no cache, with a warning that says why.

        Args:
            root: folder of all caches.
            host: networks and plugins.
            size: (height, width) of the images in pixels.
            enrich: the caller's function that adds to frames; None for none.
        """
        backbone = host.backbone
        networks = [*(module_digest(tower.encoder) for tower in backbone.texts), module_digest(backbone.vae)]
        networks += [module_digest(change) for tower in backbone.texts for change in backbone.changes.get(tower.name, ())]
        pictures, prepared = value_digest(load_image), {}
        for name in host.plugins:
            plugin = host.plugin(name)
            try:
                key = digest(
                    plugin_digest(plugin, backbone.tokenizer), None if enrich is None else value_digest(enrich), pictures
                )
            except Unreadable as reason:
                why = f"{reason}, so that a change of it would not be seen"
                warnings.warn(f"the arrays of {name!r} are not cached, and are made at each visit: {why}", stacklevel=2)
                continue
            extra = [module_digest(backbone.component(part)) for part in plugin.requires if part in backbone.components]
            encoded = [*networks, *extra] if precomputes(plugin) else ""
            prepared[name] = ArrayCache(root, name, digest(key, size, encoded))
        return cls(prepared, ArrayCache(root, "latents", digest(module_digest(backbone.vae), size, pictures)))


def precomputes(plugin: Plugin) -> bool:
    """Tell whether frozen components compute some of this plugin's arrays, which can then be cached."""
    learns = any(plugin.backbone.learns(tower.name) for tower in plugin.backbone.texts)
    return type(plugin).precompute is not Plugin.precompute and not learns


@torch.no_grad()
def fill(caches: Caches, dataset: FrameDataset, host: Host, workers: int) -> None:
    """Compute the missing cache entries of a dataset's frames; frames are read in workers, networks run here.

    A frame that cannot be read does not stop the others; at the end InputError lists all such frames.

    Args:
        caches: of `Caches.of`.
        dataset: the frames.
        host: networks and plugins.
        workers: number of processes that read frames; 0 = this one.
    """
    # One process after the other: the first makes the entries, and the others find them.
    folder = caches.moments.folder.parent
    with waited_for(files.make_subfolder(folder.parent, folder.name) / ".filling"):
        _fill(caches, dataset, host, workers)


def _fill(caches: Caches, dataset: FrameDataset, host: Host, workers: int) -> None:
    missing = [i for i, ref in enumerate(dataset.refs) if not _complete(caches, ref)]
    if not missing:
        return
    device = next(host.backbone.vae.parameters()).device
    loader: Any = DataLoader(
        Subset(_Tried(dataset), missing), batch_size=None, num_workers=workers,
        multiprocessing_context="fork" if workers else None,
    )  # fmt: skip
    faults: list[InputError | OSError] = []
    with own_words(workers):
        for item in track(loader, "caching", total=len(missing), unit="frames"):
            if isinstance(item, (InputError, OSError)):
                faults.append(item)
                if len(faults) == MOST_FAULTS:
                    break
                continue
            ref, prepared, picture = item
            if not caches.moments.has(ref.key()):
                moments = encode_moments(host.backbone, _tensor(picture["pixels"]).to(device))
                caches.moments.write(ref.key(), {"moments": moments})
            for name, cache in caches.prepared.items():
                if not cache.has(ref.key(name)):
                    cache.write(ref.key(name), _arrays(name, host.plugin(name), prepared[name], device))
    refuse_all(faults, len(missing))


def _complete(caches: Caches, ref: FrameRef) -> bool:
    return caches.moments.has(ref.key()) and all(cache.has(ref.key(name)) for name, cache in caches.prepared.items())


class _Tried(Dataset[Any]):
    """The items of a dataset, or what is wrong with those that cannot be read."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except (InputError, OSError) as error:
            return error.with_traceback(None)  # which does not go from one process to another


def _tensor(array: Any) -> Tensor:
    return array if isinstance(array, Tensor) else torch.from_numpy(np.ascontiguousarray(array))


def _arrays(name: str, plugin: Plugin, prepared: Mapping[str, Any], device: torch.device) -> dict[str, np.ndarray]:
    arrays = {k: np.asarray(v) for k, v in prepared.items()}
    own = unmarked(arrays)
    if not own or not precomputes(plugin):
        return arrays
    joined = array_boundary.collate(name, plugin, [own])
    batch = {k: torch.from_numpy(np.ascontiguousarray(v)).to(device) for k, v in joined.items()}
    made = array_boundary.precompute(name, plugin, batch)
    mark = {k: v for k, v in arrays.items() if k not in own}
    return arrays if made is None else mark | {k: v[0].cpu().numpy() for k, v in made.items()}


def encode_moments(backbone: Any, pixels: Tensor) -> np.ndarray:
    """Encode uint8 pixels (V, 3, H, W) to the posterior's mean and standard deviation (V, 2C, h, w), fp16, unscaled."""
    return backbone.first_stage.moments(to_unit(pixels)).cpu().numpy().astype(np.float16)


def to_unit(pixels: Tensor) -> Tensor:
    """Convert uint8 pixels to floats in [−1, 1]."""
    return pixels.float() / 127.5 - 1
