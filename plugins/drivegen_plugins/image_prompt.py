"""Image prompts: IP-Adapter, Plus and Full Face (Ye et al. 2023), a second cross-attention to reference pictures."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from drivegen.plugin import Arrays, Input, Now, Plugin, Released, ReleasedFile, Signal, select_or_null
from drivegen.plugin.clip_layers import before_last_layers
from drivegen.plugin.control_branch import zero
from drivegen.plugin.reference_pictures import OWN, joined, references, tables
from drivegen.scene import Frame
from drivegen.support.errors import InputError, at_least

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_HEAD = 64
"""Width of a head of the resampler, in every released checkpoint."""


class ImagePrompt(Plugin):
    """Reference pictures for the scene, for a camera or for a region; null is diffusers' negative image embedding.

    ``inputs={"image_prompt": …}`` as `drivegen.plugin.reference_pictures.references` says; in training each camera's own
    picture.

    Args:
        plus: project the image encoder's patches through a resampler, instead of its one embedding.
        tokens: how many per picture; None = 16 with plus, one per patch with full, else 4.
        depth: layers of the resampler.
        heads: heads of the resampler, of width 64.
        hidden: width of the resampler; None = the context's.
        fit: "crop" is CLIP's centre square, "whole" squeezes all of the picture into it.
        full: project every patch by itself, as "full face" does, instead of the one embedding.
    """

    requires = ("image_encoder",)
    training_input = OWN
    accepts = (
        Input(
            "images", "picture", "reference pictures: one, a list, {images, scale, masks} or 'own', for all cameras or each",
            read=references,
        ),
    )  # fmt: skip

    def __init__(
        self, plus: bool = False, tokens: int | None = None, depth: int = 4, heads: int = 12, hidden: int | None = None,
        fit: Literal["crop", "whole"] = "crop", full: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if fit not in ("crop", "whole"):
            raise InputError(f"image_prompt: fit {fit!r} must be 'crop' or 'whole'")
        at_least(1, tokens=tokens, depth=depth, heads=heads, hidden=hidden)
        if full and (plus or tokens is not None):
            raise InputError("image_prompt: full has a token per patch; leave plus and tokens out")
        self.plus, self.full, self.tokens, self.fit = plus, full, tokens or (16 if plus else 4), fit
        self.depth, self.heads, self.hidden = depth, heads, hidden

    @classmethod
    def read_released(cls, file: ReleasedFile) -> Released | None:
        state = file.state
        if any(key.startswith(("ip_adapter_proj_model.", "double_blocks.0.processor.ip_adapter")) for key in state):
            raise InputError("it is an IP-Adapter of FLUX, and not for Stable Diffusion 1.x, 2.x and XL")
        if not any(key.startswith(("image_proj.", "ip_adapter.")) for key in state):
            return None
        if "image_proj.perceiver_resampler.proj_in.weight" in state:
            raise InputError("it is an IP-Adapter FaceID Plus, which needs InsightFace's embeddings of faces, and is not read")
        if "image_proj.norm.weight" in state and "image_proj.proj.0.weight" in state:
            raise InputError("it is an IP-Adapter FaceID, which needs InsightFace's embeddings of faces, and is not read")
        width = state["ip_adapter.1.to_k_ip.weight"].shape[1]
        if "image_proj.latents" in state:
            _, tokens, hidden = state["image_proj.latents"].shape
            depth = len({key.split(".")[2] for key in state if key.startswith("image_proj.layers.")})
            heads = state["image_proj.layers.0.0.to_q.weight"].shape[0] // _HEAD
            return Released({"plus": True, "tokens": tokens, "depth": depth, "heads": heads, "hidden": hidden}, state)
        if "image_proj.proj.weight" in state:
            return Released({"plus": False, "tokens": state["image_proj.proj.weight"].shape[0] // width}, state)
        if "image_proj.proj.3.weight" in state:
            return Released({"full": True}, state)
        named = sorted(key for key in state if key.startswith("image_proj."))[:3]
        raise InputError(
            f"it is an IP-Adapter of a kind that is not read; its projection has {', '.join(named) or 'no weights'}"
        )

    def attach(self, backbone: Any) -> None:
        vision, width = backbone.component("image_encoder").config, backbone.token_width
        self.side = int(vision.image_size)
        self.image_proj: nn.Module
        if self.plus:
            self.image_proj = Resampler(vision.hidden_size, self.hidden or width, width, self.tokens, self.depth, self.heads)
        elif self.full:
            self.tokens = (self.side // int(vision.patch_size)) ** 2 + 1
            self.image_proj = EachPatch(vision.hidden_size, width)
        else:
            self.image_proj = Projection(vision.projection_dim, width, self.tokens)
        # Named as released files name them: odd numbers over the cross-attentions, in the order down, up, mid.
        self.ip_adapter = nn.ModuleDict()
        self.tap_sites("cross_attention", self._stream)

    def _stream(self, site: Any) -> Stream:
        key = str(1 + 2 * len(self.ip_adapter))
        self.ip_adapter[key] = KeysValues(site.module.to_k)
        self.tap(f"{site.name}.to_q", lambda name, module: Query())
        return Stream(key)

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray]:
        found = references(frame, None) if user_input is None else user_input
        arrays = tables(found, self.side, self.fit == "whole")
        # Null enters as the pictures do: as strongly, in the same places.
        return {**arrays, "null_scale": arrays["scale"], "null_masks": arrays["masks"]}

    def collate(self, items: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        fill = {"index": -1, "masks": True, "null_masks": True}
        return {key: joined([item[key] for item in items], fill.get(key, 0)) for key in items[0]}

    def precompute(self, arrays: Arrays) -> Arrays | None:
        if self._patches:  # the patches' features are larger than the picture
            return None
        kept = {key: value for key, value in arrays.items() if key != "pixels"}
        return {**kept, "features": self._features(arrays["pixels"].flatten(0, 1)).unflatten(0, arrays["pixels"].shape[:2])}

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        scale = select_or_null(keep, arrays["scale"], arrays["null_scale"])
        if not bool((scale != 0).any()):
            return Signal()
        masks = select_or_null(keep, arrays["masks"], arrays["null_masks"])
        index = select_or_null(keep, arrays["index"], arrays["index"].new_full((), -1))
        valid = index >= 0
        valid[..., 0] = True  # null fills the first place; in a group that is not there the scale is 0
        tokens, null = self._tokens(arrays), None if bool(keep.all()) else self._null_tokens()
        scenes = torch.arange(len(index), device=index.device).view(-1, 1, 1, 1)
        bias = None
        if not bool(valid.all()):
            bias = rearrange(valid, "b v g i -> (b v) g 1 1 i").repeat_interleave(self.tokens, dim=-1)

        def rows(projected: Tensor, null: Tensor | None) -> Tensor:
            """Lay the keys or values (B, K, T, C) of the pictures out as each row's groups need them: (N, G, I·T, C)."""
            out = projected[scenes, index.clamp(min=0)]
            out = out if null is None else select_or_null(keep, out, null)
            return rearrange(out, "b v g i t c -> (b v) g (i t) c")

        sites = {}
        for key, module in self.ip_adapter.items():
            site: Any = module
            k, v = (rows(f(tokens), None if null is None else f(null)) for f in (site.to_k_ip, site.to_v_ip))
            sites[key] = (k, v)
        even = masks.shape[-1] == 0 and bool((scale == 1).all())
        where = None if even else Weights(scale.flatten(0, 1), masks.flatten(0, 1))
        return Signal(data=(sites, bias, where))

    @property
    def _patches(self) -> bool:
        """Whether the image encoder's patches are projected, not its one embedding."""
        return self.plus or self.full

    def _tokens(self, arrays: Arrays) -> Tensor:
        features = arrays.get("features")
        if features is None:
            pixels = arrays["pixels"]
            features = self._features(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])
        tokens: Tensor = self.image_proj(features.flatten(0, 1))
        return tokens.unflatten(0, features.shape[:2])

    @torch.no_grad()
    def _features(self, pixels: Tensor) -> Tensor:
        """Run the image encoder on uint8 pictures (M, 3, s, s): embeddings (M, E), or patches (M, P, E)."""
        mean, std = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (_MEAN, _STD))
        return self._encoded((pixels.float() / 255 - mean) / std)

    def _encoded(self, normalised: Tensor) -> Tensor:
        encoder = self.backbone.component("image_encoder")
        x = normalised.to(next(encoder.parameters()).dtype)
        return before_last_layers(encoder, 1, x) if self._patches else encoder(x).image_embeds

    def _null_tokens(self) -> Tensor:
        """Project what diffusers takes for no picture: a zero embedding, or the patches of a zero input."""
        encoder = self.backbone.component("image_encoder")
        parameter = next(encoder.parameters())
        if self._patches:
            with torch.no_grad():
                features = self._encoded(parameter.new_zeros(1, 3, self.side, self.side))
        else:
            features = parameter.new_zeros(1, encoder.config.projection_dim)
        tokens: Tensor = self.image_proj(features)
        return tokens


class Projection(nn.Module):
    """The embedding of a picture as a few tokens.

    Args:
        inputs: E, width of the embedding.
        width: D, width of the tokens.
        tokens: T, tokens per picture.
    """

    def __init__(self, inputs: int, width: int, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.proj = nn.Linear(inputs, tokens * width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Project (M, E) to (M, T, D)."""
        out: Tensor = self.norm(self.proj(x.to(self.proj.weight.dtype)).unflatten(-1, (self.tokens, -1)))
        return out


class EachPatch(nn.Module):
    """Every patch of a picture as one token."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(inputs, inputs), nn.GELU(), nn.Linear(inputs, width), nn.LayerNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        """Project (M, P, E) to (M, P, D)."""
        out: Tensor = self.proj(x.to(next(self.parameters()).dtype))
        return out


class Resampler(nn.Module):
    """Learned queries that attend to a picture's patches (Flamingo's perceiver; Alayrac et al. 2022).

    Args:
        inputs: E, width of the patches.
        hidden: W, width of the queries.
        width: D, width of the tokens.
        tokens: T, tokens per picture.
        depth: number of layers.
        heads: of each attention.
    """

    def __init__(self, inputs: int, hidden: int, width: int, tokens: int, depth: int, heads: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, tokens, hidden) / hidden**0.5)
        self.proj_in, self.proj_out = nn.Linear(inputs, hidden), nn.Linear(hidden, width)
        self.norm_out = nn.LayerNorm(width)
        self.layers = nn.ModuleList(nn.ModuleList([Gather(hidden, heads), _feed_forward(hidden)]) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """Project (M, P, E) to (M, T, D)."""
        x = self.proj_in(x.to(self.proj_in.weight.dtype))
        latents: Tensor = self.latents.expand(len(x), -1, -1)
        for layer in self.layers:
            part: Any = layer
            latents = part[0](x, latents) + latents
            latents = part[1](latents) + latents
        out: Tensor = self.norm_out(self.proj_out(latents))
        return out


class Gather(nn.Module):
    """Attention of the queries to the patches and to themselves."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, inner = heads, heads * _HEAD
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        """Attend from latents (M, T, W) to patches (M, P, W)."""
        latents = self.norm2(latents)
        k, v = self.to_kv(torch.cat([self.norm1(x), latents], dim=1)).chunk(2, dim=-1)
        out = attend(self.to_q(latents), k, v, self.heads)
        gathered: Tensor = self.to_out(out)
        return gathered


def _feed_forward(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, 4 * width, bias=False), nn.GELU(), nn.Linear(4 * width, width, bias=False)
    )


class KeysValues(nn.Module):
    """Keys and values of one site for the pictures' tokens: keys start as the text's, values at zero."""

    def __init__(self, to_k: Any) -> None:
        super().__init__()
        self.to_k_ip = nn.Linear(to_k.in_features, to_k.out_features, bias=False)
        self.to_k_ip.weight.data.copy_(to_k.weight.data)
        self.to_v_ip = zero(nn.Linear(to_k.in_features, to_k.out_features, bias=False))


class Weights:
    """The weight of each group: its scale (N, G), and its mask (N, G, H, W) at the size of a site, H = 0 for none."""

    def __init__(self, scale: Tensor, masks: Tensor) -> None:
        self.scale, self.masks = scale, masks
        self._sizes: dict[int, Tensor] = {}

    def at(self, length: int, latent_size: tuple[int, int]) -> Tensor:
        """Return (N, G, L or 1, 1)."""
        if length not in self._sizes:
            weights = self.scale[:, :, None, None]
            if self.masks.shape[-1]:
                size = latent_size
                while size[0] * size[1] > length:
                    size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
                small = F.interpolate(self.masks.float(), size=size, mode="bicubic")
                weights = weights * small.flatten(2)[..., None]
            self._sizes[length] = weights
        return self._sizes[length]


class Query(nn.Module):
    """Keep the queries of a cross-attention for the stream beside it; adds nothing."""

    def forward(self, x: Tensor, y: Tensor, now: Now) -> None:
        """Store the queries.

        Args:
            x: the projection's input (N, L, C).
            y: its output, the queries (N, L, C).
            now: the current step.
        """
        now.scratch["query"] = y


class Stream(nn.Module):
    """Attention of a site's queries to the pictures, through the site's own output projection."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def forward(self, x: Tensor, y: Tensor, now: Now) -> Tensor | None:
        """Return the term, or None where no row has pictures.

        Args:
            x: input of the cross-attention (N, L, C).
            y: its output (N, L, C).
            now: the current step.
        """
        if now.signal.data is None:
            return None
        sites, bias, weights = now.signal.data
        keys, values = sites[self.key]
        query = now.scratch.pop("query")
        site: Any = now.site
        each = None if weights is None else weights.at(query.shape[1], now.latent_size).to(query.dtype)
        total: Tensor | None = None
        for g in range(keys.shape[1]):
            out = attend(query, keys[:, g], values[:, g], site.heads, None if bias is None else bias[:, g])
            out = out if each is None else out * each[:, g]
            total = out if total is None else total + out
        assert total is not None
        return without_bias(site.to_out[0], total) / site.rescale_output_factor


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Multi-head attention: (N, L, C).

    Args:
        q: queries (N, L, C).
        k: keys (N, S, C).
        v: values (N, S, C).
        heads: number of heads.
        mask: (N, 1, 1, S) bool, True = attended to; None = all are.
    """
    q, k, v = (rearrange(z, "n l (h d) -> n h l d", h=heads) for z in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), attn_mask=mask), "n h l d -> n l (h d)")


def without_bias(linear: Any, x: Tensor) -> Tensor:
    """Apply a linear layer of the UNet, with its LoRA if it has one, without its bias and without its hooks."""
    if type(linear) is nn.Linear:
        return F.linear(x, linear.weight)
    out: Tensor = linear.forward(x)
    return out if linear.bias is None else out - linear.bias
