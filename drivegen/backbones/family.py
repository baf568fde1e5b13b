"""A family of denoising networks: how it is called, what it is given besides latents, where layers may be added."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from drivegen.support.errors import InputError, nearest
from drivegen.support.weights import unwrapped

KINDS: Mapping[str, str] = {
    "input": "the first convolution, which reads the latents",
    "time_features": "the features of the timestep",
    "time_vector": "the vector of the timestep that reaches every residual block",
    "block_end": "the stream (N, C, h, w) after each layer of a block",
    "self_attention": "the self-attention of each transformer block",
    "cross_attention": "the cross-attention of each transformer block, to the context's tokens",
    "between": "the stream (N, L, C) of each transformer block between cross-attention and feed-forward",
    "transformer_end": "the stream (N, L, C) after each transformer block",
}
"""The kinds of sites that a network may have, and what is there."""


@dataclass(frozen=True, eq=False)
class Site:
    """A place in a denoising network where a layer may add a term to a module's output.

    Args:
        name: of the module.
        module: the module, for reading.
        width: C, channels of what is there.
        heads: of the attention there, or beside it; 0 = there is none.
        stream: name of the module whose input is the residual stream that the output is added to; None = the output itself is
            the stream, or all that there is.
    """

    name: str
    module: Any
    width: int
    heads: int = 0
    stream: str | None = None


@dataclass(frozen=True)
class Level:
    """A level of a network's encoder.

    Args:
        width: C, its channels.
        attends: whether it has cross-attention.
        halves: whether it ends in a down-sampler.
    """

    width: int
    attends: bool
    halves: bool


class Family(ABC):
    """A kind of denoising network, looked up by the class name of the network and its configuration.

    Args:
        network: the denoising network, as it is or wrapped by torch.
    """

    key: ClassVar[str]
    """Its word, as in ``tiny_backbone(family="sdxl")``."""
    name: ClassVar[str]
    """For users, in a sentence such as "this is a … model"."""
    pipeline: ClassVar[str]
    """The class of diffusers that opens a saved folder."""
    conditions: ClassVar[tuple[str, ...]] = ("text",)
    """Kinds of the plugins that give what such networks were released with."""
    parts: ClassVar[tuple[str, ...]]
    """What a folder must have, by the names of its subfolders."""
    index: ClassVar[Mapping[str, Any]] = {}
    """What else a folder's model_index.json holds, for diffusers' pipeline."""
    empty_is_zero: ClassVar[bool] = False
    """What `Backbone.empty_is_zero` is where a folder says nothing."""
    penultimate: ClassVar[bool] = False
    """Whether it attends to the states before the last layer of its text encoders (`TextTower`)."""
    float32_vae: ClassVar[bool] = False
    """Whether its VAE computes in float32 where the VAE's configuration says ``force_upcast``."""
    guidance: ClassVar[float] = 7.5
    """The scale of guidance that diffusers' pipeline takes where nothing is said."""

    def __init__(self, network: Any) -> None:
        self.network: Any = network
        self.plain: Any = unwrapped(network)

    @classmethod
    @abstractmethod
    def takes(cls, config: Mapping[str, Any]) -> bool:
        """Tell whether a network of its class with this configuration is of this family."""

    @abstractmethod
    def sites(self, kind: str) -> list[Site]:
        """List the places of one of `KINDS`, in the order of the network's modules; none where it has no such places."""

    @abstractmethod
    def predict(self, x: Tensor, t: Tensor, tokens: Tensor, residuals: Any, added: Mapping[str, Tensor]) -> Tensor:
        """Run the network: the prediction (N, C, h, w).

        Args:
            x: noisy latents (N, C, h, w).
            t: timesteps (N,).
            tokens: the context (N, S, D).
            residuals: `plugin.Residuals`, summed over the plugins.
            added: every vector of `added` (N, …), as `fill` gives them.
        """

    @abstractmethod
    def branch(self, width: float = 1.0) -> Any:
        """Build a control branch: a network whose residuals fit this one, with that share of its channels; 1 copies it."""

    @abstractmethod
    def control_network(self, channels: int, widths: tuple[int, ...]) -> Any:
        """Build a ControlNet as it is released: a copy of the encoder, and an embedder of pictures in front of it.

        Args:
            channels: of the pictures.
            widths: channels of the embedder's layers, between which it halves the picture.
        """

    @property
    @abstractmethod
    def branch_settings(self) -> Mapping[str, Any]:
        """What a control branch's configuration takes over from this network's."""

    @abstractmethod
    def check_branch(self, branch: Any) -> None:
        """Raise InputError, saying what differs, where a control branch was made for another network."""

    @property
    @abstractmethod
    def token_width(self) -> int:
        """D: width of the cross-attention context."""

    @property
    @abstractmethod
    def skip_channels(self) -> tuple[int, ...]:
        """Channels of the skip connections that residuals are added to, the input's first."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels of its encoder, the finest first; none where it has no such levels."""
        return ()

    @property
    def added(self) -> Mapping[str, int]:
        """Widths of the vectors that it is given besides tokens (`Signal.added`), by name."""
        return {}

    def fill(self, added: Mapping[str, Tensor], x: Tensor, factor: int) -> dict[str, Tensor]:
        """Complete the vectors that plugins gave (N, …) by the family's defaults.

        Args:
            added: of the plugins, by name.
            x: noisy latents (N, C, h, w).
            factor: pixels per latent.
        """
        return dict(added)

    def need(self, kind: str) -> list[Site]:
        """List the places of a kind; raises InputError where the network has none, or the kind is unknown."""
        if kind not in KINDS:
            raise InputError(f"there is no kind of site {kind!r}{nearest(kind, KINDS)}; there are {', '.join(KINDS)}")
        found = self.sites(kind)
        if not found:
            this = f"the {type(self.plain).__name__} of this {self.name} model"
            raise InputError(f"{this} has no place of the kind {kind!r} ({KINDS[kind]})")
        return found
