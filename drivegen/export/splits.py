"""Which scenes are for training, which for validation: as named, as splits.json says, or as nuScenes itself does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from drivegen.datasets.nuscenes.read import Dataset
from drivegen.support.errors import InputError, nearest

SPLITS = ("train", "val", "test")

Scenes = dict[str, tuple[str, ...]]
"""Scenes by split, in the dataset's order."""


def choose(data: Dataset, named: Mapping[str, Sequence[str]]) -> tuple[Scenes, tuple[str, ...]]:
    """Return the scenes of each split, and those that are of none.

    Where any is named, the named ones alone count. Else a scene is where the dataset's splits.json has it, whose names end in
    train, val or test; then where nuScenes' own splits have it; then in train.

    Args:
        data: the dataset.
        named: for train, val and test, names of splits (the file's or nuScenes' own) or of scenes.

    Raises InputError for a name that means nothing here, and for a scene that would be in two splits.
    """
    from nuscenes.utils.splits import create_splits_scenes

    own, published = data.own_splits, create_splits_scenes()
    if any(named.values()):
        found = {split: _members(data, own, published, names) for split, names in named.items() if names}
        _refuse_twice(found)
        chosen = {scene for members in found.values() for scene in members}
        return found, tuple(scene for scene in data.scenes if scene not in chosen)
    listed = {split: [s for name, members in own.items() if _ends(name, split) for s in members] for split in SPLITS}
    _refuse_twice({split: tuple(dict.fromkeys(members)) for split, members in listed.items()})
    by_split: dict[str, list[str]] = {split: [] for split in SPLITS}
    unknown = []
    for scene in data.scenes:
        split = next((s for table in (listed, published) for s in SPLITS if scene in table[s]), None)
        if split is None:
            unknown.append(scene)
        by_split[split or "train"].append(scene)
    return {split: tuple(scenes) for split, scenes in by_split.items() if scenes}, tuple(unknown)


def _ends(name: str, split: str) -> bool:
    return name == split or name.endswith((f"_{split}", f"-{split}"))


def _members(
    data: Dataset, own: Mapping[str, list[str]], published: Mapping[str, list[str]], names: Sequence[str]
) -> tuple[str, ...]:
    wanted: set[str] = set()
    for name in names:
        members = own.get(name) or published.get(name) or ([name] if name in data.scenes else None)
        if members is None:
            known = [*own, *published, *data.scenes]
            raise InputError(
                f"{name!r} is neither a split nor a scene of {data.root / data.version}{nearest(name, known)}; its splits are "
                f"{', '.join(own) or 'nuScenes’ own'}"
            )
        if not set(members) & set(data.scenes):
            raise InputError(f"split {name!r} has no scene of {data.root / data.version}; name another, or scenes")
        wanted |= set(members)
    return tuple(scene for scene in data.scenes if scene in wanted)


def _refuse_twice(found: Mapping[str, Sequence[str]]) -> None:
    where: dict[str, str] = {}
    for split, scenes in found.items():
        for scene in scenes:
            if where.setdefault(scene, split) != split:
                raise InputError(f"scene {scene!r} would be in {where[scene]} and in {split}; it can be in one of them")
