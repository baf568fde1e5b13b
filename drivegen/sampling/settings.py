"""A model's sampling defaults; stored in its drivegen.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from drivegen.catalog import samplers
from drivegen.plugin import Denoiser
from drivegen.plugin.sampler import Run, Sampler
from drivegen.sampling.guidance import classifier_free, limited, telescoping
from drivegen.sampling.samplers import check_run
from drivegen.support.errors import InputError, nearest
from drivegen.support.values import by_name, fractions, number, whole

MAX_STEPS = 1000
MAX_GUIDANCE = 100

Noise = Literal["independent", "shared", "sphere"]


def plain_options(value: Any, what: str) -> dict[str, Any]:
    """Return options of a sampler by name: numbers, texts, true and false; raises InputError for anything else."""
    found = {}
    for name, one in by_name(value, what, "values").items():
        plain = one.item() if getattr(one, "ndim", None) == 0 and hasattr(one, "item") else one
        if not isinstance(plain, (bool, int, float, str)):
            raise InputError(f"{what}: {name} = {one!r:.80} must be a number, a text, true or false")
        found[name] = plain
    return found


@dataclass(frozen=True)
class Sampling:
    """Sampling defaults of a model.

    Args:
        sampler: its name.
        steps: how many.
        guidance: the scale s of u + s·(c − u), where 1 and below is none; or a weight per plugin (`telescoping`).
        guidance_rescale: φ of Lin et al. (2023), 0 = off.
        guidance_range: the (start, end) fractions of the steps between which there is guidance (Kynkäänniemi et al. 2024),
            None = all.
        null: plugins that are null in u, None = all; not read where guidance is by plugin.
        noise: what the views start from: "independent", "shared" (all the same) or "sphere" (the same where they overlap,
            `sphere_noise`).
        agreement: the share of the steps, from the first on, in which overlapping views are blended (`agreeing`).
        sampler_options: those of the sampler that are not its defaults, by name.
    """

    sampler: str = "unipc"
    steps: int = 20
    guidance: float | Mapping[str, float] = 2.0
    guidance_rescale: float = 0.0
    guidance_range: tuple[float, float] | None = None
    null: tuple[str, ...] | None = None
    noise: Noise = "independent"
    agreement: float = 0.0
    sampler_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        options = plain_options(self.sampler_options, "sampling sampler_options")
        object.__setattr__(self, "sampler_options", options)
        self.made()
        found: dict[str, Any] = {"steps": whole(self.steps, "sampling steps", 1, MAX_STEPS)}
        if isinstance(self.guidance, Mapping):
            weights = by_name(self.guidance, "sampling guidance", "weights").items()
            found["guidance"] = {n: number(w, f"sampling guidance of {n!r}", 0, MAX_GUIDANCE) for n, w in weights}
        else:
            found["guidance"] = number(self.guidance, "sampling guidance", 0, MAX_GUIDANCE)
        for share in ("guidance_rescale", "agreement"):
            found[share] = number(getattr(self, share), f"sampling {share}", 0, 1)
        if self.guidance_range is not None:
            found["guidance_range"] = fractions(self.guidance_range, "sampling guidance_range")
        for name, value in found.items():
            object.__setattr__(self, name, value)
        if self.noise not in get_args(Noise):
            kinds = get_args(Noise)
            raise InputError(f"sampling noise {self.noise!r} is not one of {', '.join(kinds)}{nearest(str(self.noise), kinds)}")
        if self.null is not None:
            if isinstance(self.null, str) or not all(isinstance(name, str) for name in self.null):
                raise InputError(f"sampling null {self.null!r} must be a list of plugin names, or null for all plugins")
            object.__setattr__(self, "null", tuple(self.null))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> Sampling:
        """Build from JSON values; raises InputError that names `where` on an unknown key or a bad value."""
        known = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                hint = f"{nearest(key, known)}; there are {', '.join(known)}"
                raise InputError(f"{where}: unknown sampling setting {key!r}{hint}")
        try:
            return cls(**values)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values from which `from_dict` builds the same settings."""
        return dataclasses.asdict(self)

    def replaced(self, **changes: Any) -> Sampling:
        """Return these settings with every change that is not None.

        The options of another sampler are not this one's; those of the same are changed one by one.
        """
        given = {k: v for k, v in changes.items() if v is not None}
        kept = self.sampler_options if given.get("sampler", self.sampler) == self.sampler else {}
        given["sampler_options"] = {**kept, **given.get("sampler_options", {})}
        return dataclasses.replace(self, **given)

    def made(self) -> Sampler:
        """Make the sampler; raises InputError where it is not installed or refuses its options."""
        return samplers.make(self.sampler, self.sampler_options)

    def run(self, trained: Any, **more: Any) -> Run:
        """Describe a run of the sampler; raises InputError where it cannot run the model.

        Args:
            trained: the model's scheduler.
            more: what else a `Run` says.
        """
        found = Run(trained=trained, steps=self.steps, name=self.sampler, **more)
        check_run(self.made(), found)
        return found

    def nulled(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the names of the model's plugins that guidance nulls; raises InputError on a name that is not among them."""
        names = tuple(names)
        chosen = tuple(self.guidance) if isinstance(self.guidance, Mapping) else self.null
        if chosen is None:
            return names
        for name in chosen:
            if name not in names:
                has = f"{', '.join(names) or 'none'}{nearest(name, names)}"
                verb = "weighs" if isinstance(self.guidance, Mapping) else "nulls"
                raise InputError(f"guidance {verb} {name!r}, but the plugins are {has}")
        return chosen

    def guided(self, denoise: Denoiser, names: Iterable[str], within: Callable[[float, float], bool]) -> Denoiser:
        """Wrap a denoiser with this guidance; a weight below 1 counts as 1.

        Args:
            denoise: the denoiser of a model.
            names: the model's plugins, in order.
            within: tells before each step whether it lies between two fractions of the steps.
        """
        if isinstance(self.guidance, Mapping):
            weights = {name: max(1.0, weight) for name, weight in self.guidance.items()}
            guided = telescoping(denoise, weights, names, self.guidance_rescale)
        else:
            guided = classifier_free(denoise, self.guidance, self.nulled(names), self.guidance_rescale)
        if (ends := self.guidance_range) is None:
            return guided
        return limited(denoise, guided, lambda: within(*ends))
