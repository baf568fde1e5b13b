"""Measuring a model: datasets, generation, judging, figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drivegen.datasets import nuscenes
from drivegen.evaluate import figures, pandaset
from drivegen.evaluate.cities import City, open_city, plain_city, turned_city
from drivegen.evaluate.figures import Figure, Truth
from drivegen.evaluate.images import Job, Store, encode, generate, reconstruct
from drivegen.evaluate.labels import Judged
from drivegen.evaluate.metrics.consistency import correspondences, disagreement
from drivegen.evaluate.metrics.spectrum import band_energy
from drivegen.evaluate.people import PeopleReferee
from drivegen.evaluate.people_figures import people_figures
from drivegen.evaluate.referee import Referee
from drivegen.evaluate.renders import conditions_of
from drivegen.evaluate.variants import (
    ALL,
    KINDS,
    TURNED,
    Key,
    Variant,
    columns,
    donor,
    noise_seed,
    variants,
    with_boxes_of,
)
from drivegen.pipeline.pipeline import Pipeline
from drivegen.saved.integrity import weight_files
from drivegen.saved.model import Model
from drivegen.scene import Frame, pictures
from drivegen.scene.geometry import Array
from drivegen.support.errors import InputError, nearest
from drivegen.support.files import sha256
from drivegen.support.progress import progress, track


@dataclass(frozen=True)
class Plan:
    """What is measured: scenes and frames of the city, its seed, and of which variants.

    less gives the frames per scene for kinds of variants that are measured on fewer, or for one variant by its name; only names
    the variants (None = all); nulled the plugins that have a column of the table in which they are null.
    """

    out: Path
    scenes: int = 20
    frames: int = 10
    seed: int = 20261
    steps: int | None = None
    only: tuple[str, ...] | None = None
    less: Mapping[str, int] | None = None
    pandaset: Path | None = None
    nulled: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.scenes < 2 or self.frames < 1:
            asked = f"{self.scenes} scenes of {self.frames} frames"
            raise InputError(f"{asked} cannot be measured; 2 scenes (for the floor) and 1 frame are needed")
        names = [variant.name for variant in variants(self.nulled)]
        for name in self.only or ():
            if name not in names:
                raise InputError(f"there is no variant {name!r}{nearest(name, names)}; there are {', '.join(names)}")
        kinds = sorted({*KINDS, *names})
        for kind, count in (self.less or {}).items():
            if kind not in kinds or not 1 <= count <= self.frames:
                raise InputError(f"less {kind}={count}: kinds are {', '.join(kinds)}, frames per scene 1 to {self.frames}")

    def chosen(self, variant: Variant) -> list[Key]:
        """Frames on which a variant is measured: all, or as many as `less` says, spread evenly over each scene."""
        less = self.less or {}
        count = less.get(variant.name, less.get(variant.kind, self.frames))
        picked = [int(i * self.frames / count) for i in range(count)]
        return [Key(scene, frame) for scene in range(self.scenes) for frame in picked]


def fingerprint(model: Model) -> str:
    """Return a digest of a model's weight files."""
    if model.folder is None:
        raise InputError("only a saved model can be measured: the images on disk must belong to known weights")
    files = [model.folder / name for name in weight_files(model.folder)] if model.folder.is_dir() else [model.folder]
    return "-".join(sha256(path)[:8] for path in files)


class Measurement:
    """One model's measurement in a folder: `generate` makes images, `figures` evaluates those that exist.

    Args:
        pipe: the model.
        referee: judges the images.
        plan: what is measured, and where.
        people: finds people; None leaves their figures out.
    """

    def __init__(self, pipe: Pipeline, referee: Referee, plan: Plan, people: PeopleReferee | None = None) -> None:
        self.pipe, self.referee, self.plan, self.people = pipe, referee, plan, people
        self.size = pipe.model.image_size
        self.columns = columns(plan.nulled)
        self.store = Store(plan.out / "images")
        sampling = pipe.model.sampling.replaced(steps=plan.steps)
        self.settings: dict[str, Any] = {
            "weights": fingerprint(pipe.model), "city_seed": plan.seed, "image_size": list(self.size), "steps": sampling.steps,
            "guidance": sampling.guidance, "guidance_rescale": sampling.guidance_rescale, "sampler": sampling.sampler,
            "noise": sampling.noise, "agreement": sampling.agreement, "dtype": str(pipe.dtype).removeprefix("torch."),
            "frames_a_scene": plan.frames, "scenes": plan.scenes,
        }  # fmt: skip
        if sampling.guidance_range is not None:
            self.settings["guidance_range"] = list(sampling.guidance_range)
        if sampling.sampler_options:  # not where there are none: images that were measured before there were any stay valid
            self.settings["sampler_options"] = dict(sampling.sampler_options)
        self.store.bind(json.loads(json.dumps(self.settings)))

    @cached_property
    def city(self) -> City:
        """Unseen scenes of the city."""
        plan = self.plan
        plain_city(plan.out / "city", plan.scenes, plan.frames, plan.seed, self.size)
        return open_city(plan.out / "city", plan.scenes, plan.frames, self.pipe.neighbours)

    @cached_property
    def turned(self) -> City:
        """The same scenes with the front camera turned."""
        plan = self.plan
        turned_city(plan.out / "city_turned", plan.scenes, plan.frames, plan.seed, self.size)
        return open_city(plan.out / "city_turned", plan.scenes, plan.frames, self.pipe.neighbours)

    @cached_property
    def real(self) -> dict[Key, Frame]:
        """PandaSet's frames at the model's size; none where the data is missing."""
        root = self.plan.pandaset
        if root is None or not root.is_dir():
            return {}
        dataset = nuscenes.open(root)
        tokens = dataset.samples()
        frames = [dataset.frame_with_neighbours(token, *self.pipe.neighbours) for token in tokens]
        return {Key(0, i): frame.resized(self.size[1], self.size[0]) for i, frame in enumerate(frames)}

    @property
    def variants(self) -> list[Variant]:
        """The requested variants for which this model has the plugins."""
        plugins = set(self.pipe.host.plugins)
        able = [v for v in variants(self.plan.nulled) if v.column == "null" or plugins.issuperset(self.columns[v.column])]
        return [v for v in able if (self.plan.only is None or v.name in self.plan.only) and (v.dataset == "city" or self.real)]

    def jobs(self, variant: Variant) -> list[Job]:
        """List the frames to generate for a variant."""
        without = tuple(self.pipe.host.plugins) if variant.column == "null" else self.columns[variant.column]
        if variant.dataset == "pandaset":
            return [Job(variant.name, k.name, frame, noise_seed(self.plan.seed, k), without) for k, frame in self.real.items()]
        frames = self.turned.frames if variant.kind == "turned" else self.city.frames
        jobs = []
        for key in self.plan.chosen(variant):
            frame = frames[key]
            if variant.kind == "boxes":
                frame = with_boxes_of(frame, frames[donor(key, self.plan.scenes)])
            seed = noise_seed(self.plan.seed, key, variant.kind == "second")
            jobs.append(Job(variant.name, key.name, frame, seed, without, latents=variant.kind == "plain"))
        return jobs

    def generate(self) -> None:
        """Generate every image that is not on disk yet, the most needed variants first."""
        jobs = [job for variant in self.variants for job in self.jobs(variant)]
        waiting = [job for job in jobs if not self.store.has(job.variant, job.name, job.frame)]
        with progress("generating", len(jobs), "frames", done=len(jobs) - len(waiting)) as advance:
            for job in generate(self.pipe, waiting, self.store, self.plan.steps):
                advance(note=job.variant)

    def _judge(self, variant: Variant, city: City) -> Judged:
        judged = Judged()
        for key in track(self.plan.chosen(variant), f"judging {variant.name}"):
            frame = city.frames[key]
            if self.store.has(variant.name, key.name, frame):
                judged.add(self.referee, key, self.store.load(variant.name, key.name, frame))
        return judged

    def _truth(self, city: City, keys: Sequence[Key], channel: str | None = None) -> Truth:
        conditions = {key: conditions_of(city.frames[key].description) for key in keys}
        truth = Truth(self.plan.scenes, {k: c[0] for k, c in conditions.items()}, {k: c[1] for k, c in conditions.items()})
        for key in track(keys, "judging renders"):
            channels = [c for c in city.frames[key].channels if channel in (None, c)]
            truth.see(self.referee, key, {c: city.view(key, c) for c in channels})
        return truth

    def _reconstructions(self, keys: Sequence[Key]) -> Judged:
        judged = Judged()
        for key in track(keys, "judging VAE reconstructions"):
            frame = self.city.frames[key]
            if not self.store.has("vae", key.name, frame):
                rebuilt = reconstruct(self.pipe, {c: self.city.view(key, c).rgb for c in frame.channels})
                self.store.save("vae", key.name, rebuilt)
            judged.add(self.referee, key, self.store.load("vae", key.name, frame))
        return judged

    def _consistency(self, plain: str, second: Variant) -> dict[Key, Array]:
        rows = {}
        for key in track(self.plan.chosen(second), f"comparing views of {plain}"):
            frame = self.city.frames[key]
            if not (self.store.has(plain, key.name, frame) and self.store.has(second.name, key.name, frame)):
                continue
            views = {c: self.city.view(key, c) for c in frame.channels}
            one, two = self.store.load(plain, key.name, frame), self.store.load(second.name, key.name, frame)
            pairs = correspondences(frame, {c: view.depth_m for c, view in views.items()})
            rows[key] = disagreement(pairs, one, two, {c: view.rgb for c, view in views.items()})
        return rows

    def _energies(self, plain: Variant) -> dict[Key, Array]:
        """Sum the energy by band of a column's latents and of its renders', of the frames whose latents were kept."""
        rows = {}
        for key in track(self.plan.chosen(plain), f"latents of {plain.name}"):
            made = self.store.latents(plain.name, key.name)
            if made is not None:
                views = [self.city.view(key, channel).rgb for channel in self.city.frames[key].channels]
                real = np.concatenate([encode(self.pipe, rgb).float().cpu().numpy() for rgb in views])
                rows[key] = np.concatenate([band_energy(made), band_energy(real)])
        return rows

    def figures(self) -> list[Figure]:
        """Compute every figure whose images exist."""
        chosen = {v.name: v for v in self.variants}
        judged = {
            name: found for name, v in chosen.items()
            if v.dataset == "city" and v.kind not in ("second", "turned") and (found := self._judge(v, self.city)).labels
        }  # fmt: skip
        keys = sorted({key for found in judged.values() for key in figures.keys_of(found)})
        if not keys:
            return self._pandaset(chosen)
        truth = self._truth(self.city, keys)
        rebuilt = self._reconstructions(keys)
        out = figures.iou_figures(truth, rebuilt, "vae", ALL)
        out.append(figures.frechet_figure("frechet_vae", ALL, rebuilt, truth.renders))
        if "null" in judged:
            out += figures.iou_figures(truth, judged["null"], "null", ALL)
        turned_truth = None
        for column in self.columns:
            if column not in judged:
                continue
            plain = judged[column]
            out += figures.control_figures(truth, plain, column)
            out += figures.condition_figures(truth, plain, column)
            out.append(figures.frechet_figure("frechet", column, plain, truth.renders))
            if energies := self._energies(chosen[column]):
                out += figures.energy_figures(energies, self.plan.scenes, column)
            if f"{column}-boxes" in judged:
                out += figures.wrong_boxes_figures(truth, plain, judged[f"{column}-boxes"], column)
            if f"{column}-second" in chosen and (rows := self._consistency(column, chosen[f"{column}-second"])):
                out += figures.consistency_figure(rows, self.plan.scenes, column)
            if f"{column}-turned" in chosen and (turned := self._judge(chosen[f"{column}-turned"], self.turned)).labels:
                seen = figures.keys_of(turned)
                if turned_truth is None:
                    turned_truth = self._truth(self.turned, seen, TURNED)
                out += figures.turned_figures(truth, plain, turned_truth, turned, column)
        if self.people is not None:
            there = {column: figures.keys_of(judged[column]) for column in self.columns if column in judged}
            out += people_figures(self.people, self.city, self.store, there, self.plan.scenes)
        return out + self._pandaset(chosen)

    def _pandaset(self, chosen: Mapping[str, Variant]) -> list[Figure]:
        out: list[Figure] = []
        for column in self.columns:
            name = f"pandaset-{column}"
            done = {k: f for k, f in self.real.items() if name in chosen and self.store.has(name, k.name, f)}
            rows = [pandaset.recall_sums(self.referee, f, self.store.load(name, k.name, f)) for k, f in done.items()]
            out += self._recalls("pandaset", column, rows)
        recorded = [
            pandaset.recall_sums(self.referee, f, {c.channel: np.asarray(pictures.load_image(c)) for c in f.cameras})
            for f in self.real.values() if out
        ]  # fmt: skip
        return out + self._recalls("pandaset_pictures", ALL, recorded)

    def _recalls(self, prefix: str, column: str, rows: list[dict[str, Array]]) -> list[Figure]:
        return [
            Figure(f"{prefix}_{group}_{what}", column, value, frames=len(rows), scenes=1)
            for group, values in pandaset.pooled(rows).items() for what, value in values.items()
        ]  # fmt: skip


def machine() -> str:
    """Describe the machine: processor, cores in use, accelerator, torch."""
    name = "processor"
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0] if lines else name
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {torch.get_num_threads()} threads{gpu}, torch {torch.__version__}"
