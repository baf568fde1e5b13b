"""The families of diffusers' UNet2DConditionModel: Stable Diffusion 1.x and 2.x, SDXL and its refiner."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from drivegen.backbones.family import Family, Level, Site
from drivegen.backbones.unet_branch import branch_settings, control_branch, skip_channels
from drivegen.support.errors import InputError

AESTHETIC_SCORE = 6.0
"""How good a picture shall look, for a refiner; diffusers' own."""


class UNet(Family):
    """What the UNets of diffusers have in common: skips, blocks of resnets and transformers."""

    def sites(self, kind: str) -> list[Site]:
        if kind == "input":
            return [Site("conv_in", self.plain.conv_in, int(self.plain.config.block_out_channels[0]))]
        if kind in ("time_features", "time_vector"):
            name = {"time_features": "time_proj", "time_vector": "time_embedding"}[kind]
            time = self.plain.time_embedding
            width = time.linear_1.in_features if kind == "time_features" else time.linear_2.out_features
            return [Site(name, getattr(self.plain, name), int(width))]
        if kind == "block_end":
            return list(self._block_ends())
        if kind in ("self_attention", "cross_attention"):
            end = {"self_attention": ".attn1", "cross_attention": ".attn2"}[kind]
            found = [(n, m) for n, m in self.plain.named_modules() if n.endswith(end)]
            return [Site(n, m, int(m.query_dim), int(m.heads)) for n, m in found]
        return list(self._in_transformers(kind))

    def _block_ends(self) -> Iterator[Site]:
        for part in ("down_blocks", "up_blocks"):
            for i, block in enumerate(getattr(self.plain, part)):
                layers = "resnets" if getattr(block, "attentions", None) is None else "attentions"
                for j, resnet in enumerate(block.resnets):
                    yield Site(f"{part}.{i}.{layers}.{j}", getattr(block, layers)[j], int(resnet.out_channels))
        middle = self.plain.mid_block
        for j, module in enumerate(getattr(middle, "attentions", None) or ()):
            yield Site(f"mid_block.attentions.{j}", module, int(middle.resnets[j].out_channels))

    def _in_transformers(self, kind: str) -> Iterator[Site]:
        for name, block in self.plain.named_modules():
            if not name.rpartition(".")[0].endswith("transformer_blocks"):
                continue
            width, heads = int(block.attn1.query_dim), int(block.attn1.heads)
            if kind == "transformer_end":
                yield Site(name, block, width, heads)
            elif kind == "between" and getattr(block, "attn2", None) is not None:
                yield Site(f"{name}.attn2", block.attn2, int(block.attn2.query_dim), int(block.attn2.heads), f"{name}.norm2")

    def predict(self, x: Tensor, t: Tensor, tokens: Tensor, residuals: Any, added: Mapping[str, Tensor]) -> Tensor:
        out: Tensor = self.network(
            x,
            t,
            encoder_hidden_states=tokens,
            down_block_additional_residuals=residuals.down,
            mid_block_additional_residual=residuals.mid,
            # diffusers empties this list, so it gets one of its own.
            down_intrablock_additional_residuals=None if residuals.intrablock is None else list(residuals.intrablock),
            added_cond_kwargs=dict(added) or None,
            return_dict=False,
        )[0]
        return out

    def branch(self, width: float = 1.0) -> Any:
        return control_branch(self.plain, width)

    def control_network(self, channels: int, widths: tuple[int, ...]) -> Any:
        from diffusers import ControlNetModel

        return ControlNetModel.from_unet(self.plain, conditioning_channels=channels, conditioning_embedding_out_channels=widths)

    @property
    def branch_settings(self) -> Mapping[str, Any]:
        return branch_settings(self.plain)

    def check_branch(self, branch: Any) -> None:
        own, theirs, vectors = self.plain.config, branch.config, "projection_class_embeddings_input_dim"
        pairs = {
            "latent channels": (int(theirs.in_channels), int(own.in_channels)),
            "token width": (int(theirs.cross_attention_dim), int(own.cross_attention_dim)),
            "skip channels": (tuple(conv.out_channels for conv in branch.controlnet_down_blocks), self.skip_channels),
            "pooled text and sizes": (theirs.get(vectors), own.get(vectors)),
        }
        for what, (has, takes) in pairs.items():
            if has != takes:
                raise InputError(
                    f"the ControlNet has {what} {has}, and this model's UNet {takes}; it was made for another base"
                )

    @property
    def token_width(self) -> int:
        return int(self.plain.config.cross_attention_dim)

    @property
    def skip_channels(self) -> tuple[int, ...]:
        return skip_channels(self.plain)

    @property
    def levels(self) -> tuple[Level, ...]:
        config, blocks = self.plain.config, self.plain.down_blocks
        return tuple(
            Level(int(width), bool(getattr(block, "has_cross_attention", False)), bool(block.downsamplers))
            for width, block in zip(config.block_out_channels, blocks, strict=True)
        )


class StableDiffusion(UNet):
    """Stable Diffusion 1.x and 2.x (Rombach et al. 2022)."""

    key = "sd"
    name = "Stable Diffusion 1.x or 2.x"
    pipeline = "StableDiffusionPipeline"
    parts = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    index = MappingProxyType(
        {"safety_checker": (None, None), "feature_extractor": (None, None), "requires_safety_checker": False}
    )

    @classmethod
    def takes(cls, config: Mapping[str, Any]) -> bool:
        return config.get("addition_embed_type") is None


class _WithVectors(UNet):
    """SDXL and its refiner: a pooled text and numbers about the picture are joined to the time (Podell et al. 2023, 2.2)."""

    numbers: int
    """How many numbers about the picture there are."""
    penultimate = True
    float32_vae = True
    conditions = ("text", "pooled_text", "picture_size")
    guidance = 5.0

    @property
    def added(self) -> Mapping[str, int]:
        config = self.plain.config
        width = int(config.projection_class_embeddings_input_dim) - self.numbers * int(config.addition_time_embed_dim)
        return {"text_embeds": width, "time_ids": self.numbers}

    def fill(self, added: Mapping[str, Tensor], x: Tensor, factor: int) -> dict[str, Tensor]:
        given = dict(added)
        if "text_embeds" not in given:
            given["text_embeds"] = x.new_zeros(len(x), self.added["text_embeds"])
        if "time_ids" not in given:
            height, width = x.shape[-2] * factor, x.shape[-1] * factor
            numbers = torch.tensor([self._numbers(height, width)], dtype=torch.float32, device=x.device)
            given["time_ids"] = numbers.expand(len(x), -1)
        return given

    @abstractmethod
    def _numbers(self, height: int, width: int) -> list[float]:
        """The numbers about a picture that was made in the size that is generated."""


class StableDiffusionXL(_WithVectors):
    """Stable Diffusion XL, its base and what was made of it (Podell et al. 2023)."""

    key = "sdxl"
    name = "Stable Diffusion XL"
    pipeline = "StableDiffusionXLPipeline"
    index = MappingProxyType({"image_encoder": (None, None), "feature_extractor": (None, None)})
    empty_is_zero = True
    parts = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
    numbers = 6

    @classmethod
    def takes(cls, config: Mapping[str, Any]) -> bool:
        return config.get("addition_embed_type") == "text_time" and not StableDiffusionXLRefiner.takes(config)

    def _numbers(self, height: int, width: int) -> list[float]:
        return [height, width, 0, 0, height, width]


class StableDiffusionXLRefiner(_WithVectors):
    """SDXL's refiner: one text encoder, and a number for how good a picture looks."""

    key = "sdxl_refiner"
    name = "Stable Diffusion XL refiner"
    pipeline = "StableDiffusionXLImg2ImgPipeline"
    index = MappingProxyType(
        {
            "text_encoder": (None, None), "tokenizer": (None, None), "image_encoder": (None, None),
            "feature_extractor": (None, None), "requires_aesthetics_score": True,
        }
    )  # fmt: skip
    parts = ("unet", "vae", "text_encoder_2", "tokenizer_2", "scheduler")
    numbers = 5

    @classmethod
    def takes(cls, config: Mapping[str, Any]) -> bool:
        """Tell it by its widths: its pooled text is as wide as its context, and five numbers are joined to it."""
        found = (config.get(key) for key in ("projection_class_embeddings_input_dim", "cross_attention_dim"))
        total, width = (value if isinstance(value, int) else 0 for value in found)
        each = config.get("addition_time_embed_dim")
        text_time = config.get("addition_embed_type") == "text_time"
        return text_time and isinstance(each, int) and total == width + cls.numbers * each

    def _numbers(self, height: int, width: int) -> list[float]:
        return [height, width, 0, 0, AESTHETIC_SCORE]
