"""The label audit while a dataset is made: boxes flagged, weighted or dropped, phantoms painted over or dropped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from drivegen import synthesis
from drivegen.cli.main import app
from drivegen.datasets import nuscenes
from drivegen.evaluate.judges import OTHER, Judge
from drivegen.evaluate.metrics.control import Invented
from drivegen.evaluate.referee import GROUPS
from drivegen.pipeline.pipeline import Pipeline
from drivegen.support.errors import InputError
from drivegen.synthesis import Recipe, audit
from drivegen.synthesis.recipe import LabelAudit, Variant
from tests.synthesis.test_synthesis import root, tiny  # noqa: F401  (fixtures)

PHANTOM = Invented("CAM_BACK", (2, 3, 12, 9), 60, 0.05)


@pytest.fixture(autouse=True)
def left_eyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A referee that sees a vehicle in the left half of every picture, and a phantom in the second frame of each scene."""

    def label(pictures):
        labels = np.full(pictures.shape[:3], OTHER, np.uint8)
        labels[:, :, : labels.shape[2] // 2] = GROUPS.index("vehicle")
        return labels

    judge = Judge({"referee": "left-eyed"}, ("drivable", "vehicle"), label)
    first = audit.judged

    def judged(rules, frame, pictures):
        later = frame.timestamp_us % 1_000_000 == 500_000
        return replace(first(rules, frame, pictures), invented=(PHANTOM,) if later else ())

    monkeypatch.setattr(audit, "referee", lambda: judge)
    monkeypatch.setattr(audit, "judged", judged)


def make(root: Path, tiny: Path, out: Path, **rules: str) -> Path:  # noqa: F811
    recipe = Recipe(name="audited", scenes=("alpha",), variants={"plain": Variant()}, audit=LabelAudit(found_at=0.5, **rules))
    source, pipe = nuscenes.open(root), Pipeline.from_pretrained(tiny, dtype="float32")
    plan = synthesis.plan.make(source, recipe, pipe, 1)
    assert plan.facts["referee"] == {"referee": "left-eyed"}
    synthesis.synthesize(source, out, recipe, pipe, plan)
    assert [p for p in synthesis.verify(out) if p.severity == "error"] == []
    return out


def table(out: Path, name: str) -> list[dict]:
    return json.loads((out / "v1.0-mini" / f"{name}.json").read_text())


def lines(out: Path) -> list[dict]:
    return [json.loads(text) for text in (out / "audit.jsonl").read_text().splitlines()]


def omitted(out: Path) -> set[tuple[str, str]]:
    return {(line["sample_token"], box["instance_token"]) for line in lines(out) for box in line["omitted"]}


def test_boxes_are_flagged_and_weighted(root: Path, tiny: Path, tmp_path: Path) -> None:  # noqa: F811
    flagged = make(root, tiny, tmp_path / "flag")
    rows = table(flagged, "sample_annotation")
    missing = {(row["sample_token"], row["instance_token"]) for row in rows if row["omitted"]}
    assert missing == omitted(flagged) != set()
    assert all(row["evidence"] is None or row["omitted"] == (row["evidence"] < 0.5) for row in rows)
    assert any(row["evidence"] is None for row in rows)  # people: the referee does not know them
    assert any(row["evidence"] == 1 for row in rows)
    weighted = table(make(root, tiny, tmp_path / "weight", omitted="weight"), "sample_annotation")
    assert all(0 <= row["weight"] <= 1 for row in weighted)
    assert sum(row["weight"] < 1 for row in weighted) == len(missing)
    from nuscenes.nuscenes import NuScenes

    assert len(NuScenes("v1.0-mini", str(flagged), verbose=False).sample_annotation) == len(rows)


def test_nothing_of_a_phantom_shows_through() -> None:
    verdict = audit.Verdict(LabelAudit(invented="mask"), (), (PHANTOM,))
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    other = picture.copy()
    other[1:11, :14] = 255 - other[1:11, :14]
    painted = [np.asarray(audit.masked({"CAM_BACK": Image.fromarray(p)}, verdict)["CAM_BACK"]) for p in (picture, other)]
    np.testing.assert_array_equal(painted[0], painted[1])


@pytest.mark.slow
def test_boxes_are_dropped_with_their_points(root: Path, tiny: Path, tmp_path: Path) -> None:  # noqa: F811
    whole, fewer = make(root, tiny, tmp_path / "flag"), make(root, tiny, tmp_path / "drop", omitted="drop")
    all_rows = {(row["sample_token"], row["instance_token"]): row for row in table(whole, "sample_annotation")}
    assert len(lines(whole)) == len(lines(fewer)) == 2
    # The tokens differ, as the plans do; places tell which boxes are the same.
    gone = {tuple(all_rows[key]["translation"]) for key in omitted(whole)}
    kept = {tuple(row["translation"]) for row in table(fewer, "sample_annotation")}
    assert kept == {tuple(row["translation"]) for row in all_rows.values()} - gone
    before, after = nuscenes.open(whole), nuscenes.open(fewer)
    for a, b in zip(before.samples(), after.samples(), strict=True):
        old, new = before.frame(a), after.frame(b)
        dropped = [box for box in old.boxes if tuple(box.global_SE3_object.translation) in gone]
        cloud = np.fromfile(new.lidar_path, np.float32).reshape(-1, 5)[:, :3]
        points = (new.global_SE3_ego @ new.ego_SE3_lidar).transform(cloud)
        for box in dropped:
            inside = np.abs(box.global_SE3_object.inverse().transform(points)) < box.size_wlh_m[[1, 0, 2]] / 2
            assert not inside.all(1).any()


def test_phantoms_are_painted_over(root: Path, tiny: Path, tmp_path: Path) -> None:  # noqa: F811
    plain, masked = (nuscenes.open(make(root, tiny, tmp_path / name, invented=name)) for name in ("keep", "mask"))
    for before, after in zip(plain.samples(), masked.samples(), strict=True):
        frames = plain.frame(before), masked.frame(after)
        for channel in frames[0].channels:
            old, new = (np.asarray(Image.open(f.camera(channel).image_path)).astype(int) for f in frames)
            changed = np.zeros(old.shape[:2], bool)
            if channel == "CAM_BACK" and frames[0].timestamp_us % 1_000_000 == 500_000:
                changed[1:11, :14] = True  # the rectangle, and two pixels around it
                assert (new != old)[1:11, :14].any(-1).mean() > 0.9
            np.testing.assert_array_equal(old[~changed], new[~changed])


def test_frames_with_phantoms_are_dropped(root: Path, tiny: Path, tmp_path: Path) -> None:  # noqa: F811
    out = make(root, tiny, tmp_path / "drop", invented="drop")
    dropped = {line["sample_token"] for line in lines(out) if line["frame_dropped"]}
    tokens = {row["token"] for row in table(out, "sample")}
    assert (len(dropped), len(tokens), tokens & dropped) == (1, 1, set())
    assert not [path for path in (out / "samples").rglob("*") if any(token in path.name for token in dropped)]
    assert {row["nbr_samples"] for row in table(out, "scene")} == {1}
    (out / "audit.jsonl").write_text("no audit")
    with pytest.raises(InputError, match=r"audit\.jsonl"):
        synthesis.verify(out)


def test_a_dataset_of_phantoms_alone_is_refused(
    root: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    judged = audit.judged
    monkeypatch.setattr(audit, "judged", lambda *given: replace(judged(*given), invented=(PHANTOM,)))
    with pytest.raises(InputError, match="drops every frame"):
        make(root, tiny, tmp_path / "out", invented="drop")


def test_the_command_says_what_it_found(root: Path, tiny: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "r.yaml").write_text("name: r\nscenes: [alpha]\nvariants: {plain: {}}\n")
    given = [str(root), str(tmp_path / "out"), "--recipe", str(tmp_path / "r.yaml"), "--model", str(tiny), "--workers", "1"]
    done = CliRunner().invoke(app, ["synthesize", *given, "--audit"])
    assert done.exit_code == 0, done.output
    assert "boxes that were looked for are not in the pictures: flagged" in " ".join(done.output.split())
    again = CliRunner().invoke(app, ["synthesize", *given])
    assert again.exit_code == 2
    assert "recipe.audit" in again.output
    (tmp_path / "r.yaml").write_text("name: r\nvariants: {plain: {}}\naudit: {omitted: hide}\n")
    assert "hide" in CliRunner().invoke(app, ["synthesize", *given]).output


def test_recipes_without_an_audit_keep_their_digest() -> None:
    recipe = Recipe(name="r", variants={"plain": Variant()})
    assert "audit" not in recipe.to_dict()
    assert recipe.sha256 != replace(recipe, audit=LabelAudit()).sha256
