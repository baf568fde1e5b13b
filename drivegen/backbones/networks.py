"""Networks of a model folder: a closed table of classes, built from their configurations, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drivegen.support import weights
from drivegen.support.errors import InputError, reason

MODELS = {
    "UNet2DConditionModel": "diffusers", "AutoencoderKL": "diffusers", "AutoencoderTiny": "diffusers", "VQModel": "diffusers",
    "CLIPTextModel": "transformers", "CLIPVisionModelWithProjection": "transformers", "CLIPVisionModel": "transformers",
}  # fmt: skip
"""The closed table of classes that a folder may name, and the library of each."""

STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
"""What each library calls its weight files."""


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

            return getattr(diffusers, class_name).from_config(settings)
        import transformers

        cls = getattr(transformers, class_name)
        return cls(cls.config_class.from_dict(settings))
    except Exception as error:  # settings reach deep into other libraries, which raise whatever a wrong one leads to
        raise InputError(f"{class_name} cannot be built as configured: {reason(error)}") from error


def build_from_folder(folder: Path, class_name: str) -> nn.Module:
    """Construct a model as the config.json of a folder says, freshly initialised; raises InputError where it cannot."""
    config = weights.read_json(folder / "config.json")
    try:
        return build_model(class_name, config)
    except InputError as error:
        raise InputError(f"{folder / 'config.json'}: {error}") from error


def load_model(folder: Path, class_name: str) -> nn.Module:
    """Construct a model from its folder and load its weights strictly, in fp32."""
    model = build_from_folder(folder, class_name)
    loaded = weights.load_state(folder, STEMS[MODELS[class_name]])
    state = {k: v.float() if v.is_floating_point() else v for k, v in loaded.items()}
    if MODELS[class_name] == "transformers":
        state = current_clip_keys(state, model)
    elif hasattr(model, "_fix_state_dict_keys_on_load"):
        model._fix_state_dict_keys_on_load(state)  # type: ignore[operator]
    weights.load_strict(model, state, str(folder))
    return model


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
    """Write config.json and safetensors, floating-point tensors in `dtype`; shard is the most bytes of a file."""
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(model.config, "to_json_string"):
        model.config.architectures = [type(model).__name__]  # so that the folder says by itself what it holds
        (folder / "config.json").write_text(model.config.to_json_string(), encoding="utf-8")
    else:
        model.save_config(folder)
    whole = weights.plain_state(model)
    state = {k: v.to(dtype) if dtype is not None and v.is_floating_point() else v for k, v in whole.items()}
    weights.save_shards(state, folder, stem, shard)
