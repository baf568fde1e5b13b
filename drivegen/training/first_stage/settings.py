"""Settings of a first stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from drivegen.support.errors import InputError


def _number(default: Any, **bounds: float) -> Any:
    return field(default=default, metadata=bounds)


@dataclass(frozen=True, kw_only=True)
class PerceptualConfig:
    """A distance of features, for differences that pixels do not show (Zhang et al. 2018)."""

    weight: float = _number(1.0, ge=0, le=1e6)
    """Of this distance in the loss."""
    network: Literal["efficientnet-lite0", "vgg16"] = "efficientnet-lite0"
    """Whose features are compared."""
    weights: str | None = None
    """File of the network's weights; None = those of the installed package (EfficientNet-Lite0 alone has one)."""
    linear: str | None = None
    """File of LPIPS's learned weights per channel (``lin0.model.1.weight`` …), for vgg16; None = equal weights."""

    def __post_init__(self) -> None:
        if self.network == "vgg16" and self.weights is None:
            raise InputError("network vgg16 needs weights, a file in torchvision's layout; no package ships them")
        if self.linear is not None and self.network != "vgg16":
            raise InputError("linear holds LPIPS's weights for vgg16; the features of efficientnet-lite0 have none")


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """A patch discriminator whose training and effect begin late (Esser et al. 2021, VQGAN).

    One that learns long before the generator answers it tells every picture apart, and then its gradients say little.
    """

    weight: float = _number(0.03, ge=0, le=10)
    """Times the adaptive weight, which gives both losses gradients of equal norm at the last convolution (their eq. 7)."""
    start: float = _number(0.2, ge=0, le=1)
    """Share of the steps after which it learns and affects the generator."""
    ramp: float = _number(0.1, ge=0, le=1)
    """Share of the steps over which its weight rises from 0."""
    lr: float = _number(4e-4, gt=0, le=1)
    """The discriminator's learning rate."""
    betas: tuple[float, float] = field(default=(0.5, 0.9), metadata={"ge": 0, "lt": 1})
    """The discriminator's AdamW decays."""
    channels: int = _number(32, ge=4, le=512)
    """Width of the discriminator's first layer."""


@dataclass(frozen=True, kw_only=True)
class CodebookConfig:
    """How the codes of a vector-quantised first stage are updated (van den Oord et al. 2017)."""

    update: Literal["ema", "gradient"] = "ema"
    """Codes as moving averages of their assigned latents (appendix A.1), or trained by the straight-through loss (eq. 3)."""
    decay: float = _number(0.99, ge=0, lt=1)
    """Of the moving averages."""
    commitment: float = _number(0.25, ge=0, le=1e6)
    """Weight of the distance by which latents are drawn to their codes."""
    revive_below: float = _number(0.5, ge=0, le=1e9)
    """A code with fewer assigned latents per step, on average, is replaced by a latent of the current batch; 0 = never."""


@dataclass(frozen=True, kw_only=True)
class RedrawnConfig:
    """Latents of the pictures that a model has drawn anew, for a decoder that learns to show what models draw.

    A decoder learns from encoded pictures, and is then given latents that are not quite such. Here a picture's latents get some
    noise, and the model makes them clean again from the scene's conditions (Meng et al. 2022, SDEdit): what it draws stays in
    place, so that the picture itself is still what is to be shown.
    """

    model: str
    """Folder of the model; its first stage is that of `weights`."""
    share: float = _number(0.5, ge=0, le=1)
    """Of the pictures in a step that are decoded from such latents; one that sees no others spoils encoded ones."""
    strength: tuple[float, float] = field(default=(0.3, 0.7), metadata={"ge": 0, "le": 1})
    """Least and most share of the sampling that is done anew; each frame has one between them."""
    steps: int | None = _number(None, ge=1, le=1000)
    """Of the model's sampler for a whole sampling; None = its own."""

    def __post_init__(self) -> None:
        if self.strength[0] > self.strength[1]:
            raise InputError(f"redrawn.strength = {list(self.strength)}: the least comes first")


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """A first stage and the weights of its losses."""

    kind: Literal["kl", "plain", "vq"] = "kl"
    """kl: diffusers' AutoencoderKL, sampled; plain: the same without sampling or KL; vq: diffusers' VQModel."""
    network: dict[str, Any] = field(default_factory=dict)
    """Arguments of diffusers' AutoencoderKL or VQModel."""
    weights: str | None = None
    """Folder of such a network to start from; with `network` beside it, what both have is copied."""
    train: Literal["all", "decoder"] = "all"
    """decoder: the encoder of `weights` stays as it is, so that models which work in its latents keep working."""
    crop: tuple[int, int] | None = field(default=None, metadata={"ge": 8, "le": 8192})
    """(height, width) of random crops that are trained on, in pixels; None = whole images."""
    l1: float = _number(1.0, ge=0, le=1e6)
    """Weight of the L1 distance of pictures."""
    edges: float = _number(1.0, ge=0, le=1e6)
    """Weight of the L1 distance of image gradients at full, half, quarter and eighth size."""
    colour: float = _number(1.0, ge=0, le=1e6)
    """Weight of the L1 distance of the two colour differences at a quarter of the size."""
    kl: float = _number(1e-6, ge=0, le=1e6)
    """Weight of the KL divergence from a standard normal distribution, for kind kl."""
    perceptual: PerceptualConfig | None = None
    """A distance of features; None = none."""
    adversarial: AdversarialConfig | None = None
    """A discriminator; None = none."""
    codebook: CodebookConfig | None = None
    """For kind vq; None = the defaults."""
    redrawn: RedrawnConfig | None = None
    """For train: decoder; None = encoded pictures alone."""

    def __post_init__(self) -> None:
        if self.codebook is not None and self.kind != "vq":
            raise InputError(f"codebook is for kind: vq, and kind is {self.kind!r}")
        if self.train == "decoder" and self.weights is None:
            raise InputError("train: decoder keeps an encoder as it is, so weights must name the first stage that it is of")
        if self.train == "decoder" and self.network:
            raise InputError("train: decoder takes the network of weights, whose encoder stays; leave network out")
        if self.redrawn is not None and self.train != "decoder":
            raise InputError("redrawn latents are of an encoder that stays as it is, so they go with train: decoder alone")
