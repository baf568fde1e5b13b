"""One guided denoising step with MagicDrive's conditions, and diffusers' own ControlNet and UNet on the same batch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from drivegen.catalog import registry
from drivegen.host.batch import Batch
from drivegen.host.host import Host
from drivegen.plugin import Arrays, Grid
from drivegen.sampling import (
    HostDenoiser,
    build_scheduler,
    classifier_free,
    fast_generation,
    remembered_projections,
    sample,
)
from drivegen.testing.models import randomize, tiny_backbone

VIEWS, MAP = 6, (8, 200, 200)
BOXES, TEXT_TOKENS = 20, 77
"""Slots of boxes per view, a quarter of them empty, and tokens of a prompt."""
GUIDANCE, NULL = 2.0, ("camera", "text", "boxes")
"""MagicDrive's own: the map is kept in the unconditional half."""


@dataclass(frozen=True)
class Size:
    """Widths of a UNet of Stable Diffusion 1.5's structure, its heads, the width D of its tokens, its latents' (h, w)."""

    channels: tuple[int, int, int, int]
    heads: int
    token_width: int
    latents: tuple[int, int] = (28, 50)


SIZES = {"sd15": Size((320, 640, 1280, 1280), 8, 768), "small": Size((64, 128, 256, 256), 2, 160)}
"""The full size, and the same structure with a twenty-fifth of the arithmetic, at the same latents."""


class Contestant(Protocol):
    """What is measured."""

    def step(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the guided prediction for latents x (V, 4, h, w) at timestep t ()."""
        ...


def build_unet(size: Size) -> Any:
    """Build a UNet with random weights; the same ones whenever it is called."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        block_out_channels=size.channels, attention_head_dim=size.heads, cross_attention_dim=size.token_width, sample_size=64
    )
    return randomize(unet, 1).eval()


def latents(size: Size, round_: int) -> Tensor:
    """Return the noisy latents (V, 4, h, w) of a round: different in each, so that nothing can be reused."""
    return torch.randn(VIEWS, 4, *size.latents, generator=torch.Generator().manual_seed(1000 + round_))


def timestep(round_: int) -> Tensor:
    """Return the timestep () of a round."""
    return torch.tensor(951 - 50 * (round_ % 20))


class Diffusers:
    """ControlNetModel and UNet2DConditionModel on one batch of 2·V rows, called as diffusers' own pipeline calls them.

    Args:
        size: of the networks.
        dtype: of weights and arithmetic.
        device: where they compute.
    """

    def __init__(self, size: Size, dtype: torch.dtype, device: torch.device) -> None:
        from diffusers import ControlNetModel

        unet = build_unet(size)
        control = randomize(ControlNetModel.from_unet(unet), 2).eval()
        # Module.to itself: diffusers' own warns of layers that it would keep in fp32, of which there are none.
        self.unet, self.control = (nn.Module.to(network, device, dtype) for network in (unet, control))
        self.dtype, self.device = dtype, device
        generator = torch.Generator().manual_seed(3)
        self.prompt = torch.randn(2 * VIEWS, TEXT_TOKENS, size.token_width, generator=generator).to(device, dtype)
        h, w = size.latents
        self.image = torch.rand(2 * VIEWS, 3, 8 * h, 8 * w, generator=generator).to(device, dtype)

    @torch.inference_mode()
    def step(self, x: Tensor, t: Tensor) -> Tensor:
        """See `Contestant.step`."""
        rows, t = torch.cat([x, x]).to(self.device, self.dtype), t.to(self.device)
        down, mid = self.control(rows, t, encoder_hidden_states=self.prompt, controlnet_cond=self.image, return_dict=False)
        noise = self.unet(
            rows, t, encoder_hidden_states=self.prompt, down_block_additional_residuals=down, mid_block_additional_residual=mid,
            return_dict=False,
        )[0]  # fmt: skip
        null, known = noise.chunk(2)
        return null + GUIDANCE * (known - null)


def random_batch(size: Size) -> Batch:
    """Make MagicDrive's inputs for one scene of six cameras in a ring."""
    g = torch.Generator().manual_seed(3)
    ring = torch.tensor([[[(v - 1) % VIEWS, (v + 1) % VIEWS] for v in range(VIEWS)]])
    mask = (torch.arange(BOXES) < BOXES * 3 // 4).expand(1, VIEWS, BOXES)
    classes = torch.where(mask, torch.randint(10, (1, VIEWS, BOXES), generator=g), -1)
    states, null_states = (torch.randn(1, TEXT_TOKENS, size.token_width, generator=g) for _ in range(2))
    arrays: dict[str, Arrays] = {
        "camera": {"camera_param": torch.randn(1, VIEWS, 3, 7, generator=g)},
        "text": {"states": states, "null_states": null_states},
        "boxes": {"corners": 10 * torch.randn(1, VIEWS, BOXES, 8, 3, generator=g), "classes": classes, "mask": mask},
        "bev_map": {"map": (torch.rand(1, *MAP, generator=g) < 0.3).float()},
        "cross_view": {"neighbours": ring},
    }
    return Batch(Grid(1, 1, VIEWS), arrays)


class Ours:
    """A host with MagicDrive's plugins as `Pipeline` runs it; `plain` is the same without any acceleration.

    Args:
        size: of the networks.
        plugins: constructor arguments by plugin name.
        dtype: of weights and arithmetic.
        device: where they compute.
    """

    def __init__(self, size: Size, plugins: Mapping[str, Mapping[str, Any]], dtype: torch.dtype, device: torch.device) -> None:
        backbone = tiny_backbone()
        backbone.unet = build_unet(size)
        self.host = Host(backbone, {name: registry.load(name)(**options) for name, options in plugins.items()})
        for number, name in enumerate(plugins):
            randomize(self.host.plugin(name), 10 + number)
        self._take(size, dtype, device)

    def _take(self, size: Size, dtype: torch.dtype, device: torch.device) -> None:
        """Bring the host to a format and a device, and begin as `Pipeline` does."""
        self.host.eval().requires_grad_(False).to(dtype=dtype).to(device=device)
        self.host.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.size, self.dtype, self.device, self.batch = size, dtype, device, random_batch(size).to(device)
        self._open = ExitStack()
        self._begin()

    def _begin(self) -> None:
        self._open.enter_context(remembered_projections(self.host))
        self._open.enter_context(fast_generation(self.host))
        self.anew()

    def anew(self) -> None:
        """Forget what is constant over the steps of a generation, as another batch would."""
        self.denoiser = HostDenoiser(self.host, self.batch, dtype=self.dtype)

    @torch.no_grad()
    def step(self, x: Tensor, t: Tensor) -> Tensor:
        """See `Contestant.step`; what is constant over the steps is computed at the first."""
        return classifier_free(self.denoiser, GUIDANCE, NULL)(x.to(self.device), t.to(self.device))

    @torch.no_grad()
    def plain(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the same prediction from contiguous weights, by torch's own kernels, without caching."""
        self._open.close()
        self.host.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.anew()
        out = self.step(x, t)
        self.host.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._begin()
        return out

    @torch.no_grad()
    def sampled(self, steps: int) -> Tensor:
        """Return the latents (V, 4, h, w) of a generation in so many steps of UniPC."""
        scheduler = build_scheduler("unipc", self.host.backbone.scheduler, steps, self.device)
        return sample(self.step, scheduler, latents(self.size, 0).to(self.device) * scheduler.init_noise_sigma).cpu()


def relative_error(ours: Tensor, reference: Tensor) -> float:
    """‖ours − reference‖ / ‖reference‖ in fp64."""
    a, b = ours.double().cpu(), reference.double().cpu()
    return float((a - b).norm() / b.norm())


def psnr(latents: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB; the peak is the range of the reference's values."""
    a, b = latents.double(), reference.double()
    return float(10 * torch.log10((b.max() - b.min()) ** 2 / (a - b).square().mean()))
