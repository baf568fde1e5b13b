"""`drivegen generate`: which frames, with what settings, into which files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from drivegen.pipeline.manifest import Manifest, describe
from drivegen.pipeline.pipeline import Pipeline
from drivegen.sampling import check_range, check_seed
from drivegen.scene import Frame
from drivegen.support.errors import InputError, nearest
from drivegen.support.files import make_subfolder
from drivegen.support.locks import locked_folder
from drivegen.support.names import check_file_name
from drivegen.support.progress import progress
from drivegen.support.signals import raised_by_sigterm

BUILT_IN = Path(__file__).parents[1] / "assets" / "scene"
"""The dataset that is generated from when no data are given: one frame of the procedural city."""

LONGEST_SIDE = 8192
"""Pixels; a typing error beyond it would keep the machine busy without an answer."""


@dataclass(frozen=True)
class Selection:
    """Which frames the user asked for."""

    data: Path | None = None
    version: str | None = None
    scene: str | None = None
    samples: tuple[str, ...] = ()
    all: bool = False
    num: int | None = None

    def __post_init__(self) -> None:
        if self.num is not None and self.num < 1:
            raise InputError(f"--num {self.num} must be 1 or more")
        if self.samples and (self.all or self.num is not None):
            raise InputError("--sample names the frames itself; leave out --all and --num")
        asked = {"--version": self.version, "--scene": self.scene, "--sample": self.samples, "--all": self.all}
        if self.data is None and any(asked.values()):
            raise InputError(f"{next(name for name, value in asked.items() if value)} needs a dataset; give --data ROOT")

    def frames(self) -> _Frames:
        """Open the data and return the frames, read one by one."""
        from drivegen.datasets import nuscenes

        dataset = nuscenes.open(self.data or BUILT_IN, self.version)
        tokens = dataset.samples(self.scene)
        if self.samples:
            for token in self.samples:
                if token not in tokens:
                    where = f"scene {self.scene!r} of {self.data}" if self.scene else str(self.data)
                    raise InputError(f"no sample {token!r} in {where}{nearest(token, tokens)}")
            tokens = self.samples
        elif not self.all or self.num is not None:
            tokens = tokens[: self.num or 1]
        if not tokens:
            raise InputError(f"there are no samples in {self.data}")
        return _Frames(list(tokens), lambda i: dataset.frame(tokens[i]))


class _Frames(Sequence[Frame]):
    """Frames that are read when they are looked at."""

    def __init__(self, tokens: list[str], read: Any) -> None:
        self.tokens, self._read = tokens, read

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, i: Any) -> Any:
        if i >= len(self):
            raise IndexError(i)
        return self._read(i)


@dataclass(frozen=True)
class Settings:
    """How to generate; None is the model's own default."""

    prompt: str | None = None
    negative_prompt: str | None = None
    steps: int | None = None
    guidance: tuple[str, ...] = ()
    sampler: str | None = None
    noise: str | None = None
    agreement: float | None = None
    seed: int = 0
    without: tuple[str, ...] = ()
    scales: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()
    strength: float | None = None
    size: tuple[int, int] | None = None
    inputs: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Where:
    """Which model, and on what it computes."""

    model: str = "tiny"
    device: str = "auto"
    dtype: str = "auto"
    offload: bool = False
    config_folder: Path | None = None
    plugins: tuple[str, ...] = ()
    loras: tuple[str, ...] = ()
    vae: Path | None = None

    def pipeline(self) -> Pipeline:
        """Load the model, and what is added to it."""
        pipe = Pipeline.from_pretrained(self.model, self.device, self.dtype, self.offload, self.config_folder, self.vae)
        for text in self.plugins:
            name, equals, source = text.partition("=")
            pipe.add_plugin(*((source, name) if equals and name.isidentifier() else (text,)))
        for text in self.loras:
            pipe.load_lora(*parse_lora(text))
        return pipe


def generate(out: Path, selection: Selection, settings: Settings, where: Where, console: Console) -> None:
    """Generate the selected frames into OUT/<sample_token>/, with sheets and a manifest."""
    scales, ranges, guidance = parse_scales(settings.scales), parse_ranges(settings.ranges), parse_guidance(settings.guidance)
    inputs, regions = parse_inputs(settings.inputs), parse_regions(settings.regions)
    check_seed(settings.seed)
    with raised_by_sigterm(), locked_folder(out):
        manifest = Manifest(out)
        frames = selection.frames()
        pipe = where.pipeline()
        steps = settings.steps or pipe.model.sampling.steps
        with manifest, progress("generating", len(frames) * steps, "steps") as advance:
            started, images = time.monotonic(), 0
            for number, frame in enumerate(frames):
                if number == 0 and (ignored := pipe.ignored(frame)):
                    console.print(f"[yellow]the model has no plugins for {', '.join(ignored)}: they are ignored[/yellow]")
                advance(to=number * steps)
                folder = out / check_file_name(frame.token, "sample token")
                views = pipe(
                    frame, prompt=settings.prompt, negative_prompt=settings.negative_prompt, seed=settings.seed,
                    num_inference_steps=settings.steps, guidance_scale=guidance, sampler=settings.sampler, noise=settings.noise,
                    agreement=settings.agreement,
                    scales=scales, ranges=ranges, without=settings.without, size=settings.size, strength=settings.strength,
                    inputs=inputs, regions=regions,
                    image=None if settings.strength is None else recorded(frame),
                    callback_on_step_end=lambda pipe, i, t, state, n=number: advance(to=n * steps + i + 1),
                )  # fmt: skip
                views.save(make_subfolder(out, folder.name))
                manifest.add(describe(views, pipe.model, folder, out))
                images += len(views)
            took = time.monotonic() - started
    console.print(
        f"{images} images of {len(frames)} frames in {took:.1f} s ({pipe.device}, {str(pipe.dtype).removeprefix('torch.')})"
    )
    console.print(f"look at {folder / 'sheet.png'}", soft_wrap=True, highlight=False, markup=False)


def parse_scales(given: Sequence[str]) -> dict[str, float]:
    """Read PLUGIN=X options."""
    return _by_plugin("--scale", given, "PLUGIN=X with a number X of 0 or above, such as boxes=1.5")


def parse_lora(text: str) -> tuple[str, float]:
    """Read FILE[=SCALE]."""
    file, equals, number = text.rpartition("=")
    if not equals:
        return text, 1.0
    try:
        return file, float(number)
    except ValueError:
        return text, 1.0  # the equals sign is in the file's name


def parse_inputs(given: Sequence[str]) -> dict[str, str]:
    """Read PLUGIN=FILE options."""
    out: dict[str, str] = {}
    for text in given:
        name, _, value = text.partition("=")
        if not name or not value or name in out:
            raise InputError(f"--input {text!r} must be PLUGIN=FILE, once a plugin, such as image_prompt=photo.jpg")
        out[name] = value
    return out


def parse_guidance(given: Sequence[str]) -> float | dict[str, float] | None:
    """Read one number, or PLUGIN=W options; None where there is none."""
    if len(given) == 1 and "=" not in given[0]:
        try:
            return float(given[0])
        except ValueError:
            raise InputError(f"--guidance {given[0]!r} must be a number, or PLUGIN=W such as text=3") from None
    return _by_plugin("--guidance", given, "PLUGIN=W with a number W of 0 or above (or one number for all)") or None


def parse_ranges(given: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Read PLUGIN=START:END options."""
    out: dict[str, tuple[float, float]] = {}
    for text in given:
        name, _, ends = text.partition("=")
        try:
            start, end = (float(value) for value in ends.split(":"))
        except ValueError:
            raise InputError(f"--range {text!r} must be PLUGIN=START:END, such as layout=0:0.6") from None
        if name in out:
            raise InputError(f"--range names {name!r} twice")
        out[name] = check_range(name, start, end)
    return out


def parse_regions(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read PLUGIN=CAMERA[:MASK] options: a mask file is white where the plugin is, and without one all of the picture is."""
    from drivegen.scene.pictures import user_image

    out: dict[str, dict[str, Any]] = {}
    for text in given:
        name, _, rest = text.partition("=")
        channel, colon, file = rest.partition(":")
        if not name or not channel or (colon and not file):
            form = "PLUGIN=CAMERA:MASK, or PLUGIN=CAMERA for all of its picture, such as layout=CAM_FRONT:mask.png"
            raise InputError(f"--region {text!r} must be {form}")
        views = out.setdefault(name, {})
        if channel in views:
            raise InputError(f"--region names {channel!r} of {name!r} twice")
        views[channel] = user_image(Path(file), f"--region {name}={channel}", "L") if colon else True
    return out


def _by_plugin(option: str, given: Sequence[str], form: str) -> dict[str, float]:
    out: dict[str, float] = {}
    for text in given:
        name, equals, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not name or not equals or not 0 <= number < float("inf"):
            raise InputError(f"{option} {text!r} must be {form}")
        if name in out:
            raise InputError(f"{option} names {name!r} twice")
        out[name] = number
    return out


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Read HEIGHTxWIDTH."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise InputError(f"--size {text!r} must be HEIGHTxWIDTH in pixels, such as 224x400")
    if any(len(part) > 9 or int(part) > LONGEST_SIDE for part in parts):
        raise InputError(f"--size {text!r} is too large; each side may have at most {LONGEST_SIDE} pixels")
    return int(parts[0]), int(parts[1])


def recorded(frame: Frame) -> dict[str, Image.Image]:
    """Read the pictures that a frame's cameras took; raises InputError where there is none."""
    from drivegen.scene.pictures import load_image

    out = {}
    for camera in frame.cameras:
        if camera.image_path is None:
            raise InputError(f"--strength starts from recorded pictures, and {camera.channel} of {frame.token!r} has none")
        out[camera.channel] = load_image(camera)
    return out
