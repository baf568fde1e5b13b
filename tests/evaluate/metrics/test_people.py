"""People in pictures of the city: who counts, what finding them is, and figures by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from drivegen.evaluate import people
from drivegen.evaluate.metrics.people import Person, people_in
from drivegen.evaluate.people import PeopleNet, PeopleReferee, people_mask
from drivegen.evaluate.people_figures import recall_figures
from drivegen.evaluate.variants import Key
from drivegen.testing.frames import frame
from drivegen.world import CLASSES, View

H, W = 64, 112


def square(top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_people_on_foot_and_on_two_wheels_count_and_parked_cycles_do_not() -> None:
    street = frame(0, views=2)
    kinds = {
        "human.pedestrian.adult": "pedestrian.moving", "vehicle.bicycle": "cycle.with_rider",
        "vehicle.motorcycle": "cycle.without_rider", "vehicle.car": "vehicle.parked",
    }  # fmt: skip
    boxes = [replace(street.boxes[0], category=name, attribute=attribute) for name, attribute in kinds.items()]
    street = replace(street, boxes=tuple(boxes))
    instances = np.zeros((H, W), np.int32)
    for number in range(1, 5):
        instances[square(10, 20 * number, 8)] = number
    instances[0, :2] = 1  # seen through a gap: the same person
    classes, depth = np.full((H, W), CLASSES.index("road"), np.uint8), np.ones((H, W), np.float32)
    view = View(np.zeros((H, W, 3), np.uint8), classes, instances, depth)
    found = people_in(street, view)
    assert [(person.kind, int(person.pixels.sum())) for person in found] == [("pedestrian", 66), ("rider", 64)]
    assert (people_mask(street, view) == np.isin(instances, (1, 2))).all()
    instances[instances == 1] = 0
    instances[0, :2] = 1
    assert [person.kind for person in people_in(street, view)] == ["rider"], "two pixels are not looked for"


@pytest.mark.parametrize(("side", "name"), [(2, "small"), (4, "medium"), (7, "large")])
def test_a_person_has_a_size_and_is_found_by_a_quarter(side: int, name: str) -> None:
    person = Person("pedestrian", square(5, 5, side))
    assert person.bins == ("people", "pedestrian", name)
    quarter = np.flatnonzero(person.pixels)[: -(-(side**2) // 4)]
    mask = np.zeros(H * W, bool)
    mask[quarter] = True
    assert person.found_in(mask.reshape(H, W))
    mask[quarter[0]] = False
    assert not person.found_in(mask.reshape(H, W))


def test_recall_is_that_of_renders_shared_out_and_chance_is_in_other_scenes() -> None:
    """Three scenes, two views each; everybody is found in renders but one, and half of those in generated pictures."""
    here, there = square(10, 10, 8), square(30, 60, 8)
    nobody = np.zeros((H, W), bool)
    people, made, renders = {}, {}, {}
    for scene in range(3):
        for channel, mask in (("A", here), ("B", there)):
            place = (Key(scene, 0), channel)
            people[place] = [Person("rider" if channel == "B" else "pedestrian", mask)]
            made[place] = mask if channel == "A" else nobody
            renders[place] = mask
    renders[Key(2, 0), "B"] = nobody
    values = {figure.name: figure.value for figure in recall_figures(people, made, renders, 3, "all")}
    assert values["people_recall"] == pytest.approx(3 / 6)
    assert values["people_recall_renders"] == pytest.approx(5 / 6)
    assert values["people_recall_relative"] == pytest.approx(3 / 5)
    assert values["pedestrian_recall_relative"] == 1
    assert values["rider_recall"] == 0
    assert values["pedestrian_recall_other_frames"] == 1, "they stand at the same place in every scene"
    assert values["people_counted"] == 6
    assert not any(name.startswith("small") for name in values)


def test_a_batch_is_judged_as_its_pictures_are_and_any_size_is_read() -> None:
    torch.manual_seed(0)
    referee = PeopleReferee(PeopleNet())
    pictures = np.random.default_rng(0).integers(0, 256, (9, 50, 70, 3), dtype=np.uint8)
    said = referee(pictures)
    assert said.shape == (9, 50, 70)
    assert said.dtype == bool
    assert all((referee([picture])[0] == mask).mean() > 0.999 for picture, mask in zip(pictures, said, strict=True))


def test_the_committed_referee_of_people_is_small_and_of_cities_that_measure_nothing() -> None:
    assert people.ASSET.stat().st_size <= 1_000_000
    about = json.loads(people.ASSET.with_suffix(".json").read_text())
    assert about["sha256"] in (Path(__file__).parents[3] / "docs/decisions/measuring.md").read_text(encoding="utf-8")
    found, of = map(sum, zip(*(about["metrics"]["recall_of_people"][name] for name in ("medium", "large")), strict=True))
    assert found / of > 0.6
    people.load()
