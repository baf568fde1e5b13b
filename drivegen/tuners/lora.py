"""LoRA and its kin as tuners, in the layouts that diffusers, PEFT and LyCORIS exchange."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from drivegen.lora import files
from drivegen.lora.changes import Decomposed as DecomposedChange
from drivegen.lora.changes import LowRank as LowRankChange
from drivegen.lora.settings import LoraConfig
from drivegen.plugin.tuner import NETWORKS, Tuner, own_layers
from drivegen.support import strict_yaml, weights
from drivegen.support.errors import InputError
from drivegen.tuners.low_rank import Decomposed, Hadamard, Kronecker, LowRank

_ATTENTION = r".*\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"
_TEXT_ATTENTION = r".*self_attn\.(q_proj|k_proj|v_proj|out_proj)"
_PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}
_LYCORIS = "lycoris.safetensors"


class _WeightTuner(Tuner):
    """What LoRA and its kin have in common: a difference of the weights of chosen linear layers and convolutions."""

    patterns: ClassVar[tuple[str, ...]] = ("targets", "text_targets")

    def __init__(
        self, rank: int = 8, alpha: float | None = None, targets: str | tuple[str, ...] = _ATTENTION,
        text_encoder: bool = False, text_targets: str | tuple[str, ...] = _TEXT_ATTENTION,
    ) -> None:  # fmt: skip
        super().__init__()
        self.settings = LoraConfig(
            rank=rank, alpha=alpha, targets=targets, text_encoder=text_encoder, text_targets=text_targets
        )
        strict_yaml.check(self.settings)

    @abstractmethod
    def build(self, layer: Any, rank: int, alpha: float) -> nn.Module:
        """Make the change of one layer.

        Args:
            layer: a linear layer or a convolution.
            rank: of its factors.
            alpha: strength, which is divided by the rank.
        """

    def attach(self, backbone: Any) -> None:
        """Change the layers that the patterns match; raises InputError where one matches none."""
        s = self.settings
        encoders = [name for name in NETWORKS[1:] if s.text_encoder and getattr(backbone, name) is not None]
        wanted = {"unet": s.targets} | dict.fromkeys(encoders, s.text_targets)
        for network, pattern in wanted.items():
            names = [name for name, layer in own_layers(getattr(backbone, network)) if _fits(pattern, name, layer)]
            if not names:
                setting = "targets" if network == "unet" else "text_targets"
                raise InputError(f"{setting} = {pattern!r} matches no linear layer and no convolution of {network}")
            for name in names:
                self.change(network, name, lambda _, layer: self.build(layer, s.rank, s.alpha or s.rank))

    def saved_options(self) -> dict[str, Any]:
        """Return the options with the layers' names in place of the patterns that found them."""
        names = {network: list(layers) for network, layers in self.named().items()}
        texts = dict.fromkeys(name for network, layers in names.items() if network != "unet" for name in layers)
        return {**self.config, "targets": names["unet"], "text_targets": list(texts)}

    def named(self) -> dict[str, dict[str, Any]]:
        """Return the changes by network and name of the layer."""
        found: dict[str, dict[str, Any]] = {}
        for network, name, key in self.sites:
            found.setdefault(network, {})[name] = self.changes[key]
        return found


class LoRA(_WeightTuner):
    """Low-rank differences of weights (Hu et al. 2022), saved as diffusers does, with alpha folded in.

    Args:
        rank: width of the two factors.
        alpha: the difference counts alpha / rank; None = rank.
        targets: regular expression for the whole name of layers of the UNet, or a list of names.
        text_encoder: whether layers of the text encoder are changed, too.
        text_targets: the same for those.
    """

    def build(self, layer: Any, rank: int, alpha: float) -> nn.Module:
        return LowRank(layer, rank, alpha)

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> Path:
        """Write `lora.FILE`, which `load_lora`, diffusers and PEFT's users read.

        Args:
            folder: a new one.
            dtype: number format of the weights; None keeps theirs.
        """
        layers = {network: {name: _said(one) for name, one in named.items()} for network, named in self.named().items()}
        return files.save(files.LoRA(layers), folder, dtype)

    def load(self, source: Path) -> None:
        """Take A and B of a file in any of the layouts of LoRA (kohya's, PEFT's, diffusers')."""
        read = files.read(source)
        if any(read.shifts.values()):
            raise InputError(f"{source} changes biases or norms, which {type(self).__name__} does not")
        own = {(network, _flat(name)): (name, one) for network, named in self.named().items() for name, one in named.items()}
        given = {(network, _flat(name)): one for network, named in read.layers.items() for name, one in named.items()}
        _check_same({f"{n}.{name}" for n, name in own}, {f"{n}.{name}" for n, name in given}, source)
        for key, (name, one) in own.items():
            self._take(one, given[key], f"{source}: {key[0]}.{name}")

    def _take(self, one: Any, given: Any, where: str) -> None:
        if not isinstance(given, LowRankChange):
            raise InputError(f"{where} is a {type(given).__name__}, and {type(self).__name__} reads plain LoRA")
        _copy({"A": one.A, "B": one.B}, {"A": given.a, "B": given.b / one.factor}, where)


class DoRA(LoRA):
    """Differences of direction, of low rank, and of length, apart (Liu et al. 2024); saved as PEFT and diffusers do.

    Its options are LoRA's.
    """

    def build(self, layer: Any, rank: int, alpha: float) -> nn.Module:
        return Decomposed(layer, rank, alpha)

    def _take(self, one: Any, given: Any, where: str) -> None:
        if not isinstance(given, DecomposedChange) or not given.rows:
            raise InputError(f"{where} has no lengths per output, which DoRA has")
        super()._take(one, given.change, where)
        _copy({"lengths": one.magnitude}, {"lengths": given.magnitude.reshape(-1)}, where)


class LoHa(_WeightTuner):
    """Products of two low-rank matrices, element by element (Hyeon-Woo et al. 2022); saved as LyCORIS does.

    Its options are LoRA's; rank is that of either product, and the difference's is up to its square.
    """

    def build(self, layer: Any, rank: int, alpha: float) -> nn.Module:
        return Hadamard(layer, rank, alpha)

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> Path:
        """Write a file of LyCORIS's, with kohya's names of layers and their alpha.

        Args:
            folder: a new one.
            dtype: number format of the weights; None keeps theirs.
        """
        state: dict[str, Tensor] = {}
        for key, one in self._by_key().items():
            own = {name: p.detach() for name, p in one.named_parameters()}
            state |= {f"{key}.{name}": value if dtype is None else value.to(dtype) for name, value in own.items()}
            state[f"{key}.alpha"] = torch.tensor(float(self.settings.alpha or self.settings.rank))
        folder.mkdir(parents=True, exist_ok=True)
        weights.save_state(state, folder / _LYCORIS)
        return folder / _LYCORIS

    def load(self, source: Path) -> None:
        """Take the factors of a file of LyCORIS's with the same alpha."""
        path = source / _LYCORIS if source.is_dir() else source
        state = {key: value.float() for key, value in weights.load_file(path).items()}
        own = {f"{key}.{name}": p for key, one in self._by_key().items() for name, p in one.named_parameters()}
        alphas = {f"{key}.alpha" for key in self._by_key()}
        _check_same({*own, *alphas}, set(state), path)
        wanted = float(self.settings.alpha or self.settings.rank)
        for key in alphas:
            if float(state[key]) != wanted:
                raise InputError(
                    f"{path}: {key} is {float(state[key]):g}, and alpha is {wanted:g} here; give that as an option"
                )
        _copy(own, state, str(path))

    def _by_key(self) -> dict[str, nn.Module]:
        """Return the changes by kohya's names of their layers."""
        named = self.named()
        text = dict.fromkeys(NETWORKS[1:], "text_model.")  # the name of their layers until transformers 5, which files keep
        return {
            _PREFIXES[network] + f"{text.get(network, '')}{name.removeprefix('text_model.')}".replace(".", "_"): one
            for network, layers in named.items() for name, one in layers.items()
        }  # fmt: skip


class LoKr(LoHa):
    """Kronecker products of a small and a low-rank matrix (Yeh et al. 2024); saved as LyCORIS does.

    Args:
        rank: of the second matrix.
        alpha: the difference counts alpha / rank; None = rank.
        factor: greatest side of the first matrix.
        targets: regular expression for the whole name of layers of the UNet, or a list of names.
        text_encoder: whether layers of the text encoder are changed, too.
        text_targets: the same for those.
    """

    def __init__(
        self, rank: int = 8, alpha: float | None = None, factor: int = 8, targets: str | tuple[str, ...] = _ATTENTION,
        text_encoder: bool = False, text_targets: str | tuple[str, ...] = _TEXT_ATTENTION,
    ) -> None:  # fmt: skip
        super().__init__(rank, alpha, targets, text_encoder, text_targets)
        if not 1 <= factor <= 4096:
            raise InputError(f"factor = {factor} is out of range; allowed: 1 to 4096")
        self.factor = factor

    def build(self, layer: Any, rank: int, alpha: float) -> nn.Module:
        return Kronecker(layer, rank, alpha, self.factor)


def _fits(wanted: str | tuple[str, ...], name: str, layer: Any) -> bool:
    kind = isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
    return kind and (re.fullmatch(wanted, name) is not None if isinstance(wanted, str) else name in wanted)


def _said(one: Any) -> Any:
    """Return what a change makes of a weight, in the words of LoRA files."""
    plain = LowRankChange(one.A.detach(), one.B.detach() * one.factor)
    return DecomposedChange(plain, one.magnitude.detach()) if isinstance(one, Decomposed) else plain


def _flat(name: str) -> str:
    return name.replace(".", "_").removeprefix("text_model_")


def _check_same(own: set[str], given: set[str], source: Path) -> None:
    if own != given:
        lacks, more = sorted(own - given), sorted(given - own)
        what = f"lacks {lacks[0]}" if lacks else f"has {more[0]} too"
        raise InputError(f"{source} does not fit: it {what}; the options must be those that it was trained with")


def _copy(own: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> None:
    for name, value in own.items():
        if value.shape != given[name].shape:
            raise InputError(
                f"{where}: {name} is of shape {tuple(given[name].shape)}, and {tuple(value.shape)} is expected; the options"
                " must be those that it was trained with"
            )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(given[name])
