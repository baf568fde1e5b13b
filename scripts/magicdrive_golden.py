"""MagicDrive's weights in a drivegen host beside the tensors that its own networks computed, and a recorder of its inside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drivegen.convert import magicdrive
from drivegen.host.batch import Batch
from drivegen.host.host import Host
from drivegen.plugin import Arrays, Grid
from drivegen.support.errors import InputError
from drivegen.support.weights import load_file, read_json
from drivegen.testing.models import tiny_backbone

Tensors = dict[str, Tensor]


class Fixture(dict[str, Tensor]):
    """The tensors of a file; asking for one that is not there raises InputError."""

    def __init__(self, path: Path) -> None:
        super().__init__(load_file(path))
        self.path = path

    def __missing__(self, name: str) -> Tensor:
        raise InputError(f"{self.path}: there is no tensor {name!r}, without which nothing can be compared; add it")


class Golden:
    """MagicDrive's weights in a host, and its inputs in the form of a batch; text tokens come ready-made.

    parameters are those that MagicDrive trains, by its names: plugins', and all of the UNet's where trainable_state is "all".
    """

    def __init__(self, weights: Path, tensors: Path) -> None:
        self.folder = tensors
        self.inputs = Fixture(tensors / "inputs.safetensors")
        table = tensors / "tensors.json"
        self.described: dict[str, dict[str, Any]] = read_json(table) if table.is_file() else {}
        checkpoint = magicdrive.read(weights, half=False)
        backbone = tiny_backbone()
        backbone.unet = checkpoint.unet.eval()
        plugins = checkpoint.plugins()
        self.host = Host(backbone, plugins).eval()
        checkpoint.load_into(plugins)
        own = {(name, key): p for name, plugin in plugins.items() for key, p in plugin.named_parameters()}
        self.trains_unet = read_json(weights / "unet" / "config.json").get("trainable_state") == "all"
        if self.trains_unet:
            own |= {("", key): p for key, p in checkpoint.unet.named_parameters()}
        self.parameters = {theirs: own[ours] for theirs, ours in checkpoint.places.items() if ours in own}
        neighbours = checkpoint.described.neighbours
        self.scenes, self.views = self.inputs["camera_param"].shape[:2]
        if len(neighbours) != self.views:
            raise InputError(f"{weights}: the UNet has {len(neighbours)} views, the tensors {self.views}")
        width = max(len(others) for others in neighbours)
        table_ = torch.tensor([[*others, *[-1] * (width - len(others))] for others in neighbours])
        i = self.inputs
        arrays: dict[str, Arrays] = {
            "camera": {"camera_param": i["camera_param"]},
            "text": {"states": i["prompt_embeds"], "null_states": i["negative_prompt_embeds"]},
            "boxes": {"corners": i["bboxes"], "classes": i["classes"], "mask": i["masks"].bool()},
            "bev_map": {"map": i["map"]},
            "cross_view": {"neighbours": table_.expand(self.scenes, -1, -1)},
        }
        self.batch = Batch(Grid(self.scenes, 1, self.views), arrays)

    def said(self, file: str, tensor: str) -> str:
        """What the table says of a tensor."""
        return str(self.described.get(file, {}).get(tensor, {}).get("desc", ""))

    @property
    def guidance(self) -> float:
        """Guidance of the fixtures: u + s·(c − u)."""
        found = re.search(r"u \+ ([\d.]+) ?\*", self.said("step_cfg.safetensors", "noise_pred"))
        return float(found[1]) if found else magicdrive.SAMPLING.guidance

    @property
    def block(self) -> str:
        """Name of the UNet's transformer block whose inside is recorded."""
        found = re.search(r"unet\.([\w.]*transformer_blocks\.\d+)", self.said("step.safetensors", "block.in"))
        names = [n for n, _ in self.host.backbone.unet.named_modules() if re.search(r"\.transformer_blocks\.\d+$", n)]
        return found[1] if found else names[0]


@contextmanager
def recorded(golden: Golden) -> Iterator[Tensors]:
    """Record what passes through the networks, under the names of the fixtures."""
    seen: Tensors = {}
    host, name = golden.host, golden.block
    branch, unet = host.plugin("bev_map").branch, host.backbone.unet
    block, layer = unet.get_submodule(name), host.plugin("cross_view").taps[f"{name}.attn2".replace(".", "-")]

    def keep(key: str, module: nn.Module, args: Any, out: Any) -> None:
        seen[key] = out

    def keep_input(key: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        seen[key] = args[0] if args else kwargs["hidden_states"]

    def keep_branch(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        seen.update({f"down.{i}": x for i, x in enumerate(out[0])}, mid=out[1], map_emb=kwargs["controlnet_cond"])
        seen["encoder_hidden_states_with_cam"] = kwargs["encoder_hidden_states"]

    def keep_tokens(module: nn.Module, args: Any, kwargs: Any) -> None:
        if not torch.equal(kwargs["encoder_hidden_states"], seen["encoder_hidden_states_with_cam"]):
            raise AssertionError("UNet and ControlNet attend to different tokens")

    outputs = {
        "time_emb_controlnet": branch.time_embedding, "time_emb_unet": unet.time_embedding, "block.out": block,
        "block.attn1": block.attn1, "block.ff": block.ff, "block.norm4": layer.norm4, "block.connector": layer.connector,
    }  # fmt: skip
    handles = [module.register_forward_hook(partial(keep, key)) for key, module in outputs.items()]
    # Before the host's own hook, which adds the cross-view term to this output.
    handles.append(block.attn2.register_forward_hook(partial(keep, "block.attn2"), prepend=True))
    handles.append(branch.register_forward_hook(keep_branch, with_kwargs=True))
    handles.append(unet.register_forward_pre_hook(keep_tokens, with_kwargs=True))
    for key, module in {"block.in": block, "block.connector_in": layer.connector}.items():
        handles.append(module.register_forward_pre_hook(partial(keep_input, key), with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
