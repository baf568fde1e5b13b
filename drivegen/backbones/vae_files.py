"""A VAE that replaces a model's own: AutoencoderKL, AutoencoderTiny or VQModel, from a folder of diffusers or a single file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from drivegen.backbones.networks import build_model, load_model
from drivegen.support import weights
from drivegen.support.errors import InputError

CLASSES = ("AutoencoderKL", "AutoencoderTiny", "VQModel")
"""First stages that the host works in the latents of; the first is meant where a folder does not say."""

_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
_LDM = "first_stage_model."
_SCALING = 0.18215
"""Stable Diffusion's scaling factor (Rombach et al. 2022), for a file that cannot say its own."""


def factor_of(vae: Any) -> int:
    """Return the pixels per latent along each side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def load_vae(source: str | Path, own: Any) -> nn.Module:
    """Load a VAE that can replace a model's own, in fp32.

    Args:
        source: a VAE's folder, a model's folder with one in `vae/`, or a file: with diffusers' names, with LDM's
            (`first_stage_model.…` or bare), or one of TAESD's two, with the other beside it.
        own: the model's own VAE, which supplies what a file does not state: the scaling factor, and the groups of the norms.

    Raises InputError where it is no such VAE, or its latents have other channels or another size than the model's.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise InputError(f"there is no VAE at {str(source)!r}; name a VAE's folder, a model's folder, or a weight file")
    vae = _from_folder(path, own) if path.is_dir() else _from_file(path, own)
    for what, theirs, ours in (
        ("latent channels", int(vae.config.latent_channels), int(own.config.latent_channels)),
        ("pixels per latent", factor_of(vae), factor_of(own)),
        ("picture channels", int(vae.config.in_channels), 3),
    ):
        if theirs != ours:
            raise InputError(f"{path}: the VAE has {what} {theirs}, and this model's {ours}; it is for another model")
    return vae.eval().requires_grad_(False)


def _from_folder(path: Path, own: Any) -> Any:
    if not (path / "config.json").is_file() and (path / "vae" / "config.json").is_file():
        path = path / "vae"
    config = weights.read_object(path / "config.json")
    name = str(config.get("_class_name"))
    if name not in CLASSES:
        raise InputError(f"{path / 'config.json'} is of a {name}, and {', '.join(CLASSES[:-1])} or {CLASSES[-1]} is needed")
    vae: Any = load_model(path, name)
    scaling, ours = vae.config.scaling_factor, own.config.scaling_factor
    if name == type(own).__name__ and scaling != ours:
        warnings.warn(
            f"{path}: the VAE's scaling_factor is {scaling}, and that of the model's own {ours}: it was probably trained for "
            "another model, whose latents mean something else", stacklevel=4,
        )  # fmt: skip
    return vae


def _from_file(path: Path, own: Any) -> Any:
    state = weights.load_file(path, lambda name: name.startswith((_LDM, *_PARTS)) or name[:1].isdecimal())
    if any(key.startswith(_LDM) for key in state):
        state = {key.removeprefix(_LDM): value for key, value in state.items() if key.startswith(_LDM)}
    state = _joined_halves(path, state) or {key: value for key, value in state.items() if key.startswith(_PARTS)}
    try:
        if "encoder.layers.0.weight" in state:
            config, name = _tiny_config(state), "AutoencoderTiny"
        elif any(key.startswith("encoder.down_blocks.") for key in state):
            config, name = _kl_config(state, own), "AutoencoderKL"
        elif any(key.startswith("encoder.down.") for key in state):
            state = _from_ldm(state)
            config, name = _kl_config(state, own), "AutoencoderKL"
        else:
            names = ", ".join(f"{begin}…" for begin in (_LDM, "encoder.down", "encoder.layers"))
            raise InputError(f"{path} is not a file of an AutoencoderKL or AutoencoderTiny: no tensor is named {names}")
    except InputError:
        raise
    except (KeyError, IndexError, ValueError) as error:
        lacks = f"lacks {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path} looks like a VAE and is not whole: it {lacks}") from error
    vae: Any = build_model(name, config)
    state = {key: value.float() for key, value in state.items()}
    if hasattr(vae, "_fix_state_dict_keys_on_load"):
        vae._fix_state_dict_keys_on_load(state)
    weights.load_strict(vae, state, str(path))
    return vae


def _from_ldm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    from diffusers.loaders import single_file_utils as ldm

    levels = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.down."))
    config = {"down_block_types": [""] * levels, "up_block_types": [""] * levels}
    # The converter gives None for some of the tensors that are not there; strict loading then names them.
    return {k: v for k, v in ldm.convert_ldm_vae_checkpoint(dict(state), config).items() if v is not None}


def _kl_config(state: Mapping[str, Tensor], own: Any) -> dict[str, Any]:
    """Read an AutoencoderKL's configuration from its shapes; what they do not show is that of the model's own VAE."""
    levels = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.down_blocks."))
    unshaped = ("norm_num_groups", "act_fn", "scaling_factor", "shift_factor", "force_upcast", "sample_size")
    like = {key: own.config[key] for key in unshaped if key in own.config} if type(own).__name__ == "AutoencoderKL" else {}
    latents = state["decoder.conv_in.weight"].shape[1]
    return {
        "scaling_factor": _SCALING,
        **like,
        "in_channels": state["encoder.conv_in.weight"].shape[1],
        "out_channels": state["decoder.conv_out.weight"].shape[0],
        "latent_channels": latents,
        "block_out_channels": [state[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"].shape[0] for i in range(levels)],
        "layers_per_block": len({key.split(".")[4] for key in state if key.startswith("encoder.down_blocks.0.resnets.")}),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "mid_block_add_attention": any(key.startswith("encoder.mid_block.attentions.") for key in state),
        "use_quant_conv": "quant_conv.weight" in state,
        "use_post_quant_conv": "post_quant_conv.weight" in state,
    }


def _joined_halves(path: Path, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Join TAESD's two files, with layers from 0 (encoder) and from 1 (decoder, after a clamp); None where it is neither."""
    if not state or not all(key.split(".")[0].isdecimal() for key in state):
        return None
    half, other = ("decoder", "encoder") if "decoder" in path.name else ("encoder", "decoder")
    beside = path.with_name(path.name.replace(half, other))
    if half not in path.name or not beside.is_file():
        raise InputError(f"{path} is one half of a TAESD; name it …encoder… or …decoder… and keep the other half beside it")
    both = {half: state, other: weights.load_file(beside)}
    decoder = {f"decoder.layers.{int(n) - 1}.{rest}": v for (n, _, rest), v in _numbered(both["decoder"])}
    return {f"encoder.layers.{n}.{rest}": v for (n, _, rest), v in _numbered(both["encoder"])} | decoder


def _numbered(state: Mapping[str, Tensor]) -> list[tuple[tuple[str, str, str], Tensor]]:
    return [(key.partition("."), value) for key, value in state.items()]


def _tiny_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read an AutoencoderTiny's configuration from its shapes; its latents are scaled already, so its factor is 1."""
    halves = {}
    for half in ("encoder", "decoder"):
        last = max(int(key.split(".")[2]) for key in state if key.startswith(f"{half}.layers."))
        widths, blocks = [state[f"{half}.layers.0.weight"].shape[0]], [0]
        for i in range(1, last + 1):
            if f"{half}.layers.{i}.weight" in state:  # a convolution begins a stage, and the last one ends the network
                widths.append(state[f"{half}.layers.{i}.weight"].shape[0])
                blocks.append(0)
            elif f"{half}.layers.{i}.conv.0.weight" in state:
                blocks[-1] += 1
        halves[half] = (widths[:-1], blocks[:-1])
    return {
        "in_channels": state["encoder.layers.0.weight"].shape[1],
        "latent_channels": state["decoder.layers.0.weight"].shape[1],
        "encoder_block_out_channels": halves["encoder"][0], "num_encoder_blocks": halves["encoder"][1],
        "decoder_block_out_channels": halves["decoder"][0], "num_decoder_blocks": halves["decoder"][1],
    }  # fmt: skip
