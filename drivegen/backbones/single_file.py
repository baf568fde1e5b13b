"""Single-file checkpoints of Stable Diffusion 1.x, 2.x, XL and its refiner: LDM's names, and configurations that they lack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from drivegen.backbones.compatibility import check_channels
from drivegen.backbones.networks import current_clip_keys
from drivegen.diffusion.training_facts import check_prediction
from drivegen.support import weights
from drivegen.support.errors import InputError
from drivegen.support.weights import State

_NETWORKS = {"unet": "model.diffusion_model.", "vae": "first_stage_model."}
LAYOUTS: Mapping[str, Mapping[str, str]] = {
    "sd": {**_NETWORKS, "text_encoder": "cond_stage_model."},
    "sdxl": {
        **_NETWORKS, "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
    "sdxl_refiner": {**_NETWORKS, "text_encoder_2": "conditioner.embedders.0.model."},
}  # fmt: skip
"""By the key of a family, what the names of each network's tensors begin with."""


_MARKS = ("v_pred", "ztsnr")
"""Empty tensors by which trainers mark v-prediction and zero terminal SNR."""

_KINDS = {"v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon", "eps": "epsilon"}
"""What the headers of files say (``modelspec.prediction_type``), in diffusers' words."""

_OTHERS = {
    "conditioner.embedders.": "a file of SDXL without all of its networks",
    "model.diffusion_model.joint_blocks.": "a Stable Diffusion 3 checkpoint", "control_model.": "a ControlNet",
    "model.diffusion_model.double_blocks.": "a Flux checkpoint", "double_blocks.": "a Flux transformer", "lora_": "a LoRA",
    "model.diffusion_model.": "a file without all three networks", "down_blocks.": "one network under diffusers' names",
    "first_stage_model.": "a VAE alone", "encoder.": "a VAE alone", "image_proj.": "an IP-Adapter",
}  # fmt: skip
"""What other files are, by what the name of a tensor begins with; the first that is found."""


_ENDS = ("model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.out.2.weight")
"""The UNet's first and last convolution."""

_UNFED = {
    "model.diffusion_model.time_embed.cond_proj.": "an LCM-distilled UNet with a guidance embedding",
    "model.diffusion_model.label_emb.": "a UNet with a class or image embedding, as unCLIP and upscalers have",
}  # fmt: skip
"""Weights of inputs that no family here feeds, and what a UNet with them is; a family that feeds one takes it out."""


def from_ldm(name: str, state: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Extract one network's weights from a single-file checkpoint, renamed to the network's own keys.

    Args:
        name: "unet", "vae", "text_encoder" or "text_encoder_2".
        state: the file's tensors by LDM's names.
        model: the network, for its configuration and names.
    """
    prefix = LAYOUTS[layout_of(state)][name]
    from diffusers.loaders import single_file_utils as ldm

    if name == "unet":
        found = ldm.convert_ldm_unet_checkpoint(state, model.config)
    elif name == "vae":
        found = ldm.convert_ldm_vae_checkpoint(state, model.config)
    elif prefix.endswith(".model."):
        found = current_clip_keys(ldm.convert_open_clip_checkpoint(model, state, prefix), model)
    else:
        is_open_clip = ldm.is_open_clip_model(state)
        found = ldm.convert_open_clip_checkpoint(model, state) if is_open_clip else ldm.convert_ldm_clip_checkpoint(state)
        # Some files keep CLIP's projection, which Stable Diffusion does not use.
        found = current_clip_keys({k: v for k, v in found.items() if not k.endswith("text_projection.weight")}, model)
    # The converters give None for some of the tensors that are not there; strict loading then names them.
    return {k: v for k, v in found.items() if v is not None}


def layout_of(state: Iterable[str]) -> str:
    """Tell the layout of a file, a key of `LAYOUTS`, by the names of its tensors."""
    names = list(state)
    for key in ("sdxl", "sdxl_refiner"):  # SDXL's base has a first text encoder too, under another name than a refiner's
        if any(name.startswith(LAYOUTS[key]["text_encoder_2"]) for name in names):
            return key
    return "sd"


def read(path: Path) -> State:
    """Read the networks' tensors and the markers of training from a single file; other tensors are skipped.

    Raises InputError saying what the file is where it is no Stable Diffusion 1.x, 2.x or XL model.
    """
    if not path.is_file():
        raise InputError(f"no weight file {path}")
    every = tuple({prefix for layout in LAYOUTS.values() for prefix in layout.values()})
    state = weights.load_file(path, lambda name: name.startswith(every) or name in _MARKS, finite=False)
    prefixes = LAYOUTS[layout_of(state)].values()
    missing = [prefix for prefix in prefixes if not any(key.startswith(prefix) for key in state)]
    if missing:
        what = next(
            (said for start, said in _OTHERS.items() if any(name.startswith(start) for name in weights.names(path, state))), ""
        )
        raise InputError(
            f"{path} is not a single-file Stable Diffusion 1.x, 2.x or XL checkpoint: no tensor's name begins with "
            f"{' or '.join(missing)}{f'; it is {what}' if what else ''}"
        )
    return state


def narrowed(state: Mapping[str, Tensor], path: Path) -> State:
    """Leave out the UNet's input channels beyond those of its latents, which a plugin takes over.

    state holds the tensors of the file at path. Raises InputError where there are none.
    """
    wide, last = (state.get(key) for key in _ENDS)
    if wide is None or last is None or wide.ndim != 4:
        raise InputError(f"{path} lacks {' or '.join(_ENDS)}: it has no UNet of Stable Diffusion")
    latents = int(last.shape[0])
    if wide.shape[1] <= latents:
        raise InputError(
            f"{path}: its UNet has {wide.shape[1]} input channels and {latents} of latents, so nothing is joined to them; a "
            "plain model needs no conversion: name it with --model"
        )
    return {**state, _ENDS[0]: wide[:, :latents].clone()}


def latents_of(state: Mapping[str, Tensor]) -> int:
    """Return the channels of what a file's UNet predicts."""
    return int(state[_ENDS[1]].shape[0])


def ends(path: Path) -> tuple[int, int] | None:
    """Return the input and output channels of a file's UNet, of which alone tensors are read; None where it has none."""
    state = weights.load_file(path, lambda name: name in _ENDS, finite=False)
    shapes = [state.get(key) for key in _ENDS]
    if any(tensor is None or tensor.ndim != 4 for tensor in shapes):
        return None
    return int(shapes[0].shape[1]), int(shapes[1].shape[0])  # type: ignore[union-attr]


def check_network(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse an unsupported UNet before the hub is asked or a network is built; raises InputError."""
    for beginning, what in _UNFED.items():
        if beginning.endswith(".label_emb.") and layout_of(state) != "sd":
            continue  # SDXL's pooled text and sizes
        key = next((key for key in state if key.startswith(beginning)), None)
        if key is not None:
            raise InputError(f"{path}: this is {what} ({key}), which is not hosted")
    shapes = [state.get(key) for key in _ENDS]
    latents = state.get("first_stage_model.decoder.conv_in.weight")
    quantised = state.get("first_stage_model.post_quant_conv.weight", latents)
    if quantised is None or any(shape is None or shape.ndim != 4 for shape in (*shapes, quantised)):
        return  # strict loading names what is missing
    try:
        check_channels(int(shapes[0].shape[1]), int(shapes[1].shape[0]), int(quantised.shape[1]))  # type: ignore[union-attr]
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def stated_training(path: Path, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what a file itself states of its training (marker tensors, header), as scheduler settings."""
    said: dict[str, Any] = {}
    kind = _KINDS.get(weights.metadata(path).get("modelspec.prediction_type", "").lower())
    if kind is not None:
        said["prediction_type"] = kind
    if "v_pred" in state:
        said["prediction_type"] = "v_prediction"
    if "ztsnr" in state:
        said["rescale_betas_zero_snr"] = True
    return said


def training_of(
    path: Path, state: Mapping[str, Tensor], stated: str | None, configured: Mapping[str, Any] | None
) -> dict[str, Any]:  # fmt: skip
    """Return the scheduler settings that a file requires; raises InputError where two readings are possible.

    Args:
        path: the file.
        state: its tensors.
        stated: the prediction type that the user gave; it decides where it is not None.
        configured: the scheduler's settings in a folder that the user gave; None where the hub's will be taken.
    """
    said = stated_training(path, state)
    if stated is not None:
        check_prediction(stated)
        return {**said, "prediction_type": stated}
    how = "; state prediction_type (--prediction-type), epsilon or v_prediction"
    if configured is not None:
        theirs = configured.get("prediction_type", "epsilon")
        if said.get("prediction_type", theirs) != theirs:
            raise InputError(f"{path} says that it predicts {said['prediction_type']}, and its configuration {theirs}{how}")
        return said
    if "prediction_type" not in said and any(key.startswith("cond_stage_model.model.") for key in state):
        raise InputError(
            f"{path} is of Stable Diffusion 2.x, whose files predict epsilon (base, 512 pixels) or v_prediction (768 pixels), "
            f"and does not say which{how}, or name a folder of its configurations with --config"
        )
    return said


def unread(state: Mapping[str, Tensor], used: Mapping[str, Tensor], prefix: str) -> list[str]:
    """Name the tensors below a prefix that were not used; if there are any, the network differs from the one configured.

    Args:
        state: the file's tensors by name.
        used: those that were taken.
        prefix: which names count.
    """
    there = {value.data_ptr() for value in used.values() if value.numel()}
    return sorted(key for key, value in state.items() if key.startswith(prefix) and value.data_ptr() not in there)


def hub_folder(path: Path, state: Mapping[str, Tensor], prediction_type: str | None = None) -> Path:
    """Fetch the configurations that diffusers would choose for a single file.

    Args:
        path: the file, for the error.
        state: its tensors by name.
        prediction_type: "epsilon" selects Stable Diffusion 2.x's base model of 512 pixels; None leaves diffusers' choice.

    Raises InputError when the hub cannot be reached.
    """
    from diffusers.loaders.single_file_utils import fetch_diffusers_config
    from huggingface_hub import snapshot_download

    name = fetch_diffusers_config(state)["pretrained_model_name_or_path"]
    if name.endswith("stable-diffusion-2-1") and prediction_type == "epsilon":
        name += "-base"
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.txt"]))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot fetch the configurations for {path} from the hub's {name} ({str(error).splitlines()[0]}); name a folder "
            "that has them with --config, or config_folder in Python"
        ) from error
