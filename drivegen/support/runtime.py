"""Devices, number formats and offloading."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch
from torch import nn

from drivegen.support.dtypes import dtype_word
from drivegen.support.errors import InputError
from drivegen.support.values import text


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """Return an available device: "auto" is CUDA, then Metal, then the CPU; raises InputError for one that is not available."""
    name = str(name) if isinstance(name, torch.device) else text(name, "device")
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


def choose_devices(names: str) -> tuple[str, ...]:
    """Return several available devices of one kind, from ``cuda:0,cuda:1``, or the one that "auto" chooses."""
    found = tuple(str(choose_device(name.strip())) for name in text(names, "device").split(","))
    kinds = sorted({name.split(":")[0] for name in found})
    if len(kinds) > 1:
        raise InputError(
            f"devices {names!r} are of several kinds ({', '.join(kinds)}), which compute other bits; give one kind"
        )
    return found


def memory_bytes() -> tuple[int, int]:
    """Return the memory that this process takes, and what is available to others; equal where that is not known."""
    try:
        with open("/proc/self/status", encoding="ascii") as status, open("/proc/meminfo", encoding="ascii") as machine:
            lines = dict(line.split(":", 1) for line in (*status, *machine))
        own, free = (int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return 1, 1
    return own, free


def choose_dtype(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Return a number format to compute in: "auto" is bfloat16 where the processor supports it, else float32."""
    if isinstance(name, str) and name == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    found = parse_dtype(name, "auto or ")
    if found is torch.float16 and device.type == "cpu":
        raise InputError("dtype float16 is not for the CPU; use auto, bfloat16 or float32")
    return found


def parse_dtype(name: str | torch.dtype, others: str = "") -> torch.dtype:
    """Return a number format by its word, or a torch.dtype that is one; raises InputError for any other.

    Args:
        name: a word of `dtypes`, or torch's own.
        others: what else the caller takes, for the error.
    """
    word = str(name).removeprefix("torch.") if isinstance(name, torch.dtype) else name
    found: torch.dtype = getattr(torch, dtype_word(word, others))
    return found


class _DefaultFormat:
    """How many computations ask for torch's usual default format, which all threads share, and what it was before the first."""

    def __init__(self) -> None:
        self.lock, self.inside, self.before = Lock(), 0, torch.float32


_DEFAULT_FORMAT = _DefaultFormat()


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Compute with torch's default format float32, which networks and schedulers assume, whatever the caller has set.

    The caller's is back when the last of the threads that compute so is done.
    """
    state = _DEFAULT_FORMAT
    with state.lock:
        if not state.inside:
            state.before = torch.get_default_dtype()
        state.inside += 1
        if torch.get_default_dtype() is not torch.float32:
            torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        with state.lock:
            state.inside -= 1
            if not state.inside and state.before is not torch.float32:
                torch.set_default_dtype(state.before)


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


def convert(host: nn.Module, dtype: torch.dtype) -> None:
    """Convert a host to a number format, except a VAE that computes in float32 alone."""
    backbone: Any = host.backbone
    kept = backbone.vae if backbone.first_stage.float32 else None
    for part in (*host.children(), *backbone.children()):
        if part is not backbone and part is not kept:
            nn.Module.to(part, dtype=dtype)  # diffusers' own warns of layers to keep in fp32, of which there are none


def offload(host: nn.Module, device: torch.device) -> None:
    """Keep text encoder and VAE in main memory, and on the device only while they compute; raises InputError without a GPU."""
    if device.type == "cpu":
        raise InputError("--offload moves networks between main memory and a GPU, and there is no GPU here")
    from accelerate import cpu_offload  # type: ignore[import-untyped]

    backbone: Any = host.backbone
    host.to(device)
    # The UNet and the plugins work at every step and stay; the text encoders and the VAE work once per frame.
    encoders = [tower.encoder for tower in backbone.texts]
    for network in (*encoders, backbone.vae.encoder, backbone.vae.decoder, *backbone.components.values()):
        network.to("cpu")
        cpu_offload(network, device)


@contextmanager
def at_rest(network: nn.Module) -> Iterator[None]:
    """Keep a network in main memory while other processes need its GPU; on a CPU nothing moves."""
    device = device_of(network)
    if device.type == "cpu":
        yield
        return
    network.to("cpu")
    if device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        yield
    finally:
        network.to(device)


def device_of(network: nn.Module) -> torch.device:
    """Return the device that a network computes on."""
    return next(network.parameters()).device
