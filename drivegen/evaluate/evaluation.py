"""`drivegen evaluate`: look at every pair of frames, and make the figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivegen.evaluate import pairs as pairing
from drivegen.evaluate.judges import Judge
from drivegen.evaluate.metrics.control import BINS, FOUND_AT, INVENTED_SHARE, LEAST_PIXELS, recalls
from drivegen.evaluate.metrics.realism import DISTANCES
from drivegen.evaluate.metrics.scores import Estimate, bootstrap, ratio, relative
from drivegen.evaluate.pairs import Pair, Pairs
from drivegen.evaluate.report import Figure, Report, fingerprint
from drivegen.evaluate.seen import Images, Moment, Seen, compare_views, see
from drivegen.features.embedding import Embedding
from drivegen.scene import Frame
from drivegen.scene.geometry import Array
from drivegen.support.errors import InputError
from drivegen.support.progress import track

FEW_SCENES = 5
"""With fewer scenes intervals are drawn over frames, and are too narrow, as frames of a scene resemble each other."""

FEW_PICTURES = 50
"""With fewer pictures no distance between sets means anything."""


@dataclass(frozen=True, eq=False)
class Looked:
    """A pair, what is seen in its generated and in its recorded pictures, and which boxes are not as recorded (by number)."""

    pair: Pair
    generated: Seen
    real: Seen
    edited: frozenset[int] = frozenset()


def look(pairs: Pairs, judge: Judge, embedding: Embedding | None) -> list[Looked]:
    """Look at every pair; a recorded frame of which several were generated is looked at once.

    Args:
        pairs: the frames.
        judge: the referee.
        embedding: of the realism figures; None leaves them out.
    """
    looked: list[Looked] = []
    known: dict[tuple[str, tuple[str, ...]], Seen] = {}
    before: dict[str, tuple[str, Moment]] = {}
    for number, pair in enumerate(track(pairs, "looking", len(pairs), "frames")):
        frame = pairs.generated_frame(pair)
        recorded = pairs.real_frame(pair, frame)
        far = pairs[(number + len(pairs) // 2) % len(pairs)] if len(pairs) > 1 else None
        other = pairing.load(pairs.generated_frame(far)) if far is not None else None
        seen = _side("generated", frame, pair.scene, other, judge, embedding, before)
        key = (pair.real, recorded.channels)
        if key not in known:
            there = pairs.real_frame(far, recorded) if far is not None else None
            other = pairing.load(there) if there is not None else None
            known[key] = _side("real", recorded, recorded.scene_name, other, judge, embedding, before)
        looked.append(Looked(pair, seen, known[key], frozenset(_edited(frame, recorded))))
    return looked


def _side(
    side: str, frame: Frame, scene: str, other: Images | None, judge: Judge, embedding: Embedding | None,
    before: dict[str, tuple[str, Moment]],
) -> Seen:  # fmt: skip
    images = pairing.load(frame)
    seen, views = see(frame, images, judge, embedding)
    here = Moment(frame, images, views)
    last = before.get(side)
    seen = compare_views(seen, here, last[1] if last is not None and last[0] == scene else None, other)
    before[side] = (scene, here)
    return seen


def _edited(frame: Frame, recorded: Frame) -> Iterable[int]:
    """Yield the numbers of boxes that are inserted, moved or of another size or class than any recorded one."""
    there = {(box.category, box.global_SE3_object.matrix.tobytes(), box.size_wlh_m.tobytes()) for box in recorded.boxes}
    rounded = {_rounded(box) for box in recorded.boxes}
    for number, box in enumerate(frame.boxes):
        exact = (box.category, box.global_SE3_object.matrix.tobytes(), box.size_wlh_m.tobytes())
        if exact not in there and _rounded(box) not in rounded:
            yield number


def _rounded(box: object) -> tuple[object, ...]:
    pose, size = box.global_SE3_object, box.size_wlh_m  # type: ignore[attr-defined]
    values = [*pose.translation, *pose.rotation[:2, 0], *size]
    return (box.detection_class, *(round(float(v), 2) for v in values))  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False)
class Units:
    """What intervals are drawn over: scenes, or frames where there are few scenes; of: the unit of each pair."""

    kind: str
    of: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(set(self.of))

    def sums(self, rows: Sequence[Array | None], width: int) -> Array:
        """Sum rows (width,) of the pairs by unit: (S, width); None counts nothing."""
        out = np.zeros((self.count, width))
        for unit, row in zip(self.of, rows, strict=True):
            if row is not None:
                out[unit] += row
        return out


def units_of(looked: Sequence[Looked], scene_of: Mapping[str, str]) -> Units:
    """Number the units of pairs: a recorded scene or frame and all that was made of it.

    Args:
        looked: the pairs.
        scene_of: the recorded scene of each recorded sample.
    """
    scenes = [scene_of.get(each.pair.real, each.pair.real) for each in looked]
    by_scene = len(set(scenes)) >= FEW_SCENES
    names = scenes if by_scene else [each.pair.real for each in looked]
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return Units("scenes" if by_scene else "frames", tuple(numbers[name] for name in names))


def evaluate(
    pairs: Pairs, judge: Judge, embedding: Embedding | None, found_at: float = FOUND_AT
) -> tuple[Report, list[Looked]]:
    """Compute every figure of a generated dataset.

    Args:
        pairs: real and generated frames.
        judge: the referee.
        embedding: of the realism figures; None leaves them out.
        found_at: the evidence at which a box is found.

    Returns the report, and what was seen in each pair.
    """
    looked = look(pairs, judge, embedding)
    scene_of = {token: name for name in pairs.real.scenes for token in pairs.real.samples(name)}
    units = units_of(looked, scene_of)
    common = _common(pairs, looked)
    control = {**judge.facts, **common, "found at": found_at, "least pixels": LEAST_PIXELS, "invented from": INVENTED_SHARE}
    prints = {fingerprint(control): control, fingerprint(common): common}
    figures, notes = [], _notes(pairs, looked, units)
    if embedding is not None:
        made, remarks, facts = realism(looked, units, {**embedding.facts, **common})
        figures += made
        notes += remarks
        prints[fingerprint(facts)] = facts
    figures += control_figures(looked, units, found_at, fingerprint(control))
    figures += consistency_figures(looked, units, fingerprint(common))
    about = {
        "real": pairs.real.root.name, "generated": pairs.folder.name, "frames": len(looked),
        "recorded frames": len({each.pair.real for each in looked}), "scenes": len({each.pair.scene for each in looked}),
        "pictures": sum(_pictures(each.generated) for each in looked), "intervals over": units.kind,
        "referee": judge.facts["referee"], "features": None if embedding is None else embedding.facts["features"],
    }  # fmt: skip
    return Report(about, tuple(figures), prints, tuple(notes)), looked


def _pictures(seen: Seen) -> int:
    return 0 if seen.features is None else len(seen.features)


def _common(pairs: Pairs, looked: Sequence[Looked]) -> dict[str, object]:
    samples = sorted({each.pair.real for each in looked})
    split = hashlib.sha256("\n".join(samples).encode()).hexdigest()[:12]
    width, height = pairs.size
    return {
        "picture size": f"{height}x{width}", "crop": "real pictures are scaled to cover that size (Lanczos) and cut",
        "split": f"{len(samples)} recorded samples, {split}",
    }  # fmt: skip


def _notes(pairs: Pairs, looked: Sequence[Looked], units: Units) -> list[str]:
    notes = []
    if pairs.left_out:
        notes.append(f"{pairs.left_out} generated frames are left out: their recorded ones are not in {pairs.real.root.name}")
    if made := _audited(pairs):
        notes.append(made)
    if units.kind == "frames":
        notes.append(f"there are fewer than {FEW_SCENES} scenes: intervals are drawn over frames, and so are too narrow")
    if not any(each.generated.boxes for each in looked):
        notes.append("there is no box of a class that the referee knows, large enough to be looked for: there is no recall")
    if not any("drivable" in each.generated.overlaps for each in looked):
        notes.append("there is no map: drivable ground is not judged")
    return notes


def _audited(pairs: Pairs) -> str:
    """Say what an audit did when the dataset was made; nothing where there was none."""
    path = pairs.folder / "audit.jsonl"
    if not path.is_file():
        return ""
    try:
        lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
        counts = [(len(line["omitted"]), len(line["invented"]), bool(line["frame_dropped"])) for line in lines]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not an audit of drivegen synthesize: {type(error).__name__} {error}") from error
    boxes, strange, frames = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0, 0)
    return (
        f"labels were audited when it was made: {boxes} boxes were not in the pictures, {strange} vehicles had no box, and "
        f"{frames} of {len(lines)} frames were left out for it (audit.jsonl)"
    )


def realism(
    looked: Sequence[Looked], units: Units, facts: Mapping[str, object]
) -> tuple[list[Figure], list[str], dict[str, object]]:
    """Compute FID and KID.

    Args:
        looked: the pairs, with features.
        units: of the pairs.
        facts: what the features depend on.

    Returns figures, notes, and the fingerprint's facts with the numbers of pictures.
    """
    once = {each.pair.real: (each.real.features, unit) for each, unit in zip(looked, units.of, strict=True)}
    made = [(each.generated.features, unit) for each, unit in zip(looked, units.of, strict=True)]
    (a, of_a), (b, of_b) = _pooled(once.values()), _pooled(made)
    facts = {**facts, "real pictures": len(a), "generated pictures": len(b)}
    if min(len(a), len(b)) < 2:
        return [], [f"FID and KID need two pictures of either kind; there are {len(a)} real and {len(b)} generated"], facts
    notes = []
    if min(len(a), len(b)) < FEW_PICTURES:
        notes.append(f"FID and KID of {len(a)} real and {len(b)} generated pictures say next to nothing")
    elif min(len(a), len(b)) <= b.shape[1]:
        notes.append(
            f"with fewer pictures than features ({len(a)} and {len(b)} of {b.shape[1]}) FID is too large, by an amount "
            "that depends on their number: compare it at equal numbers alone"
        )
    own = fingerprint(facts)
    figures = [
        Figure("realism", name, compute(a, b, of_a, of_b), better="low", fingerprint=own) for name, compute in DISTANCES.items()
    ]
    return figures, notes, facts


def _pooled(frames: Iterable[tuple[NDArray[np.float32] | None, int]]) -> tuple[Array, list[int]]:
    """Join the features of frames, with each picture's unit."""
    given = [(features, unit) for features, unit in frames if features is not None]
    return np.concatenate([features for features, _ in given]).astype(np.float64), [
        unit for features, unit in given for _ in features
    ]


def control_figures(looked: Sequence[Looked], units: Units, found_at: float, own: str) -> list[Figure]:
    """Compute IoU, recall of boxes and invented objects.

    Args:
        looked: the pairs.
        units: of the pairs.
        found_at: the evidence at which a box is found.
        own: the fingerprint's name.
    """
    figures = []
    for group in ("drivable", "vehicle"):
        sides = [[side.overlaps.get(group) for side in (each.generated, each.real)] for each in looked]
        figures += _both(f"{group} IoU", sides, units, own)
    counted = [[recalls(side.boxes, found_at) for side in (each.generated, each.real)] for each in looked]
    for each, (generated, _) in zip(looked, counted, strict=True):
        for kind, chosen in (("as recorded", False), ("inserted or moved", True)):
            boxes = [box for box in each.generated.boxes if (box.number in each.edited) == chosen]
            if boxes and (each.edited or not chosen):
                generated[f"edit {kind}"] = recalls(boxes, found_at).get("all", np.zeros(2))
    for name in ("all", "edit as recorded", "edit inserted or moved", *BINS[1:]):
        title = "recall of boxes" if name == "all" else f"recall: {name.partition(' ')[2].replace('_', ' ')}"
        figures += _both(title, [[side.get(name) for side in pair] for pair in counted], units, own)
    counts = [[np.array([len(side.invented), 1.0]) for side in (each.generated, each.real)] for each in looked]
    figures += _both("invented objects per frame", counts, units, own, "low")
    return figures


def consistency_figures(looked: Sequence[Looked], units: Units, own: str) -> list[Figure]:
    """Compute the colour errors between views and along tracks, and what they are between pictures of different frames.

    Args:
        looked: the pairs.
        units: of the pairs.
        own: the fingerprint's name.
    """
    figures = []
    for name, title in (("views", "between overlapping views"), ("tracks", "between frames of a track")):
        for suffix, more in (("", ""), ("_other", ", by chance")):
            sides = [[side.errors.get(name + suffix) for side in (each.generated, each.real)] for each in looked]
            figures += _both(f"colour error {title}{more}", sides, units, own, "low")
    return figures


def _both(name: str, sides: Sequence[Sequence[Array | None]], units: Units, own: str, better: str = "high") -> list[Figure]:
    """Make a figure of [part, whole] of generated and of real frames; none where neither counted anything."""
    made, real = (units.sums([pair[i] for pair in sides], 2) for i in (0, 1))
    if not made[:, 1].sum() and not real[:, 1].sum():
        return []
    values = [_some(sums, ratio) for sums in (made, real)]
    share = _some(np.concatenate([made, real], 1), relative) if all(v is not None for v in values) else None
    return [Figure("consistency" if name.startswith("colour") else "control", name, values[0], values[1], share, better, own)]


def _some(sums: Array, figure: Callable[[Array], Array]) -> Estimate | None:
    found = bootstrap(sums, figure)
    return found if np.isfinite(found.value) else None
