"""The table's figures of people: who is in the renders, and how many of them generated pictures show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from drivegen.evaluate.cities import City
from drivegen.evaluate.figures import Figure, figure_of, present
from drivegen.evaluate.images import Images, Store
from drivegen.evaluate.labels import Place, other_places
from drivegen.evaluate.metrics.people import BINS, Person, people_in
from drivegen.evaluate.metrics.scores import bootstrap, ratio, relative
from drivegen.evaluate.people import PeopleReferee
from drivegen.evaluate.variants import ALL, Key
from drivegen.support.progress import track

Mask = NDArray[np.bool_]
"""Where the second referee sees people: (H, W)."""


def people_figures(
    referee: PeopleReferee, city: City, store: Store, columns: Mapping[str, Sequence[Key]], scenes: int
) -> list[Figure]:
    """Look for the people of the city in renders, in generated pictures and in reconstructions, and compute the figures.

    Args:
        referee: finds people.
        city: the frames and their renders.
        store: the generated pictures, under the columns' names, and the renders' reconstructions under "vae".
        columns: the frames of each column of the table.
        scenes: number of scenes.
    """
    people: dict[Place, list[Person]] = {}
    renders: dict[Place, Mask] = {}
    for key in track(sorted({key for keys in columns.values() for key in keys}), "looking for people in renders"):
        frame = city.frames[key]
        views = {channel: city.view(key, channel) for channel in frame.channels}
        people |= {(key, channel): people_in(frame, view) for channel, view in views.items()}
        renders |= _masks(referee, key, {channel: view.rgb for channel, view in views.items()})

    def look(variant: str, keys: Sequence[Key]) -> dict[Place, Mask]:
        made: dict[Place, Mask] = {}
        for key in track(keys, f"looking for people in {variant}"):
            made |= _masks(referee, key, store.load(variant, key.name, city.frames[key]))
        return made

    rebuilt = recall_figures(people, look("vae", sorted({key for key, _ in people})), renders, scenes, ALL)
    out = [replace(figure, name=f"vae_{figure.name}") for figure in rebuilt if figure.name.endswith("_relative")]
    for column, keys in columns.items():
        out += recall_figures(people, look(column, keys), renders, scenes, column)
    return out


def _masks(referee: PeopleReferee, key: Key, images: Images) -> dict[Place, Mask]:
    return {(key, channel): mask for channel, mask in zip(images, referee(images.values()), strict=True)}


def recall_figures(
    people: Mapping[Place, Sequence[Person]], made: Mapping[Place, Mask], renders: Mapping[Place, Mask], scenes: int,
    column: str,
) -> list[Figure]:  # fmt: skip
    """Compute which share of people is found, relative to renders, and by chance: in generated pictures of other scenes.

    Args:
        people: who is in each view.
        made: the second referee's masks (H, W) of generated views; those that are missing do not count.
        renders: its masks of renders of the same views.
        scenes: number of scenes.
        column: of the table.
    """
    sums = {name: np.zeros((scenes, 6)) for name in BINS}
    for place, persons in people.items():
        if place not in made:
            continue
        others = other_places(place, made, scenes)
        for person in persons:
            by_chance = [person.found_in(made[other]) for other in others]
            row = [person.found_in(made[place]), 1, person.found_in(renders[place]), 1, sum(by_chance), len(by_chance)]
            for name in person.bins:
                sums[name][place[0].scene] += row
    keys = sorted({key for key, _ in made})
    out = []
    for name, counts in sums.items():
        there = present(counts, keys)
        if not there[:, 1].sum():
            continue
        out.append(figure_of(f"{name}_recall_relative", column, bootstrap(there[:, :4], relative), len(keys)))
        for i, which in enumerate(("", "_renders", "_other_frames")):
            out.append(figure_of(f"{name}_recall{which}", column, bootstrap(there[:, 2 * i : 2 * i + 2], ratio), len(keys)))
        out.append(Figure(f"{name}_counted", column, float(there[:, 1].sum()), frames=len(keys), scenes=len(there)))
    return out
