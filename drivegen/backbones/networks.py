"""Networks of a model folder: a closed table of classes, built from their configurations, read and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drivegen.support import weight_folders, weights
from drivegen.support.errors import InputError, reason
from drivegen.support.runtime import float32_by_default

MODELS = {
    "UNet2DConditionModel": "diffusers", "AutoencoderKL": "diffusers", "AutoencoderTiny": "diffusers", "VQModel": "diffusers",
    "CLIPTextModel": "transformers", "CLIPTextModelWithProjection": "transformers",
    "CLIPVisionModelWithProjection": "transformers", "CLIPVisionModel": "transformers",
}  # fmt: skip
"""The closed table of classes that a folder may name, and the library of each."""

STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
"""What each library calls its weight files."""

MAX_LAYERS, MAX_SIZE = 1000, 10_000_000
"""The most that a configuration may say of layers, and of anything else that is counted."""


def build_model(class_name: str, config: Mapping[str, Any]) -> nn.Module:
    """Construct a model of the closed table from its configuration, freshly initialised; raises InputError where it cannot."""
    if class_name not in MODELS:
        raise InputError(f"class {class_name!r} is not one that a model folder may name: {', '.join(MODELS)}")
    if not isinstance(config, Mapping):
        raise InputError(f"the configuration of a {class_name} must be a mapping of settings, not {type(config).__name__}")
    settings = {k: v for k, v in config.items() if not k.startswith("_")}
    try:
        if MODELS[class_name] == "diffusers":
            import diffusers

            with float32_by_default():
                return getattr(diffusers, class_name).from_config(settings)
        import transformers

        cls = getattr(transformers, class_name)
        with float32_by_default():
            return cls(cls.config_class.from_dict(settings))
    except Exception as error:  # settings reach deep into other libraries, which raise whatever a wrong one leads to
        raise InputError(f"{class_name} cannot be built as configured: {reason(error)}") from error


def check_sizes(config: Any) -> None:
    """Refuse a configuration whose network would exhaust memory or time; raises InputError naming the setting."""
    for key, value in config.items() if isinstance(config, Mapping) else ():
        for number in value if isinstance(value, (list, tuple)) else (value,):
            most = MAX_LAYERS if "layers" in str(key) else MAX_SIZE
            if isinstance(number, int) and number > most:
                raise InputError(f"{key} = {number} is out of range; allowed: up to {most}")


def build_from_folder(folder: Path, class_name: str, changes: Mapping[str, Any] | None = None) -> nn.Module:
    """Construct a model as the config.json of a folder says, freshly initialised; raises InputError where it cannot.

    Args:
        folder: of config.json.
        class_name: one of MODELS.
        changes: settings that replace the folder's; None for none.
    """
    config = weights.read_json(folder / "config.json")
    try:
        check_sizes(config)
        return build_model(class_name, {**config, **changes} if changes and isinstance(config, Mapping) else config)
    except InputError as error:
        raise InputError(f"{folder / 'config.json'}: {error}") from error


def load_model(folder: Path, class_name: str, variant: str | None = None) -> nn.Module:
    """Construct a model from its folder and load its weights strictly, in fp32; raises InputError where they do not fit.

    Args:
        folder: config.json and weight files.
        class_name: one of MODELS.
        variant: which of several weight files to take, such as "fp16"; full precision, or the only one, when None.
    """
    outline = build_outline(folder, class_name)
    state = _read_state(folder, class_name, variant, outline)
    weights.check_fits(outline, state, str(folder))
    model = build_from_folder(folder, class_name)
    weights.load_strict(model, state, str(folder))
    remember_source(model, partial(_read_state, folder, class_name, variant))
    return model


def build_outline(folder: Path, class_name: str, changes: Mapping[str, Any] | None = None) -> nn.Module:
    """Construct a folder's model on the meta device, so that a wrong size is found before memory is allocated.

    Args:
        folder: of config.json.
        class_name: one of MODELS.
        changes: settings that replace the folder's; None for none.
    """
    with torch.device("meta"):
        return build_from_folder(folder, class_name, changes)


def _read_state(folder: Path, class_name: str, variant: str | None, model: nn.Module) -> weights.State:
    """Read a model's weights from its folder, in fp32 and under the names that the model has here."""
    loaded = weight_folders.load_state(folder, STEMS[MODELS[class_name]], variant)
    state = {k: v.float() if v.is_floating_point() else v for k, v in loaded.items()}
    if MODELS[class_name] == "transformers":
        return current_clip_keys(state, model)
    if hasattr(model, "_fix_state_dict_keys_on_load"):
        model._fix_state_dict_keys_on_load(state)  # type: ignore[operator]
    return state


def remember_source(model: nn.Module, read: Callable[[nn.Module], weights.State]) -> None:
    """Record how to read a model's weights again from where they are stored, for `state_as_stored`."""
    model.__dict__["_read_again"] = read


def state_as_stored(model: nn.Module) -> weights.State:
    """Return a model's weights as stored on disk, where the model holds them in a coarser format; otherwise its own.

    fp16 and finer formats count as exact, since weights are compared in fp16.
    """
    own = weights.plain_state(model)
    read = weights.unwrapped(model).__dict__.get("_read_again")
    if read is None or all(v.dtype in (torch.float16, torch.float32) for v in own.values() if v.is_floating_point()):
        return own
    try:
        stored: weights.State = read(model)
    except InputError:
        return own  # the files were changed or taken away since
    same = own.keys() == stored.keys() and all(torch.equal(v.cpu(), stored[k].to(v.dtype)) for k, v in own.items())
    return stored if same else own


def current_clip_keys(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename CLIP keys between transformers' old layout (``text_model.…``) and today's; position ids are recomputed."""
    own = model.state_dict()
    out = {}
    for key, value in state.items():
        if key.endswith("position_ids"):
            continue
        short = key.removeprefix("text_model.").removeprefix("vision_model.")
        longs = (key, short, f"text_model.{short}", f"vision_model.{short}")
        out[next((k for k in longs if k in own), key)] = value
    return out


def save_model(model: Any, folder: Path, stem: str, dtype: torch.dtype | None, shard: int | None = None) -> None:
    """Write a model's config.json and its weights as safetensors.

    Args:
        model: the network.
        folder: where they go.
        stem: name of the weight files.
        dtype: of floating-point tensors; None keeps each as it is.
        shard: most bytes of a file; None writes one file.
    """
    whole = weights.plain_state(model)
    model = weights.unwrapped(model)
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(model.config, "to_json_string"):
        model.config.architectures = [type(model).__name__]  # so that the folder says by itself what it holds
        (folder / "config.json").write_text(model.config.to_json_string(), encoding="utf-8")
    else:
        model.save_config(folder)
    state = {k: v.to(dtype) if dtype is not None and v.is_floating_point() else v for k, v in whole.items()}
    weight_folders.save_shards(state, folder, stem, shard)
