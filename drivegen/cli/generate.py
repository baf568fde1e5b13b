"""`drivegen generate`: which frames, with what settings, into which files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from drivegen import lora
from drivegen.cli.screen import Screen, complain
from drivegen.datasets import SceneSource
from drivegen.pipeline.checks import RECORDED
from drivegen.pipeline.manifest import Manifest, describe, made_by, model_facts
from drivegen.pipeline.pipeline import Pipeline
from drivegen.pipeline.plan import Plan
from drivegen.pipeline.settings import GenerationSettings
from drivegen.pipeline.views import Views
from drivegen.scene import Frame
from drivegen.support.background import Background
from drivegen.support.errors import InputError, nearest
from drivegen.support.files import make_subfolder, sha256
from drivegen.support.locks import locked_folder
from drivegen.support.names import check_file_name
from drivegen.support.progress import progress
from drivegen.support.runtime import at_rest
from drivegen.support.signals import raised_by_sigterm
from drivegen.workers import LocalCrew, carry_out

BUILT_IN = Path(__file__).parents[1] / "assets" / "scene"
"""The dataset that is generated from when no data are given: one frame of the procedural city."""

LISTED = 20
"""Frames that were not generated are named, as far as one can read them."""


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
        from drivegen import datasets

        dataset = datasets.open(self.data or BUILT_IN, self.version)
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
        return _Frames(list(tokens), dataset)


class _Frames(Sequence[Frame]):
    """Frames that are read when they are looked at."""

    def __init__(self, tokens: list[str], dataset: SceneSource) -> None:
        self.tokens, self.dataset = tokens, dataset
        self.neighbours = (0.0, 0.0)
        """Seconds of past and future that come with each frame."""

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, i: Any) -> Any:
        if i >= len(self):
            raise IndexError(i)
        return self.dataset.frame_with_neighbours(self.tokens[i], *self.neighbours)


@dataclass(frozen=True)
class Where:
    """Which model to load, and the device and number format."""

    model: str = "tiny"
    device: str = "auto"
    dtype: str = "auto"
    offload: bool = False
    config_folder: Path | None = None
    plugins: tuple[str, ...] = ()
    loras: tuple[str, ...] = ()
    tuners: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()
    vae: Path | None = None
    variant: str | None = None
    prediction_type: str | None = None
    refiner: str | None = None
    fast: bool = False

    def pipeline(self) -> Pipeline:
        """Load the model with the added plugins, LoRAs, other tuners and words."""
        pipe = Pipeline.from_pretrained(
            self.model, self.device, self.dtype, self.offload, self.config_folder, self.vae, self.variant, self.prediction_type,
            self.refiner, self.fast,
        )  # fmt: skip
        for text in self.plugins:
            name, equals, source = text.partition("=")
            pipe.add_plugin(*((source, name) if equals and name.isidentifier() else (text,)))
        found = [lora.find(file) for file, _ in map(parse_lora, self.loras)]
        contents = [sha256(file) for file in found if file.is_file()]  # what is not there is refused below
        for file in found:
            if file.is_file() and contents.count(sha256(file)) > 1:
                raise InputError(f"--lora gives {file}, or a copy of it, twice; give it once, with its scale")
        for text in self.loras:
            pipe.load_lora(*parse_lora(text))
        for text in self.tuners:
            pipe.load_tuner(*parse_lora(text))
        for text in self.embeddings:
            pipe.load_embedding(*parse_embedding(text))
        return pipe


def parse_embedding(text: str) -> tuple[str, str | None]:
    """Read [WORD=]FILE: the file, and the word or None."""
    word, equals, file = text.rpartition("=")
    return (text, None) if not equals or Path(text).expanduser().exists() else (file, word)


def parse_lora(text: str) -> tuple[str, float]:
    """Read FILE[=SCALE]."""
    file, equals, number = text.rpartition("=")
    if not equals:
        return text, 1.0
    try:
        return file, float(number)
    except ValueError:
        return text, 1.0  # the equals sign is in the file's name


def generate(
    out: Path, selection: Selection, settings: GenerationSettings, where: Where, screen: Screen, others: Others | None = None
) -> None:
    """Generate the selected frames into OUT/<sample_token>/, with sheets and a manifest.

    Existing pictures made with the same settings are kept; a frame that cannot be generated is skipped, and named at the end.

    Args:
        out: the output folder.
        selection: the frames.
        settings: the options.
        where: the model and the device.
        screen: where messages go.
        others: processes that share the frames, where there are several; None generates them in this one.

    Raises InputError where a frame was skipped.
    """
    with raised_by_sigterm(), locked_folder(out):
        manifest = Manifest(out)
        frames = selection.frames()
        work = prepared(out, manifest, frames, where, settings, screen)
        started = time.monotonic()
        if others is not None and len(frames) > 1:
            with manifest:
                others.generate(work, frames.tokens)
        else:
            with manifest, work.background, progress("generating", len(frames) * work.steps, "steps") as advance:
                for number, token in enumerate(frames.tokens):
                    try:
                        work.frame(frames[number], partial(_within, lambda to: advance(to=to), number * work.steps, work.steps))
                    except InputError as error:
                        work.failed[token] = error
                    advance(to=(number + 1) * work.steps)
        took = time.monotonic() - started
    if work.failed and len(frames) == 1:
        raise work.failed[frames.tokens[0]]
    work.failed = {token: work.failed[token] for token in frames.tokens if token in work.failed}
    work.summary(took)
    if work.failed:
        raise InputError(
            f"{len(work.failed)} of {len(frames)} frames were not generated; mend what is named above, and run it again"
        )


def prepared(
    out: Path, manifest: Manifest, frames: _Frames, where: Where, settings: GenerationSettings, screen: Screen
) -> Work:
    """Load the model, and return what generates a frame.

    Args:
        out: folder to write into.
        manifest: of that folder.
        frames: the frames, which are told what neighbours the model needs.
        where: the model, and on what it computes.
        settings: the options.
        screen: where something may be said.
    """
    if settings.strength is not None or settings.mask is not None:
        settings = settings.replaced(image=RECORDED)
    pipe = where.pipeline()
    frames.neighbours = pipe.neighbours
    return Work(out, manifest, pipe, pipe.settings(settings), screen)


class Work:
    """What is done for each frame, and what came of it."""

    def __init__(self, out: Path, manifest: Manifest, pipe: Pipeline, settings: GenerationSettings, screen: Screen) -> None:
        """Begin with nothing done.

        Args:
            out: folder to write into.
            manifest: of that folder.
            pipe: the model.
            settings: the options, checked.
            screen: where something may be said.
        """
        self.out, self.manifest, self.pipe, self.settings, self.screen = out, manifest, pipe, settings, screen
        self.model = model_facts(pipe.model, pipe.extensions.sha256)
        self.each = len(settings.timesteps or ()) or settings.steps or pipe.model.sampling.steps
        self.steps = self.each * settings.repeats
        """Denoising steps of one frame."""
        self.made, self.kept, self.images = 0, 0, 0
        self.failed: dict[str, InputError] = {}
        self.last: Path | None = None
        self.background = Background()
        """Draws and writes a frame while the next one is computed."""
        self.where = str(pipe.device)
        self._asked = False

    def frame(self, frame: Frame, advance: Callable[[int], None]) -> None:
        """Generate a frame, as often as asked; advance(steps) is told how many of its steps are done."""
        for name, what in ((frame.token, "sample token"), *((channel, "camera") for channel in frame.channels)):
            check_file_name(name, what)
        if not self._asked and (ignored := self.pipe.ignored(frame)):
            self.screen.line((f"the model has no plugins for {', '.join(ignored)}: they are ignored", "yellow"))
        self._asked = True
        for i, plan in enumerate(self.pipe.plans(frame, self.settings)):
            folder = self.out / frame.token
            folder = folder if self.settings.repeats == 1 else folder / str(plan.seed)
            self._generation(plan, folder, partial(_within, advance, i * self.each, self.each))

    def _generation(self, plan: Plan, folder: Path, advance: Callable[[int], None]) -> None:
        common = made_by(self.pipe.used(plan), self.model, plan.digest())
        if folder == self.last:
            self.background.wait()  # it is asked for twice
        self.last = folder
        if self.manifest.holds(folder, plan.frame.token, plan.frame.channels, common):
            self.kept += 1
            return
        views = self.pipe.run(plan, advance)
        self.background.do(partial(self._write, views, folder, common))

    def _write(self, views: Views, folder: Path, common: Mapping[str, Any]) -> None:
        try:
            views.save(make_subfolder(self.out, *folder.relative_to(self.out).parts))
            self.manifest.add(describe(views.frame.token, views, folder, self.out, common))
        except InputError as error:
            self.failed[views.frame.token] = error
            return
        self.made += 1
        self.images += len(views)

    def add(self, done: Mapping[str, Any]) -> None:
        """Add what another process did: ``groups`` of lines for the manifest, and how many generations it kept."""
        for lines in done["groups"]:
            self.manifest.add(lines)
            self.made += 1
            self.images += len(lines)
            self.last = self.out / Path(lines[0]["file"]).parent
        self.kept += done["kept"]

    def summary(self, took_s: float) -> None:
        """Say what was done."""
        what = "frames" if self.settings.repeats == 1 else "generations"
        if self.kept:
            self.screen.line(f"{self.kept} {what} were there already, made in the same way: they stay as they are")
        on = f"({self.where}, {str(self.pipe.dtype).removeprefix('torch.')})"
        self.screen.line(f"{self.images} images of {self.made} {what} in {took_s:.1f} s {on}")
        for token, why in list(self.failed.items())[:LISTED]:
            complain(f"not generated: {token}: {why}")
        if len(self.failed) > LISTED:
            complain(f"… and {len(self.failed) - LISTED} more")
        if self.last is not None:
            self.screen.line(f"look at {self.last / 'sheet.png'}")


@dataclass(frozen=True)
class Others:
    """Processes that share the frames: one for each device; what they are told on the command line is JSON."""

    devices: tuple[str, ...]
    told: Mapping[str, Any]

    @classmethod
    def of(cls, devices: tuple[str, ...], out: Path, selection: Selection, where: Where, settings: Mapping[str, Any]) -> Others:
        """Say on which devices, and what the processes are told.

        Args:
            devices: one process for each.
            out: folder to write into.
            selection: which frames.
            where: the model.
            settings: options as on the command line.
        """
        told = {"out": out.absolute(), "selection": asdict(selection), "where": asdict(where), "settings": dict(settings)}
        return cls(devices, json.loads(json.dumps(told, default=str)))

    def generate(self, work: Work, tokens: Sequence[str]) -> None:
        """Let the processes generate frames; their lines go into the manifest, and their numbers are added up.

        Args:
            work: what is done here.
            tokens: of the frames.
        """
        import torch

        work.where = ", ".join(self.devices)
        setups = [{**self.told, "device": device, "threads": torch.get_num_threads()} for device in self.devices]
        crew = LocalCrew("drivegen.cli.generate_others:begin", setups)
        with progress("generating", len(tokens), "frames", lines=True) as advance, at_rest(work.pipe.host), crew:
            for token, outcome in carry_out(crew, tokens, lambda token: token):
                if outcome.error:
                    work.failed[token] = InputError(outcome.error)
                else:
                    work.add(outcome.result)
                advance()


def _within(advance: Callable[[int], None], before: int, most: int, step: int) -> None:
    """Say that a part of the work is `step` of its `most` steps further; some samplers take more than was said."""
    advance(before + min(step, most))
