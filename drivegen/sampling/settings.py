"""How a model is sampled unless the caller says otherwise; stored in a model's drivegen.json."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from drivegen.plugin import Denoiser
from drivegen.sampling.guidance import classifier_free, telescoping
from drivegen.sampling.samplers import check_sampler
from drivegen.support.errors import InputError, nearest

MAX_STEPS = 1000

Noise = Literal["independent", "shared", "sphere"]


@dataclass(frozen=True)
class Sampling:
    """Sampling defaults of a model.

    guidance is the scale s of u + s·(c − u), 1 = none, and null names the plugins that its unconditional half nulls (None =
    all); or guidance gives a weight a plugin (`telescoping`), and null is not read; guidance_rescale is φ of Lin et al. (2023),
    0 = off. noise is what the views start from: "independent", "shared" (all the same) or "sphere" (the same where they
    overlap, `sphere_noise`); for the first share `agreement` of the steps overlapping views are made to agree (`agreeing`).
    """

    sampler: str = "unipc"
    steps: int = 20
    guidance: float | Mapping[str, float] = 2.0
    guidance_rescale: float = 0.0
    null: tuple[str, ...] | None = None
    noise: Noise = "independent"
    agreement: float = 0.0

    def __post_init__(self) -> None:
        check_sampler(self.sampler)
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or not 1 <= self.steps <= MAX_STEPS:
            raise InputError(f"sampling steps {self.steps!r} must be a whole number from 1 to {MAX_STEPS}")
        weights: dict[str, Any] = {"guidance": self.guidance}
        if isinstance(self.guidance, Mapping):
            weights = {f"guidance of {name!r}": weight for name, weight in self.guidance.items()}
        shares = [("guidance_rescale", self.guidance_rescale, 1.0), ("agreement", self.agreement, 1.0)]
        checks = [*((name, value, 100.0) for name, value in weights.items()), *shares]
        for name, value, top in checks:
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not number or not 0 <= value <= top:
                raise InputError(f"sampling {name} {value!r} must be a number from 0 to {top:g}")
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
        """Return these settings with every change that is not None."""
        return dataclasses.replace(self, **{k: v for k, v in changes.items() if v is not None})

    def nulled(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return which of the model's plugins (names) guidance nulls; raises InputError on a name that is not among them."""
        names = tuple(names)
        chosen = tuple(self.guidance) if isinstance(self.guidance, Mapping) else self.null
        if chosen is None:
            return names
        for name in chosen:
            if name not in names:
                has = f"{', '.join(names) or 'none'}{nearest(name, names)}"
                raise InputError(f"guidance nulls {name!r}, but the plugins are {has}")
        return chosen

    def guided(self, denoise: Denoiser, names: Iterable[str]) -> Denoiser:
        """Put this guidance around a denoiser of a model with these plugins, in order."""
        if isinstance(self.guidance, Mapping):
            return telescoping(denoise, self.guidance, names, self.guidance_rescale)
        return classifier_free(denoise, self.guidance, self.nulled(names), self.guidance_rescale)
