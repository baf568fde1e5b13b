"""MagicDrive's own networks, from a copy of its repository, and drivegen's with the same weights.

Its code was written for a patched diffusers 0.17: what it takes from there under old names is given to it under those, and
nothing of its own files is changed. Nothing of it is part of drivegen.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.cost import GUIDANCE, MAP, VIEWS, Ours, Size, build_unet, random_batch
from drivegen.convert import magicdrive
from drivegen.host.host import Host
from drivegen.support.errors import InputError
from drivegen.testing.models import randomize, tiny_backbone

_BLOCK = (
    "dim", "num_attention_heads", "attention_head_dim", "dropout", "cross_attention_dim", "activation_fn",
    "num_embeds_ada_norm", "attention_bias", "only_cross_attention", "double_self_attention", "upcast_attention",
    "norm_elementwise_affine",
    "norm_type", "final_dropout",
)  # fmt: skip
"""Arguments of diffusers 0.17's BasicTransformerBlock, in order."""


def networks(repository: Path) -> tuple[type[Any], type[Any]]:
    """Return the classes of MagicDrive's UNet and ControlNet; runs the code of the copy.

    Raises InputError where the folder is not a copy of its repository.
    """
    if not (repository / "magicdrive" / "networks" / "unet_addon_rawbox.py").is_file():
        raise InputError(f"{repository} is no copy of MagicDrive's repository: it has no magicdrive/networks/; check one out")
    _old_names()
    package = types.ModuleType("magicdrive")  # its own __init__ wants what networks do not need
    package.__path__ = [str(repository / "magicdrive")]
    sys.modules["magicdrive"] = package
    unet = importlib.import_module("magicdrive.networks.unet_2d_condition_multiview")
    control = importlib.import_module("magicdrive.networks.unet_addon_rawbox")
    return unet.UNet2DConditionModelMultiview, control.BEVControlNetModel


def _old_names() -> None:
    """Give today's diffusers the names and arguments that MagicDrive uses."""
    from diffusers.models import attention, normalization
    from diffusers.models.controlnets import controlnet
    from diffusers.models.unets import unet_2d_blocks, unet_2d_condition

    attention.AdaLayerNorm = normalization.AdaLayerNorm
    block = attention.BasicTransformerBlock
    if not hasattr(block, "_by_old_names"):
        init = block.__init__

        @functools.wraps(init)
        def begin(self: Any, *args: Any, **kwargs: Any) -> None:
            named = dict(zip(_BLOCK, args, strict=False)) | kwargs
            init(self, **named)
            self._args = {name: named[name] for name in _BLOCK if name in named}

        block.__init__, block._by_old_names = begin, True
    blocks = types.ModuleType("diffusers.models.unet_2d_blocks")
    vars(blocks).update({name: value for name, value in vars(unet_2d_blocks).items() if not name.startswith("__")})
    for name in ("get_down_block", "UNetMidBlock2DCrossAttn"):
        setattr(blocks, name, _with_heads(getattr(unet_2d_blocks, name)))
    sys.modules["diffusers.models.unet_2d_blocks"] = blocks
    sys.modules["diffusers.models.unet_2d_condition"] = unet_2d_condition
    sys.modules["diffusers.models.controlnet"] = controlnet


def _with_heads(make: Any) -> Any:
    def made(*args: Any, attn_num_head_channels: int, **kwargs: Any) -> Any:
        return make(*args, num_attention_heads=attn_num_head_channels, **kwargs)

    return made


class Theirs:
    """MagicDrive's networks with random weights, called as its pipeline calls them: both halves of guidance in one batch."""

    def __init__(self, repository: Path, size: Size) -> None:
        """Build the networks.

        Args:
            repository: a checked-out copy.
            size: of the networks.
        """
        unet_class, control_class = networks(repository)
        plain = build_unet(size)
        ring = {str(v): [(v - 1) % VIEWS, (v + 1) % VIEWS] for v in range(VIEWS)}
        width = size.token_width
        known = inspect.signature(unet_class.__init__).parameters
        self.unet = unet_class(
            **{name: value for name, value in plain.config.items() if name in known},
            neighboring_view_pair=ring, img_size=[8 * side for side in size.latents],
        )  # fmt: skip
        self.control = control_class.from_unet(
            plain, camera_in_dim=189, camera_out_dim=width, map_size=list(MAP),
            conditioning_embedding_out_channels=[16, 32, 96, 256], uncond_cam_in_dim=[3, 7], drop_cond_ratio=0.25,
            drop_cam_num=6,
            cam_embedder_param={"input_dims": 3, "num_freqs": 4, "include_input": True, "log_sampling": True},
            bbox_embedder_cls="magicdrive.networks.bbox_embedder.ContinuousBBoxWithTextEmbedding",
            bbox_embedder_param={
                "n_classes": 10, "class_token_dim": width, "trainable_class_token": False, "use_text_encoder_init": False,
                "embedder_num_freq": 4, "proj_dims": [width, 512, 512, width], "mode": "all-xyz", "minmax_normalize": False,
            },
        )  # fmt: skip
        for number, network in enumerate((self.unet, self.control)):
            nn.Module.train(randomize(network, 30 + number), False).requires_grad_(False)
        self.arrays = random_batch(size).arrays

    def save(self, folder: Path) -> Path:
        """Write both as MagicDrive does."""
        for name, network in {"unet": self.unet, "controlnet": self.control}.items():
            network.save_pretrained(folder / name)
        return folder

    @torch.inference_mode()
    def step(self, x: Tensor, t: Tensor) -> Tensor:
        """See `Contestant.step`."""
        a = self.arrays
        boxes = {"bboxes": a["boxes"]["corners"], "classes": a["boxes"]["classes"], "masks": a["boxes"]["mask"]}
        both = self.control.add_uncond_to_kwargs(a["camera"]["camera_param"], boxes, a["bev_map"]["map"].expand(2, *MAP))
        text = torch.cat([a["text"]["null_states"], a["text"]["states"]])
        down, mid, tokens = self.control(
            torch.stack([x, x]), t.expand(2), both["camera_param"], both["bboxes_3d_data"], text, both["image"],
            return_dict=False,
        )  # fmt: skip
        out = self.unet(
            torch.cat([x, x]), t.expand(2 * VIEWS), encoder_hidden_states=tokens, down_block_additional_residuals=down,
            mid_block_additional_residual=mid, return_dict=False,
        )[0]  # fmt: skip
        null, known = out.chunk(2)
        return null + GUIDANCE * (known - null)


class Converted(Ours):
    """drivegen's host with the weights of a MagicDrive checkpoint."""

    def __init__(self, checkpoint: Path, size: Size, dtype: torch.dtype = torch.float32) -> None:
        """Read the checkpoint.

        Args:
            checkpoint: a folder that `Theirs.save` wrote.
            size: of the networks.
            dtype: that the networks compute in.
        """
        found = magicdrive.read(checkpoint, half=False)
        backbone, plugins = tiny_backbone(), found.plugins()
        backbone.unet = found.unet
        self.host = Host(backbone, plugins)
        found.load_into(plugins)
        self._take(size, dtype, torch.device("cpu"))
