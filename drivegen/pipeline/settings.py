"""How frames are generated: one field per option, from which the command line, the manifest and `Views.settings` are made.

A new option is one field here, and a line in `Pipeline` that uses it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from drivegen.pipeline import checks, record, spelling
from drivegen.pipeline.option import About, named, option
from drivegen.support import values

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    from drivegen.pipeline.views import Views
    from drivegen.sampling import Classifier

Callback = Callable[[Any, int, "Tensor", "dict[str, Tensor]"], "dict[str, Tensor] | None"]
"""diffusers' ``callback_on_step_end(pipe, step, t, {"latents": …})``; latents that it returns replace the present ones."""

OUTPUT_TYPES = ("pil", "np", "pt", "latent")

MAX_REPEATS = 10_000


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How frames are generated. None means the model's default.

    Raises InputError, which names the option and the value, for a value that no model could take.
    """

    prompt: str | Sequence[str] | None = option("Text in place of each sample's description.", checks.text_or_list)
    negative_prompt: str | Sequence[str] | None = option("Text that guidance steers away from.", checks.text_or_list)
    prompt_weights: bool | None = option(
        "Read (word:1.3), [word] and more than 77 tokens in prompts.", values.yes_or_no, kind=bool
    )  # fmt: skip
    clip_skip: int | None = option(
        "How many of the text encoder's last layers prompts skip.", lambda value, name: values.whole(value, name, 0),
        kind=int,
    )  # fmt: skip
    steps: int | None = option("Denoising steps.", values.whole, kind=int)
    guidance: float | Mapping[str, float] | None = option(
        "Guidance scale, where 1 and below is none; or a weight per plugin, repeated.", checks.guidance, kind=list,
        metavar="W|PLUGIN=W", read=spelling.read_guidance,
    )  # fmt: skip
    guidance_rescale: float | None = option(
        "Share, 0 to 1, of rescaling guided predictions to the conditional one's deviation.", checks.number, kind=float
    )
    guidance_range: tuple[float, float] | None = option(
        "Fractions of the steps between which there is guidance. Default: the model's, or all.", values.fractions,
        metavar="START:END", read=spelling.read_guidance_range,
    )  # fmt: skip
    sampler: str | None = option("unipc, dpm++, ddim, euler, ddpm, lcm, and others: drivegen samplers lists them.", values.text)
    sampler_options: Mapping[str, Any] | None = option(
        "An option of the sampler; may be repeated.", checks.sampler_options, kind=list, flag="--sampler-option",
        metavar="NAME=VALUE", read=spelling.read_sampler_options,
    )  # fmt: skip
    timesteps: Sequence[int] | None = option(
        "The timesteps themselves, falling, in place of --steps.", checks.timesteps, metavar="T,T,…",
        read=spelling.read_timesteps,
    )  # fmt: skip
    noise: str | None = option("independent, shared, or sphere: the same where views overlap.", values.text)
    agreement: float | None = option(
        "Share of the steps, 0 to 1, in which overlapping views are blended.", checks.number, kind=float
    )
    reuse: Mapping[str, int] | None = option(
        "Compute deep layers, all but the first DEPTH (0), at every Nth step alone.", checks.reuse, metavar="N[:DEPTH]",
        read=spelling.read_reuse,
    )  # fmt: skip
    refine_from: float | None = option(
        "Share of the noise's way, 0 to 1, from which the refiner computes the steps (0.8).", checks.share, kind=float
    )  # fmt: skip
    seed: int | Sequence[int] = option("Same seed, same settings, same machine: same bytes.", checks.seed, 0, kind=int)
    repeats: int = option(
        "How many times each sample is generated, with seed, seed + 1 and so on.",
        lambda value, name: values.whole(value, name, 1, MAX_REPEATS), 1, kind=int,
    )  # fmt: skip
    without: Sequence[str] = option("Null a plugin; may be repeated.", checks.names, (), kind=list, metavar="PLUGIN")
    scales: Mapping[str, float] | None = option(
        "1 as trained, 0 absent; may be repeated.", checks.scales, kind=list, flag="--scale", metavar="PLUGIN=X",
        read=spelling.read_scales,
    )  # fmt: skip
    ranges: Mapping[str, tuple[float, float]] | None = option(
        "Fractions of the steps between which a plugin, LoRA or tuner is active.", checks.ranges, kind=list, flag="--range",
        metavar="PLUGIN=START:END", read=spelling.read_ranges,
    )  # fmt: skip
    regions: Mapping[str, Any] | None = option(
        "Where in a picture a plugin, LoRA or tuner is active: white in a mask file, or all.", checks.by_plugin, kind=list,
        flag="--region", metavar="PLUGIN=CAMERA[:MASK]", read=spelling.read_regions, note=record.names,
    )  # fmt: skip
    inputs: Mapping[str, Any] | None = option(
        "Give a plugin a file, text or number.", checks.by_plugin, kind=list, flag="--input", metavar="PLUGIN[.KEY]=VALUE",
        read=spelling.read_inputs, note=record.names,
    )  # fmt: skip
    strength: float | None = option("Start from the recorded pictures: 0 keeps them, 1 nothing.", checks.number, kind=float)
    size: tuple[int, int] | None = option(
        "Size of each image. Default: the model's.", checks.size, metavar="HEIGHTxWIDTH", read=spelling.read_size
    )
    image: Mapping[str, Image.Image] | Sequence[Image.Image] | Image.Image | str | None = option(
        "Pictures to start from, one per camera, by channel or in ring order; or 'recorded'.", checks.pictures,
        note=record.present,
        python_only="--strength starts from the recorded pictures",
    )  # fmt: skip
    mask: Any = option(
        "Where in a camera's picture something is drawn anew: white in a mask file, or all; the rest stays as recorded.",
        checks.drawn, kind=list, metavar="CAMERA[:MASK]", read=spelling.read_mask, note=record.mask,
    )  # fmt: skip
    latents: Tensor | Sequence[Tensor] | Mapping[str, Tensor] | Views | None = option(
        "Noise to start from, (V, C, h, w), or (C, h, w) by channel; for several generations a list, one for each.",
        checks.latents, note=record.present, python_only="tensors have no spelling; the noise comes from --seed",
    )  # fmt: skip
    output_type: str = option(
        "'pil', 'np' (H, W, 3), 'pt' (3, H, W), or 'latent' (C, h, w).", checks.one_of(OUTPUT_TYPES), "pil",
        python_only="files are PNG",
    )  # fmt: skip
    callback_on_step_end: Callback | None = option(
        "Called after each step; latents that it returns replace the present ones.", checks.function, note=record.function,
        python_only="it is code",
    )  # fmt: skip
    classifier: Classifier | None = option(
        "A head whose score gradient guides the pictures.", checks.classifier, note=record.described,
        python_only="it is code",
    )  # fmt: skip
    generator: torch.Generator | None = option(
        "Draws the seeds.", checks.generator, note=record.present, python_only="--seed says the seed itself"
    )

    def __post_init__(self) -> None:
        for name, about in options().items():
            value = getattr(self, name)
            default = self.__dataclass_fields__[name].default
            # None means the default of every option.
            object.__setattr__(self, name, default if value is None or value is default else about.check(value, name))

    def replaced(self, **changes: Any) -> GenerationSettings:
        """Return these settings with some of them changed, by the names of the fields or diffusers' (`DIFFUSERS_WORDS`)."""
        return dataclasses.replace(self, **named(changes, options())) if changes else self


@dataclass(frozen=True, kw_only=True)
class UsedSettings(GenerationSettings):
    """How the views of one frame were generated: `GenerationSettings` with the model's defaults filled in, and the machine's
    facts.

    Values that the manifest cannot hold are described: regions and inputs by the plugins' names, a classifier by its text.
    """

    loras: Mapping[str, float] = field(default_factory=dict)
    """Scales of the LoRAs that were in."""
    words: Mapping[str, int] = field(default_factory=dict)
    """How many vectors each word had that the text encoder was taught."""
    tuners: Mapping[str, float] = field(default_factory=dict)
    """Scales of the tuners that were in."""
    vae: str = ""
    """The VAE that replaces the model's own."""
    refiner: str = ""
    """The sha256 of the model that computed the last steps; empty where there was none."""
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        for name, about in options().items():
            object.__setattr__(self, name, about.note(getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, one per field; nothing of words, tuners or a refiner without any, as in manifests before they
        came.
        """
        values = {f.name: record.plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        later = ("words", "tuners", "refiner", "refine_from", "guidance_range")
        return {name: value for name, value in values.items() if name not in later or value not in ({}, "", None)}


def options() -> dict[str, About]:
    """Return the properties of each option, in the order of the fields."""
    return {f.name: f.metadata["about"] for f in dataclasses.fields(GenerationSettings)}
