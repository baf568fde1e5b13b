"""Devices, number formats and offloading."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from drivegen.support.errors import InputError, nearest

DTYPES = {
    "float32": torch.float32, "fp32": torch.float32, "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
    "float16": torch.float16, "fp16": torch.float16,
}  # fmt: skip


def choose_device(name: str = "auto") -> torch.device:
    """Return a device that is there: "auto" is CUDA, then Metal, then the CPU; raises InputError otherwise."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"no device {name!r}; use auto, cpu, cuda, cuda:0 or mps") from error
    there = {
        "cpu": True, "mps": torch.backends.mps.is_available(),
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
    }  # fmt: skip
    if not there.get(device.type, False):
        raise InputError(f"device {name!r} is not on this machine; use auto or cpu")
    return device


def choose_dtype(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Return a number format: "auto" is bfloat16 where the processor computes in it, else float32."""
    if isinstance(name, torch.dtype):
        return name
    if name == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    if name not in DTYPES:
        raise InputError(f"no dtype {name!r}; use auto or one of {', '.join(DTYPES)}{nearest(name, DTYPES)}")
    if DTYPES[name] is torch.float16 and device.type == "cpu":
        raise InputError("dtype float16 is not for the CPU; use auto, bfloat16 or float32")
    return DTYPES[name]


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device has instructions for bfloat16, rather than an emulation."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    ask = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name)()) for name in ask if hasattr(torch.cpu, name))


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the autocast region of a number format; float32 has none."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def offload(host: nn.Module, device: torch.device) -> None:
    """Keep each network in main memory until it is used, and then on the device; raises InputError without a GPU."""
    if device.type == "cpu":
        raise InputError("--offload moves networks between main memory and a GPU, and there is no GPU here")
    from accelerate import cpu_offload  # type: ignore[import-untyped]

    backbone: Any = host.backbone
    host.to(device)
    # The UNet and the plugins work at every step and stay; the text encoder and the VAE work once a frame.
    for network in (backbone.text_encoder, backbone.vae.encoder, backbone.vae.decoder, *backbone.components.values()):
        network.to("cpu")
        cpu_offload(network, device)


def device_of(network: nn.Module) -> torch.device:
    """Return where a network computes."""
    return next(network.parameters()).device
