"""What a weight file is that somebody brings: told by its tensors and settings, without putting it into a model."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from drivegen import lora, words
from drivegen.catalog import registry
from drivegen.catalog.tuners import kind_of
from drivegen.lora.changes import Decomposed, Hadamard, LowRank
from drivegen.lora.lycoris import NETWORKS
from drivegen.lora.merge import MERGED
from drivegen.saved import tuners
from drivegen.saved.released import read as read_plugin
from drivegen.support import files, weights
from drivegen.support.errors import InputError
from drivegen.support.pickled import read_values

_BASES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL", 1280: "SDXL's second text encoder"}
"""By the width of what cross-attention reads, and of a text encoder's words."""

_OTHER_BASES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("lora_te3_", "text_encoder_3.", "joint_blocks", "lora_transformer_transformer_blocks"), "Stable Diffusion 3"),
    (("single_blocks", "double_blocks", "single_transformer_blocks"), "Flux"),
)
"""What is in the names of tensors for models of other families."""

_WHOLE: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("model.diffusion_model.",), "a whole checkpoint in one file", "name it with --model"),
    (("first_stage_model.", "encoder.conv_in", "decoder.conv_in"), "a VAE", "name it with --vae"),
    (("down_blocks.", "conv_in."), "a UNet alone", "name the folder of its whole model with --model"),
    (("text_model.",), "a text encoder alone", "name the folder of its whole model with --model"),
)


@dataclass(frozen=True)
class Brought:
    """What a file is.

    use says how it is loaded, or that it is not; facts are lines for people, by what they are of.
    """

    kind: str
    use: str
    sha256: str
    size_bytes: int
    facts: Mapping[str, str] = field(default_factory=dict)


def recognise(source: Path) -> Brought:
    """Say what a file is, or a folder with one; raises InputError where it is damaged or cannot be told.

    Nothing of the file is run, and names play no part: only what is inside.
    """
    path = _file(source)
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty")
    values = weights.load_file(path, finite=False) if weights.is_safetensors(path) else read_values(path)
    keys = [key for key in values if isinstance(key, str)] if isinstance(values, Mapping) else []
    kind, use, facts = _told(source, path, values, keys)
    return Brought(kind, use, files.sha256(path), path.stat().st_size, facts)


@contextmanager
def named(source: Path, option: str) -> Iterator[None]:
    """Say what a file is where it is refused for being of another kind than what it is read as; other errors stay.

    Args:
        source: the file or folder that is read within the block.
        option: by which files of the right kind are added, such as ``--lora``.
    """
    try:
        yield
    except InputError as error:
        try:
            found = recognise(source)
        except InputError:
            raise error from None
        if f"{option} " in found.use:
            raise
        raise InputError(f"{error} (it is {found.kind}; {found.use})") from error


def _file(source: Path) -> Path:
    if source.is_file():
        return source
    if not source.is_dir():
        raise InputError(f"there is no file or folder at {source}")
    if (source / tuners.ABOUT).is_file():
        return tuners.read(source).file
    found = sorted(p for p in source.iterdir() if p.suffix.lower() in (".safetensors", ".bin", ".pt", ".pth", ".ckpt"))
    own = [p for p in found if not p.name.startswith("<")]
    if len(own or found) != 1:
        raise InputError(f"{source} is no model's folder, and holds {len(found)} weight files; name one of them")
    return (own or found)[0]


def _told(source: Path, path: Path, values: Any, keys: list[str]) -> tuple[str, str, dict[str, str]]:
    """Return kind, use and facts."""
    others = next((base for parts, base in _OTHER_BASES if any(part in key for key in keys for part in parts)), None)
    if _is_lora(keys):
        facts = _metadata(path)
        if others is not None:
            return "a LoRA", f"it is for {others}, which is not hosted", {"base": others, **facts}
        return _lora(source, path, values, facts)
    if (about := _tuner(source)) is not None:
        return about
    if any(
        "emb_params" in key or key in ("string_to_param", "clip_l", "clip_g", "text_encoders_0") for key in keys
    ) or _few_vectors(values):
        return _words(path, values)
    for begins, what, how in _WHOLE[:1]:
        if any(key.startswith(begins) for key in keys):
            return what, how, {}
    try:
        found = read_plugin(source)
    except InputError:
        found = None
    if found is not None:
        return f"released weights of the plugin kind {found.kind!r}", f"add it with --plugin {source}", {}
    for begins, what, how in _WHOLE[1:]:
        if any(key.startswith(begins) for key in keys):
            return what, how, {}
    first = f"; its first tensor is {keys[0]!r:.80}" if keys else ""
    raise InputError(f"{path} is none of the files that are known here{first}; plugins asked: {', '.join(registry.kinds())}")


_LORA = re.compile(r"(^lora_(unet|te\d?)_)|\.lora[._](down|up|A|B)\.|\.lora_linear_layer\.|_lora\.(down|up)\.|\.(hada|lokr)_w")


def _is_lora(keys: list[str]) -> bool:
    return any(_LORA.search(key) for key in keys)


def _lora(source: Path, path: Path, values: Any, facts: dict[str, str]) -> tuple[str, str, dict[str, str]]:
    found = lora.read(source if source.is_dir() and (source / path.name) in (lora.find(source),) else path)
    every = [(network, name, change) for network, named in found.layers.items() for name, change in named.items()]
    inner = [change.change if isinstance(change, Decomposed) else change for _, _, change in every]
    kinds = dict.fromkeys(_kind(one) for one in inner)
    low = [one for one in inner if isinstance(one, (LowRank, Hadamard))]
    ranks = Counter(len(one.a) if isinstance(one, LowRank) else len(one.a1) for one in low)
    keys = list(values)
    layout = (
        ("LyCORIS's" if any(re.search(r"\.(hada_|lokr_|diff|w_norm|dora_scale)", k) for k in keys) else "kohya's")
        if any(k.startswith("lora_") for k in keys) else "PEFT's" if path.name.startswith("adapter_model") else "diffusers'"
    )  # fmt: skip
    widths = {
        one.a.shape[1] for (_, name, _), one in zip(every, inner, strict=True)
        if isinstance(one, LowRank) and re.search(r"attn2[._]to_[kv]$", name)
    }  # fmt: skip
    bases = [_BASES.get(width, f"attention to width {width}") for width in sorted(widths)]
    if not bases and any(key.startswith(("lora_te2_", "text_encoder_2.")) for key in keys):
        bases = ["SDXL"]
    facts = {
        "layout": layout, "ranks": ", ".join(f"{rank} ({count} layers)" for rank, count in sorted(ranks.items())) or "none",
        "base": ", ".join(bases) or "not to be told",
        **facts,
    }  # fmt: skip
    for network in NETWORKS:
        count, shifts = len(found.layers.get(network, ())), len(found.shifts.get(network, ()))
        if count or shifts:
            facts[network] = f"{count} layers" + (f", {shifts} biases and norms" if shifts else "")
    if found.words:
        facts["words"] = _shown(found.words)
    what = " and ".join(kinds) or "differences"
    doubled = " with lengths (DoRA)" if any(isinstance(change, Decomposed) for _, _, change in every) else ""
    return f"a file of {what}{doubled}", f"add it with --lora {source}", facts


def _kind(change: Any) -> str:
    return {"LowRank": "LoRA", "Hadamard": "LoHa", "Whole": "LoKr or whole differences"}.get(type(change).__name__, "changes")


def _tuner(source: Path) -> tuple[str, str, dict[str, str]] | None:
    try:
        tuner, file = tuners.make(source)
    except InputError as error:
        if "no tuner reads it" in str(error):
            return None
        raise
    facts = {name: json.dumps(value, default=str) for name, value in tuner.config.items()}
    beside = sorted(p.stem for p in source.glob("<*>.*")) if source.is_dir() else []
    if beside:
        facts["words"] = ", ".join(beside)
    kind = kind_of(tuner)
    base = _base_of(file, kind)
    return f"a tuner of kind {kind!r}", f"add it with --tuner {source}", {**({"base": base} if base else {}), **facts}


def _base_of(file: Path, kind: str) -> str:
    """Say for which base a file is by the width of what its cross-attention's keys are made of, where it has such."""
    if file.is_dir():
        return ""
    values = weights.load_file(file, finite=False) if weights.is_safetensors(file) else read_values(file)
    widths = {
        int(v.shape[1])
        for k, v in values.items()
        if "to_k_custom_diffusion" in str(k) and isinstance(v, Tensor) and v.ndim == 2
    }
    widths |= {width for width in values if isinstance(width, int) and width in (768, 1024, 2048)}
    return ", ".join(_BASES.get(width, f"attention to width {width}") for width in sorted(widths))


def _few_vectors(values: Any) -> bool:
    if isinstance(values, Tensor):
        return True
    if not isinstance(values, Mapping) or not 1 <= len(values) <= 50:
        return False
    return all(isinstance(v, Tensor) and v.ndim <= 2 and len(str(k).split(".")) == 1 for k, v in values.items())


def _words(path: Path, values: Any) -> tuple[str, str, dict[str, str]]:
    found = words.read(path)
    widths = [2048] if found.second else sorted({vectors.shape[1] for vectors in found.words.values()})
    facts = {
        "layout": f"{found.layout}'s" if found.layout != "a tensor alone" else found.layout, "words": _shown(found.words),
        "base": ", ".join(_BASES.get(width, f"a text encoder of width {width}") for width in widths),
    }  # fmt: skip
    if not found.named:
        facts["word"] = "the file does not say it, so that its name is taken"
    return "a textual inversion", f"add it with --embedding {path}", facts


def _shown(found: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{word} ({len(vectors)} vectors)" for word, vectors in found.items())


def _metadata(path: Path) -> dict[str, str]:
    """Return what trainers write into the header: the base's name, the words that were trained most."""
    said = weights.metadata(path)
    facts = {}
    for key, what in (("ss_sd_model_name", "trained on"), ("ss_base_model_version", "trained for"), ("ss_output_name", "name")):
        if said.get(key):
            facts[what] = said[key][:120]
    if said.get(MERGED):
        facts["merged of"] = said[MERGED][:400]
    for key in ("modelspec.trigger_phrase", "ss_trigger_word"):
        if said.get(key):
            facts["trigger"] = said[key][:200]
    try:
        tags = json.loads(said.get("ss_tag_frequency", "{}"))
        counts: Counter[str] = Counter()
        for folder in tags.values():
            counts.update({str(tag).strip(): int(n) for tag, n in folder.items()})
    except (ValueError, AttributeError, TypeError, RecursionError):
        return facts
    if counts:
        facts["trained most on"] = ", ".join(tag for tag, _ in counts.most_common(5))[:200]
    return facts
