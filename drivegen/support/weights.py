"""Reading and writing weight files: safetensors, or foreign pickles with `weights_only=True`, checked before use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drivegen.support.errors import InputError
from drivegen.support.files import write_atomically
from drivegen.support.pickled import read_values

State = dict[str, Tensor]

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_FP8 = tuple(
    getattr(torch, name)
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    if hasattr(torch, name)
)
"""Eight-bit numbers that mean themselves; any other small format is a part of a quantisation with scales."""

_SCALES = (
    "scaled_fp8", "scale_weight", "weight_scale", "scale_input", "input_scale", "weight_scale_2", "weight_scale_inv",
    "comfy_quant",
)  # fmt: skip
"""What tensors beside fp8 weights are called where the weights are to be multiplied."""

_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_PARALLEL = ("DistributedDataParallel", "DataParallel", "FullyShardedDataParallel")
"""Where torch's wrappers keep the network that they wrap, and those that keep it in ``module``."""


def read_json(path: Path) -> Any:
    """Read a JSON file; raises InputError when it is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply") from error


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; raises InputError as `read_json` does, and where it holds anything else."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold an object, not {type(values).__name__}")
    return values


def save_state(state: Mapping[str, Tensor], path: Path, told: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically.

    Args:
        state: the tensors by name.
        path: the file.
        told: what its header says besides, texts by name; None for nothing.
    """
    from safetensors.torch import save

    header = {"format": "pt", **(told or {})}
    write_atomically(path, save({k: v.detach().contiguous().cpu() for k, v in state.items()}, metadata=header))


def load_file(path: Path, wanted: Callable[[str], bool] | None = None, finite: bool = True) -> State:
    """Read one weight file, recognised by its content rather than its name; never runs code from the file.

    Tensors of eight bits (fp8) become fp32.

    Args:
        path: a safetensors file, or a pickle of plain tensors.
        wanted: tells by a tensor's name whether to read it; None reads all. Tensors that are not read are not checked.
        finite: refuse NaN and infinite values; if False, call `check_finite` on the tensors that are used.

    Raises InputError on a damaged or hostile file.
    """
    if not path.is_file():
        raise InputError(f"no weight file {path}")
    state = _read_safetensors(path, wanted) if is_safetensors(path) else _read_pickle(path, wanted)
    if any(tensor.dtype in _FP8 for tensor in state.values()):
        scaled = next((name for name in names(path, state) if name.rsplit(".", 1)[-1] in _SCALES), None)
        if scaled is not None:
            raise InputError(
                f"{path} is quantised to fp8 with scales ({scaled!r}), which is not read; use the unquantised file"
            )
    state = {name: _plain(path, name, tensor) for name, tensor in state.items()}
    if finite:
        check_finite(state, str(path))
    return state


def is_safetensors(path: Path) -> bool:
    """Recognise a safetensors file by its first bytes: the length of a header, and the header."""
    try:
        with open(path, "rb") as file:
            begin = file.read(9)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if len(begin) == 9 and begin[4:8] == bytes(4) and begin[8:] == b"{":
        return True
    if path.suffix.lower() == ".safetensors":
        what = "it is a pickle under that name" if begin[:1] == b"\x80" or begin[:2] == b"PK" else "it has no header"
        raise InputError(f"{path} is not a whole safetensors file: {what}")
    return False


def names(path: Path, state: Mapping[str, Tensor]) -> Iterable[str]:
    """Name every tensor of a file, also those that were not read; `state` holds those that were, for files without a header."""
    if not is_safetensors(path):
        return state.keys()
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def metadata(path: Path) -> dict[str, str]:
    """Return a safetensors file's own metadata; nothing for other files. Raises InputError on a damaged one."""
    if not path.is_file() or not is_safetensors(path):
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, ValueError, OSError) as error:
        raise InputError(f"{path} is not a whole safetensors file: {error}") from error


def _read_safetensors(path: Path, wanted: Callable[[str], bool] | None) -> State:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load

    try:
        if wanted is None:
            return dict(load(path.read_bytes()))
        with safe_open(path, framework="pt") as file:
            # Copies: the tensors of an open file change with it.
            return {name: file.get_tensor(name).clone() for name in file.keys() if wanted(name)}  # noqa: SIM118
    except (SafetensorError, ValueError, KeyError, RuntimeError, OSError, AttributeError) as error:
        raise InputError(f"{path} is not a whole safetensors file: {error}") from error


def _read_pickle(path: Path, wanted: Callable[[str], bool] | None) -> State:
    state = read_values(path)
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    state = _flat(state) if isinstance(state, dict) else state
    if not isinstance(state, dict):
        raise InputError(f"{path} holds something other than named tensors")
    state = {name: value for name, value in state.items() if wanted is None or (isinstance(name, str) and wanted(name))}
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()):
        raise InputError(f"{path} holds something other than named tensors")
    return state


def _plain(path: Path, name: str, tensor: Tensor) -> Tensor:
    """Bring a tensor to a form that networks are made of; raises InputError for what has no such form."""
    if tensor.is_quantized or tensor.is_sparse or tensor.is_meta or tensor.layout != torch.strided:
        raise InputError(f"{path}: tensor {name!r} is not stored as plain numbers ({tensor.layout}, {tensor.dtype})")
    if tensor.dtype in _FP8:
        return tensor.to(torch.float32)
    if tensor.is_floating_point() and tensor.dtype not in _FLOATS:
        raise InputError(f"{path}: tensor {name!r} is of {tensor.dtype}, which is not read; use a file in fp32, fp16 or bf16")
    return tensor


def check_finite(state: Mapping[str, Tensor], where: str) -> None:
    """Raise InputError for the first tensor that has NaN or infinite values."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{where}: tensor {name!r} has NaN or infinite values; the file is damaged or training diverged")


def _flat(state: dict[Any, Any]) -> dict[Any, Any]:
    """Join the names of named groups of tensors by dots, as a safetensors file of the same would have them."""
    out: dict[Any, Any] = {}
    for key, value in state.items():
        out |= {f"{key}.{name}": tensor for name, tensor in value.items()} if isinstance(value, dict) else {key: value}
    return out


def _inside(module: nn.Module) -> str | None:
    """Name the part in which one of torch's wrappers holds the network, or None where it is no wrapper."""
    name = next((name for name in _WRAPPERS if name in module._modules), None)
    return "module" if name is None and type(module).__name__ in _PARALLEL else name


def unwrapped(module: Any) -> Any:
    """Return the network inside torch's wrappers: compiled, data-parallel, sharded or checkpointed."""
    while isinstance(module, nn.Module) and (name := _inside(module)) is not None:
        module = module._modules[name]
    return module


def named_state(module: nn.Module) -> State:
    """Return a network's state under the network's own names, without the prefixes of torch's wrappers."""
    parallel = {_without(f"{path}.module", set()) for path, part in module.named_modules() if _inside(part) == "module"}
    return {
        _without(key, parallel): getattr(value, "full_tensor", lambda v=value: v)()
        for key, value in module.state_dict().items()
    }


def _without(key: str, parallel: set[str]) -> str:
    """Take wrappers out of a name: some of them do so by themselves, which is why it goes by names first."""
    parts = [part for part in key.split(".") if part and part not in _WRAPPERS]
    return ".".join(part for i, part in enumerate(parts) if ".".join(parts[: i + 1]) not in parallel)


def plain_state(module: nn.Module) -> State:
    """Return a network's state under the network's own names, without LoRA layers and the prefixes of torch's wrappers."""
    return {k.replace(".base_layer.", "."): v for k, v in named_state(module).items() if ".lora_" not in k}


def check_fits(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Raise InputError listing the first ten differences between a state and a module.

    Args:
        module: the network, which may be on the meta device.
        state: the tensors by name.
        where: what the state was read from, for the error.
    """
    own = module.state_dict()
    problems = [f"missing {k}" for k in own if k not in state]
    problems += [f"unexpected {k}" for k in sorted(state) if k not in own]
    shared = [k for k in own if k in state]
    problems += [
        f"{k} is {tuple(state[k].shape)}, expected {tuple(own[k].shape)}" for k in shared if state[k].shape != own[k].shape
    ]
    problems += [
        f"{k} is of {state[k].dtype}, expected {own[k].dtype}"
        for k in shared
        if state[k].is_floating_point() != own[k].is_floating_point()
    ]
    if problems:
        more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise InputError(f"{where} does not fit the network: {'; '.join(problems[:10])}{more}")


def load_strict(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load a state into a module, every key and no other; raises InputError listing the first ten differences.

    Args:
        module: the network.
        state: the tensors by name.
        where: what the state was read from, for the error.
    """
    check_fits(module, state, where)
    module.load_state_dict(dict(state), strict=True)
