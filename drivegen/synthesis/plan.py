"""The plan of a synthesis, made before anything is generated: a file, printed by ``--plan`` and compared when a run is
resumed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drivegen.datasets import SceneSource
from drivegen.datasets.nuscenes.rows import Rows, scene_location
from drivegen.datasets.nuscenes.vectormap import merge_maps
from drivegen.pipeline.manifest import model_facts
from drivegen.pipeline.pipeline import Pipeline
from drivegen.pipeline.settings import GenerationSettings
from drivegen.saved.index import library_versions
from drivegen.scene import Frame, Scene, VectorMap
from drivegen.support.errors import InputError, nearest
from drivegen.support.files import refuse_link, write_json
from drivegen.support.locks import LOCK
from drivegen.support.progress import progress
from drivegen.synthesis import audit
from drivegen.synthesis.digest import SceneDigest
from drivegen.synthesis.draws import seed_of
from drivegen.synthesis.recipe import Recipe, Variant
from drivegen.synthesis.references import opened
from drivegen.synthesis.sensor import AZIMUTHS, BEAMS
from drivegen.synthesis.variants import Varied, vary

NAME = "plan.json"
WORK = ".synthesis"
"""Hidden folder of what an unfinished dataset has whole."""

BYTES_PER_PIXEL = {"png": 2.0, "jpeg": 0.4}
"""About as much a picture takes, for the estimate of the disk space."""

BYTES_PER_ROW = 1500
"""About as much a box or an image takes in tables and manifest."""

CAST_BYTES = BEAMS * AZIMUTHS * 20
"""Of a sweep that is cast: at most a point per ray."""

VALIDATION = ("val", "test")


@dataclass(frozen=True)
class Plan:
    """Everything that the bytes of the dataset depend on, and counts.

    facts are JSON values: the recipe, digests of source, model and plan, device and threads, scenes with their units, counts,
    an estimate of bytes, skipped edits. maps are those of the source's locations, for the end of the run.
    """

    facts: Mapping[str, Any]
    maps: Mapping[str, VectorMap] = field(default_factory=dict, repr=False, compare=False)

    @property
    def run(self) -> str:
        """The digest that tokens are derived from."""
        return str(self.facts["run"])

    @property
    def sources(self) -> tuple[str, ...]:
        """The source's scenes, in order."""
        return tuple(dict.fromkeys(scene["source"] for scene in self.facts["scenes"]))

    @property
    def units(self) -> int:
        """Frames to generate, each with all its cameras."""
        return int(self.facts["counts"]["units"])

    def begin(self, out: Path) -> None:
        """Write the plan into an output folder, or compare it with an existing one.

        Raises InputError naming the differences, and where the folder holds anything else.
        """
        path = refuse_link(out / NAME)
        if not path.exists():
            if others := sorted(p.name for p in out.iterdir() if p.name != LOCK):
                raise InputError(f"{out} is not empty: it holds {others[0]!r}, and no {NAME}; give a new folder, or empty it")
            write_json(path, dict(self.facts))
            return
        there = read(out).facts
        changed = list(_differences(there, self.facts, ""))
        if changed:
            more = f" (and {len(changed) - 5} more)" if len(changed) > 5 else ""
            what = ", ".join(changed[:5])
            raise InputError(f"{out} was begun with another plan: {what}{more}; name another folder, or go back to that plan")


def read(out: Path) -> Plan:
    """Read the plan of a dataset that was made, or begun, here."""
    path = refuse_link(out / NAME)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        facts["run"], facts["counts"]["units"], facts["version"]
    except FileNotFoundError as error:
        raise InputError(f"{out} has no {NAME}: it is not a dataset that drivegen synthesize made") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not a plan: {type(error).__name__} {error}; remove the folder, and begin again") from error
    return Plan(facts)


def _differences(was: Any, now: Any, path: str) -> Iterator[str]:
    """Yield ``recipe.seed was 0 and is 1`` for each value that differs."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys((*was, *now)):
            yield from _differences(was.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    elif was != now:
        yield f"{path} was {was!r:.60} and is {now!r:.60}"


def make(source: SceneSource, recipe: Recipe, pipe: Pipeline, threads: int) -> Plan:
    """Plan a synthesis: read the source, try every variant's edits, and count.

    Args:
        source: the dataset.
        recipe: what to make of it.
        pipe: the model.
        threads: how many threads the networks compute with, on which the last bits of a picture depend.

    Raises InputError for scenes that are not there or are of the validation split, settings that do not fit the model, and
    frames that could not be written.
    """
    names = chosen_scenes(source, recipe)
    for one in recipe.variants.values():
        pipe.settings(settings_of(recipe, one))
    facts: dict[str, Any] = {
        "format": 1, "recipe": recipe.to_dict(), "recipe_sha256": recipe.sha256,
        "model": {k: v for k, v in model_facts(pipe.model, pipe.extensions.sha256).items() if k != "model"},
        "computing": {"device": pipe.device.type, "dtype": str(pipe.dtype).removeprefix("torch."), "threads": threads},
        "versions": library_versions(), "version": _version(source),
    }  # fmt: skip
    if recipe.audit is not None:
        facts["referee"] = dict(audit.referee().facts)
    facts["size"] = list(recipe.size or pipe.model.image_size)
    digests, digest = {}, SceneDigest()
    counts, skipped, scenes, sweeps = Counter[str](), Counter[str](), [], 0
    rows = Rows(Path("dataset"))
    jobs = recipe.labels
    maps: dict[str, dict[int, VectorMap]] = {}
    with progress("planning", len(names), "scenes") as advance:
        for name in names:
            scene = source.scene(name)
            digests[scene.name] = digest.of(scene)
            found = {id(frame.map): frame.map for frame in scene.frames if frame.map is not None}
            if found:
                maps.setdefault(scene_location(scene), {}).update(found)
            for variant, label in jobs:
                varied = vary(scene, recipe, variant, label, "")
                rows.add_scene(_without_files(varied.scene))
                skipped += Counter({f"{variant}: {what}": n for what, n in varied.skipped.items()})
                scenes.append({"scene": varied.scene.name, "source": scene.name, "units": len(varied.sources)})
                counts["units"] += len(varied.sources)
                counts["images"] += sum(len(frame.cameras) for frame in varied.scene.frames)
                counts["boxes"] += sum(len(frame.boxes) for frame in varied.scene.frames)
                sweeps += sum(_size(frame) for frame in varied.scene.frames)
            for table in ("sample_data", "sample_annotation", "ego_pose", "calibrated_sensor"):
                rows.tables[table].clear()
            advance()
    pixels = facts["size"][0] * facts["size"][1]
    size = int(counts["images"] * pixels * BYTES_PER_PIXEL[recipe.images]) + sweeps
    size += BYTES_PER_ROW * (counts["boxes"] + counts["images"])
    identity = json.dumps([recipe.sha256, digests, facts["model"]], sort_keys=True)
    facts |= {
        "source_sha256": digests, "run": hashlib.sha256(identity.encode()).hexdigest(),
        "counts": {"scenes": len(scenes), **counts}, "bytes": size, "scenes": scenes, "skipped": dict(sorted(skipped.items())),
    }  # fmt: skip
    merged = {where: merge_maps(list(several.values()), where) for where, several in maps.items()}
    return Plan(json.loads(json.dumps(facts)), merged)


def settings_of(recipe: Recipe, variant: Variant, seed: int = 0) -> GenerationSettings:
    """Return how a variant's frames are generated; the prompt is the frame's description.

    Args:
        recipe: the dataset's.
        variant: one of the recipe's.
        seed: of the noise.
    """
    return GenerationSettings(
        negative_prompt=variant.negative_prompt, steps=recipe.steps, guidance=recipe.guidance, sampler=recipe.sampler,
        size=recipe.size, scales=dict(variant.scales) or None, inputs=opened(variant.inputs) or None, seed=seed,
    )  # fmt: skip


def chosen_scenes(source: SceneSource, recipe: Recipe) -> tuple[str, ...]:
    """Return the source's scenes of a recipe; raises InputError for one that does not exist or is of the validation split."""
    for name in recipe.scenes:
        if name not in source.scenes:
            hint = nearest(name, source.scenes)
            raise InputError(f"the recipe names scene {name!r}, which {source.root} does not have{hint}")
    names = recipe.scenes or source.scenes
    tested = validation_scenes(source)
    held_out = [name for name in names if name in tested]
    if held_out and not recipe.validation_scenes:
        some = ", ".join(held_out[:3])
        raise InputError(
            f"{len(held_out)} of {len(names)} scenes are of the validation or test split ({some}): synthetic copies of what "
            "one tests on are leakage; name other scenes in the recipe, or set validation_scenes: true"
        )
    return tuple(names)


def validation_scenes(source: SceneSource) -> set[str]:
    """Return the names of a source's scenes that are held out for tests: in nuScenes' splits, or in those of its own."""
    own = (split for split in source.splits if any(word in split.lower() for word in VALIDATION))
    return {name for split in (*VALIDATION, *own) for name in source.scenes_of_split(split)}


def unit_seed(recipe: Recipe, varied: Varied, number: int) -> int:
    """Return the seed of a frame, which depends on the run's seed, the source's sample and the variant alone.

    Args:
        recipe: with the run's seed.
        varied: the scene.
        number: which of its frames.
    """
    return seed_of(recipe.seed, varied.sources[number], varied.label)


def _version(source: SceneSource) -> str:
    return source.version if source.version.startswith("v1.0-") and "/" not in source.version else "v1.0-mini"


def _size(frame: Frame) -> int:
    """Return about as much as a frame's sweep takes: the source's, or one that is cast."""
    size = frame.lidar_path.stat().st_size if frame.lidar_path is not None and frame.lidar_path.is_file() else 0
    return size or CAST_BYTES


def _without_files(scene: Scene) -> Scene:
    """Return a scene whose rows can be made without looking at a file."""
    frames = tuple(
        replace(frame, lidar_path=None, cameras=tuple(replace(camera, image_path=None) for camera in frame.cameras))
        for frame in scene.frames
    )
    return replace(scene, frames=frames)
