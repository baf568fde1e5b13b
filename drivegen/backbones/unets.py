"""The families of diffusers' UNet2DConditionModel: Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from drivegen.backbones.family import Family, Site
from drivegen.backbones.unet_branch import control_branch


class UNet(Family):
    """What the UNets of diffusers have in common: skips, blocks of resnets and transformers."""

    def sites(self, kind: str) -> list[Site]:
        first = int(self.plain.config.block_out_channels[0])
        if kind == "input":
            return [Site("conv_in", self.plain.conv_in, first)]
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

    @property
    def token_width(self) -> int:
        return int(self.plain.config.cross_attention_dim)

    @property
    def skip_count(self) -> int:
        return 1 + sum(len(block.resnets) + len(block.downsamplers or ()) for block in self.plain.down_blocks)


class StableDiffusion(UNet):
    """Stable Diffusion 1.x and 2.x (Rombach et al. 2022)."""

    name = "Stable Diffusion 1.x or 2.x"
    pipeline = "StableDiffusionPipeline"
    parts = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")

    @classmethod
    def takes(cls, config: Mapping[str, Any]) -> bool:
        return config.get("addition_embed_type") is None
