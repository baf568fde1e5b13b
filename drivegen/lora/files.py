"""LoRA files and their kin: kohya's, LyCORIS's, PEFT's and diffusers' layouts read, diffusers' written.

Weights are kept with alpha folded in (``W + ΔW``), so that all that a file says of a layer is its change.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from drivegen.lora.alpha import PEFT_STEM, Alphas, number, read_alphas
from drivegen.lora.changes import Change, Decomposed, LowRank, Shift
from drivegen.lora.lycoris import NETWORKS, PREFIXES, peft_rank, read_layers, read_parts
from drivegen.support import weights
from drivegen.support.errors import InputError
from drivegen.support.files import file_in
from drivegen.words.files import bundled

FILE = "pytorch_lora_weights.safetensors"
_FILES = (FILE, "lycoris.safetensors", f"{PEFT_STEM}.safetensors", "pytorch_lora_weights.bin", f"{PEFT_STEM}.bin")
_PAIR = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
_LENGTHS = re.compile(r"(.+)\.(?:lora_magnitude_vector(?:\.default)?(?:\.weight)?|dora_scale)")
_FACTORS = re.compile(r"(.+)\.((?:hada|lokr)_\w+?)(?:\.default)?")
_LYCORIS = ("hada_", "lokr_", "lora_mid", "dora_scale", "diff", "diff_b", "w_norm", "b_norm")
"""Parts of layers that kohya's own files do not have."""
_XL = ("lora_te1_", "lora_te2_", "lora_unet_input_blocks_", "lora_unet_middle_block_", "lora_unet_output_blocks_")
"""What begins names of layers in kohya's files of SDXL."""
_EMBEDDINGS = "bundle_emb."
"""Before the names of textual inversions that kohya's files may bring."""

_OTHER_KINDS = {
    ".oft_": "OFT", ".boft_": "BOFT", ".on_input.": "IA3", ".vera_": "VeRA", "emb_params": "textual inversion",
    "string_to_param": "textual inversion",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class LoRA:
    """What a file changes, for each of `NETWORKS` and by module name, or by kohya's, with `_` for dots.

    layers are weights, of which a pair (A, B) will do as well; shifts are biases and norms; words are vectors (n, D) of textual
    inversions that the file brings for its prompts, second_words those of the same words for SDXL's second text encoder.
    """

    layers: Mapping[str, Mapping[str, Change]]
    shifts: Mapping[str, Mapping[str, Shift]] = field(default_factory=dict)
    words: Mapping[str, Tensor] = field(default_factory=dict)
    second_words: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        changes = {
            network: {name: LowRank(*one) if isinstance(one, tuple) else one for name, one in layers.items()}
            for network, layers in self.layers.items()
        }
        object.__setattr__(self, "layers", changes)


def read(source: str | Path) -> LoRA:
    """Read a file of LoRA, LoHa, LoKr, DoRA or whole differences, or a folder with one, in fp32.

    As kohya, LyCORIS, PEFT or diffusers write them.

    Raises InputError for any other.
    """
    path = find(source)
    # In fp32 before alpha is folded in: a product in a file's fp16 would round what diffusers and PEFT do not round.
    state = {k: v.float() if v.is_floating_point() else v for k, v in weights.load_file(path).items()}
    for part, kind in _OTHER_KINDS.items():
        if any(part in f"{key}." and not key.startswith(_EMBEDDINGS) for key in state):
            raise InputError(f"{path} is a file of {kind}; LoRA, LoHa, LoKr, DoRA and whole differences are read")
    brought = bundled({key: value for key, value in state.items() if key.startswith(_EMBEDDINGS)}, _EMBEDDINGS, str(path))
    own = _read({key: value for key, value in state.items() if not key.startswith(_EMBEDDINGS)}, path)
    return replace(own, words=brought.words, second_words=brought.second)


def _read(state: weights.State, path: Path) -> LoRA:
    if state and all(key.startswith(tuple(PREFIXES)) for key in state):
        # diffusers' reader knows one text encoder; files of SDXL have two, and the original names of blocks.
        if any(key.partition(".")[2].startswith(_LYCORIS) or key.startswith(_XL) for key in state):
            layers = read_layers(state, path)
            return LoRA(layers.changes, layers.shifts)
        state = _from_kohya(state, path)
    return _from_names(state, path)


def find(source: str | Path) -> Path:
    """Return the file of a LoRA: the source itself, or the one in it where it is a folder."""
    return file_in(source, _FILES, "LoRA")


def _from_kohya(state: weights.State, path: Path) -> weights.State:
    """Give kohya's layers diffusers' names."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin

    state = dict(state)
    for key in [key for key in state if key.endswith(".alpha")]:
        layer = key.removesuffix(".alpha")
        up, down = (state.get(f"{layer}.lora_{end}.weight") for end in ("up", "down"))
        if up is None or down is None:
            raise InputError(f"{path}: {key!r} is of no layer; the file is damaged")
        _, up = _pair(f"{path}: {layer}", {"A": down, "B": up})
        state[f"{layer}.lora_up.weight"] = up * (number(state.pop(key), f"{path}: {key}") / len(down))
    try:
        named, _ = StableDiffusionLoraLoaderMixin.lora_state_dict(state)
    except (ValueError, LookupError, AttributeError, TypeError, RuntimeError) as error:  # its reader checks nothing
        raise InputError(f"{path} is not a whole LoRA file: {' '.join(str(error).split())[:300]}") from error
    return dict(named)


def _from_names(state: weights.State, path: Path) -> LoRA:
    """Read module names out of keys of any of diffusers' layouts, or PEFT's."""
    from diffusers.utils.state_dict_utils import DIFFUSERS_OLD_TO_PEFT, DIFFUSERS_TO_PEFT, UNET_TO_DIFFUSERS, convert_state_dict

    state = {_network_first(key.removeprefix("base_model.model.")): value for key, value in state.items()}
    text = {**DIFFUSERS_OLD_TO_PEFT, **DIFFUSERS_TO_PEFT}
    tables: dict[str, Mapping[str, str]] = {"unet": UNET_TO_DIFFUSERS, "text_encoder": text, "text_encoder_2": text}
    configured = read_alphas(path, NETWORKS)
    out: dict[str, dict[str, Change]] = {}
    for network in NETWORKS:
        part = {k.removeprefix(f"{network}."): v for k, v in state.items() if k.startswith(f"{network}.")}
        pairs: dict[str, dict[str, Tensor]] = {}
        others: dict[str, dict[str, Tensor]] = {}
        lengths: dict[str, Tensor] = {}
        alphas: dict[str, float] = {}
        for key, value in convert_state_dict(part, tables[network]).items():
            if key.endswith(".alpha"):
                alphas[key.removesuffix(".alpha")] = number(value, f"{path}: {network}.{key}")
                continue
            if found := _LENGTHS.fullmatch(key):
                lengths[found[1]] = value
                continue
            if found := _FACTORS.fullmatch(key):
                others.setdefault(found[1], {})[found[2]] = value
                continue
            found = _PAIR.fullmatch(key)
            if found is None:
                raise InputError(f"{path}: {network}.{key} is not a LoRA weight")
            pairs.setdefault(found[1], {})[found[2]] = value
        out[network] = {}
        for name, pair in pairs.items():
            a, b = _pair(f"{path}: {network}.{name}", pair)
            rank = len(a)
            factor = alphas[name] / rank if name in alphas else configured.get(network, Alphas()).factor(name, rank)
            out[network][name] = LowRank(a, b * factor)
        for name, parts in others.items():
            said = configured.get(network, Alphas())
            rank = said.rank_of(name) or peft_rank(parts)
            factor = said.factor(name, rank)
            out[network][name] = read_parts(parts, factor * rank, f"{path}: {network}.{name}", rank)
        for name, length in lengths.items():
            if name not in out[network]:
                raise InputError(f"{path}: {network}.{name} has DoRA's lengths and no matrices; the file is damaged")
            out[network][name] = Decomposed(out[network][name], length)
        if network in configured:
            _check_kind(configured[network].kind, bool(pairs), bool(others), len(lengths) == len(pairs), path)
    layers = [name for named in out.values() for name in named]
    for pattern in {one: None for alphas in configured.values() for one in alphas.unused(layers)}:
        warnings.warn(f"{path}: alpha_pattern names {pattern[:80]!r}, which is no layer of the file", stacklevel=4)
    strange = [key for key in state if not key.startswith(tuple(f"{network}." for network in NETWORKS))]
    if strange or not any(out.values()):
        raise InputError(f"{path} is not a LoRA of a Stable Diffusion 1.x, 2.x or XL model: {strange[:3] or 'it is empty'}")
    return LoRA(out)


def _check_kind(kind: str, pairs: bool, others: bool, lengths: bool, path: Path) -> None:
    """Raise InputError where the configuration says another kind than the file holds."""
    if (kind == "DORA" and pairs and not lengths) or (kind in ("LOHA", "LOKR") and pairs) or (kind == "LORA" and others):
        held = "LoHa or LoKr" if others else "LoRA without DoRA's lengths"
        raise InputError(f"{path}: its configuration says {kind}, and the file holds {held}; the two do not belong together")


def _network_first(key: str) -> str:
    """Say whose layer it is where a file leaves it out, as PEFT and the oldest diffusers files do."""
    if key.startswith(("down_blocks.", "up_blocks.", "mid_block.", "conv_", "time_embedding.")):
        return f"unet.{key}"
    return f"text_encoder.{key}" if key.startswith(("text_model.", "encoder.layers.")) else key


def _pair(where: str, pair: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return a layer's A and B; raises InputError where they are no two factors of one matrix or kernel."""
    if set(pair) != {"A", "B"}:
        raise InputError(f"{where} has only one of its two matrices; the file is damaged")
    a, b = pair["A"], pair["B"]
    fits = a.ndim == b.ndim and a.ndim in (2, 4) and len(a) == b.shape[1] > 0 and set(b.shape[2:]) <= {1}
    if not fits or not a.is_floating_point() or not b.is_floating_point():
        raise InputError(
            f"{where}: A is {_described(a)} and B {_described(b)}; "
            "expected numbers of shapes (rank, in) and (out, rank), or the same of convolutions"
        )
    return a, b


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def save(
    lora: LoRA, folder: str | Path, dtype: torch.dtype | None = None, told: Mapping[str, str] | None = None
) -> Path:  # fmt: skip
    """Write a LoRA in diffusers' layout; returns the file.

    Raises InputError for what is no low rank, with DoRA's lengths or without: a file of another kind is its own best copy.

    Args:
        lora: with alpha folded in.
        folder: gets the file, `FILE`.
        dtype: number format of the weights; None keeps theirs.
        told: what the header says besides, texts by name; None for nothing.
    """
    state: dict[str, Tensor] = {}
    for network, layers in lora.layers.items():
        for name, change in layers.items():
            # transformers' own name of the layers until version 5, which files keep.
            full = f"text_model.{name}" if network.startswith("text_encoder") and not name.startswith("text_model.") else name
            if isinstance(change, Decomposed) and change.rows:
                shape = (1, -1, 1, 1) if isinstance(change.change, LowRank) and change.change.a.ndim == 4 else (-1,)
                state[f"{network}.{full}.lora_magnitude_vector"] = change.magnitude.reshape(shape)
                change = change.change
            if not isinstance(change, LowRank):
                raise InputError(f"{network}.{name} is of no low rank, which diffusers' layout cannot say; keep its own file")
            a, b = change
            state |= {f"{network}.{full}.lora_A.weight": a, f"{network}.{full}.lora_B.weight": b}
    convert: Callable[[Tensor], Tensor] = (lambda v: v) if dtype is None else (lambda v: v.to(dtype))
    path = Path(folder) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    weights.save_state({key: convert(value) for key, value in state.items()}, path, told)
    return path
