"""ZipLoRA (Shah et al. 2023): trained LoRAs merged column by column, so that each keeps its effect beside the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drivegen.lora import files
from drivegen.lora.changes import LowRank
from drivegen.lora.layer import applied
from drivegen.lora.places import Places
from drivegen.plugin.tuner import NETWORKS, Site, Tuner, own_layers
from drivegen.support.errors import InputError
from drivegen.support.files import sha256

_Pair = tuple[Tensor, Tensor]


class Merged(nn.Module):
    """ΔW = Σ B·A·diag(m) over LoRAs, with a number m per column of each (eq. 5); all 1 is their sum.

    Args:
        pairs: A (r, in, …) and B (out, r, …) of each LoRA.
        chosen: says in its list `alone` which of them acts alone; an empty list merges all.
    """

    def __init__(self, pairs: Sequence[_Pair], chosen: _Chosen) -> None:
        super().__init__()
        self.mergers = nn.ParameterList(torch.ones(a.shape[1:]) for a, _ in pairs)
        for i, (a, b) in enumerate(pairs):
            self.register_buffer(f"A{i}", a, persistent=False)
            self.register_buffer(f"B{i}", b, persistent=False)
        self.__dict__["chosen"] = chosen

    def pairs(self) -> list[_Pair]:
        """Return A and B of each LoRA, as they were."""
        return [(getattr(self, f"A{i}"), getattr(self, f"B{i}")) for i in range(len(self.mergers))]

    def merged(self) -> _Pair:
        """Return A and B of the merged LoRA, whose rank is the sum of the ranks."""
        pairs = self.pairs()
        a = torch.cat([a * merger for (a, _), merger in zip(pairs, self.mergers, strict=True)])
        return a, torch.cat([b for _, b in pairs], dim=1)

    def forward(self, x: Tensor, y: Tensor, site: Site) -> Tensor:
        """Return y + ΔW·x, or with one LoRA's own difference where that acts alone.

        Args:
            x: what the layer was given.
            y: what it gave.
            site: the layer.
        """
        chosen: _Chosen = self.__dict__["chosen"]
        a, b = self.merged() if chosen.number is None else self.pairs()[chosen.number]
        inner = applied(site.layer, x.to(a.dtype), a)
        return y + (F.conv2d(inner, b) if b.ndim == 4 else F.linear(inner, b)).to(y.dtype)


class _Chosen:
    """Which LoRA acts alone; None merges all."""

    number: int | None = None


class ZipLoRA(Tuner):
    """Several trained LoRAs as one: what is learned is a number per column of each; saved as an ordinary LoRA.

    It trains by the objective ``merging``, with a dataset for each LoRA.

    Args:
        loras: files, or folders with one, of LoRA or its kin; two, or more.
        overlap: λ of the penalty λ·Σ|cos(m, m')| over layers, which keeps LoRAs out of each other's columns. The paper
            writes a product in eq. 6 and speaks of the cosine, which does not fall when all numbers shrink.
    """

    saved_kind: ClassVar[str | None] = "lora"

    def __init__(self, loras: Sequence[str], overlap: float = 0.01) -> None:
        super().__init__()
        if not isinstance(loras, (list, tuple)) or len(loras) < 2 or not all(isinstance(one, str) and one for one in loras):
            raise InputError(f"loras = {loras!r:.120} must be two files of LoRAs, or more")
        if not 0 <= overlap <= 1e4:
            raise InputError(f"overlap = {overlap:g} is out of range; allowed: 0 to 10000")
        self.loras, self.overlap, self._chosen = tuple(loras), overlap, _Chosen()
        self.parts = tuple(f"lora_{i + 1}" for i in range(len(loras)))

    def attach(self, backbone: Any) -> None:
        """Read the files; raises InputError where they are for another base, or do not change the same layers."""
        read: list[dict[tuple[str, str], _Pair]] = []
        hashes: dict[str, str] = {}
        for source in self.loras:
            path = files.find(Path(source).expanduser())
            found, digest = _read(path, backbone), sha256(path)
            if digest in hashes.values():
                raise InputError(f"{path} is given twice, or is a copy of another; loras are different ones")
            hashes[source] = digest
            read.append(found)
            if odd := sorted(set(read[0]) ^ set(found)):
                have, lack = (source, self.loras[0]) if odd[0] in found else (self.loras[0], source)
                more = "" if len(odd) == 1 else f", and {len(odd) - 1} more"
                raise InputError(
                    f"{have} changes {'.'.join(odd[0])}, which {lack} does not{more}; LoRAs of the same layers are merged"
                )
        # In the order of the network, and not of a file: a resumed run finds its optimiser's numbers by position.
        networks = dict.fromkeys(network for network, _ in sorted(read[0], key=lambda one: NETWORKS.index(one[0])))
        for network in networks:
            for name in (name for name, _ in own_layers(getattr(backbone, network)) if (network, name) in read[0]):
                pairs = [found[network, name] for found in read]
                self.change(network, name, lambda _, layer, pairs=pairs: self._made(layer, pairs))  # type: ignore[misc]
        self.sources = hashes

    def _made(self, layer: Any, pairs: Sequence[_Pair]) -> nn.Module:
        made = Merged([(a.float(), b.float()) for a, b in pairs], self._chosen)
        return made.to(layer.weight.device)

    @contextmanager
    def alone(self, part: str) -> Iterator[None]:
        """Let one LoRA act as its file says, and no other, within the block."""
        if part not in self.parts:
            super().alone(part)  # says what there are
        before, self._chosen.number = self._chosen.number, self.parts.index(part)
        try:
            yield
        finally:
            self._chosen.number = before

    def penalty(self) -> Tensor | None:
        """Return λ·Σ|cos(m, m')| over layers and pairs of LoRAs."""
        if not self.overlap:
            return None
        pairs = [pair for one in self._layers() for pair in combinations(one.mergers, 2)]
        cosines = [F.cosine_similarity(m.flatten(), other.flatten(), dim=0).abs() for m, other in pairs]
        return self.overlap * torch.stack(cosines).sum()

    def _layers(self) -> list[Merged]:
        return [self.changes[key] for _, _, key in self.sites]  # type: ignore[misc]

    def saved_options(self) -> dict[str, Any]:
        """Return the options of the `lora` that it is saved as."""
        names: dict[str, list[str]] = {network: [] for network in NETWORKS}
        for network, name, _ in self.sites:
            names[network].append(name)
        texts = list(dict.fromkeys(name for network in NETWORKS[1:] for name in names[network]))
        told: dict[str, Any] = {"rank": self._rank(), "targets": names["unet"]}
        return told | ({"text_encoder": True, "text_targets": texts} if texts else {})

    def _rank(self) -> int:
        """Return the greatest rank of a layer; all are saved with it, as a `lora` has one rank."""
        return max(len(one.merged()[0]) for one in self._layers())

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> Path:
        """Write an ordinary LoRA, `lora.FILE`, whose rank is the sum of the ranks.

        Args:
            folder: a new one.
            dtype: number format of the weights; None keeps theirs.
        """
        layers: dict[str, dict[str, Any]] = {}
        for network, name, key in self.sites:
            change: Any = self.changes[key]
            a, b = (value.detach() for value in change.merged())
            more = self._rank() - len(a)
            wide = torch.cat([b, b.new_zeros(len(b), more, *b.shape[2:])], dim=1)
            layers.setdefault(network, {})[name] = (torch.cat([a, a.new_zeros(more, *a.shape[1:])]), wide)
        return files.save(files.LoRA(layers), folder, dtype)

    @torch.no_grad()
    def load(self, source: Path) -> None:
        """Take the numbers of a file that `save` wrote; raises InputError where it was merged of other LoRAs."""
        read = files.read(source)
        given = {(network, _flat(name)): one for network, named in read.layers.items() for name, one in named.items()}
        if set(given) != {(network, _flat(name)) for network, name, _ in self.sites} or any(read.shifts.values()):
            raise InputError(f"{source} does not change the layers of {', '.join(self.loras)}; it was not merged of them")
        found: list[tuple[Merged, list[Tensor]]] = []
        for network, name, key in self.sites:
            change: Any = self.changes[key]
            one = given[network, _flat(name)]
            mergers = _recovered(change, one.a, one.b) if isinstance(one, LowRank) else None
            if mergers is None:
                raise InputError(f"{source}: {network}.{name} was not merged of {', '.join(self.loras)}")
            found.append((change, mergers))
        for change, mergers in found:
            for own, value in zip(change.mergers, mergers, strict=True):
                own.copy_(value)


def _read(path: Path, backbone: Any) -> dict[tuple[str, str], _Pair]:
    """Read A and B of a LoRA by network and name of the layer; raises InputError where it is for another base."""
    lora = files.read(path)
    if any(lora.shifts.values()) or lora.words:
        what = "words" if lora.words else "differences of biases or norms"
        raise InputError(f"{path} brings {what}, which have no columns; LoRAs of weights alone are merged")
    found = {}
    for network, changes in lora.layers.items():
        model = getattr(backbone, network, None)
        if not changes:
            continue
        if model is None:
            raise InputError(f"{path} changes the {network}, which this model does not have")
        places = Places(network, model)
        for name, change in changes.items():
            try:
                own, found_pair = places.factors(name, change)
            except InputError as error:
                raise InputError(f"{path}: {error}") from error
            found[network, own] = found_pair
    return found


def _recovered(change: Merged, a: Tensor, b: Tensor) -> list[Tensor] | None:
    """Return the numbers m by which each LoRA's A was multiplied in a merged one; None where it is of others."""
    whole_a, whole_b = change.merged()
    rank = len(whole_a)
    if bool(a[rank:].any()) or bool(b[:, rank:].any()):
        return None
    a, b = a[:rank].to(whole_a), b[:, :rank].to(whole_b)
    if a.shape != whole_a.shape or b.shape != whole_b.shape or not _near(b, whole_b):
        return None
    out = []
    for own, part in zip((own for own, _ in change.pairs()), a.split([len(own) for own, _ in change.pairs()]), strict=True):
        norm = own.square().sum(0)
        merger = torch.where(norm > 0, (own * part).sum(0) / norm.clamp_min(torch.finfo(norm.dtype).tiny), 1.0)
        if not _near(own * merger, part):
            return None
        out.append(merger)
    return out


def _near(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same up to the rounding of bf16."""
    return bool(torch.linalg.vector_norm(a - b) <= 1e-2 * torch.linalg.vector_norm(b) + 1e-12)


def _flat(name: str) -> str:
    return name.replace(".", "_").removeprefix("text_model_")
