"""Whole exports: what is chosen, refused, kept and said."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from drivegen.catalog import formats
from drivegen.cli.main import app
from drivegen.export import Exporter, Part, export
from drivegen.support.errors import InputError
from tests.export.conftest import Exported, change, read, tables, write

FORMATS = ["bevformer", "bevfusion", "coco", "mmdet3d", "streampetr"]


def run(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == status, (result.output, result.exception)
    return " ".join(result.output.split())


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.parametrize("form", FORMATS)
def test_the_command_line_writes_a_file_per_split(root: Path, tmp_path: Path, form: str) -> None:
    said = run("export", root, "--format", form, "--out", tmp_path / "out ü")
    expected = {
        "coco": ["instances_{}.json"], "bevfusion": ["nuscenes_infos_{}.pkl"],
        "mmdet3d": ["1.0.0rc6/nuscenes_infos_{}.pkl", "1.0.0rc6/nuscenes_infos_{}_mono3d.coco.json", "nuscenes_infos_{}.pkl"],
        "streampetr": ["nuscenes2d_temporal_infos_{}.pkl"], "bevformer": ["nuscenes_infos_temporal_{}.pkl"],
    }[form]  # fmt: skip
    assert names(tmp_path / "out ü") == sorted(name.format(split) for split in ("train", "val") for name in expected)
    assert "'animal', which is none of the ten" in said
    assert ("without lidar or radar points" in said) == (form != "coco")


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_data_gives_the_same_bytes(exported: Exported, root: Path, tmp_path: Path, form: str) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved)
    export(moved, tmp_path / "out", form, split={"train": ["alpha", "beta"]})
    first = exported(form)
    assert names(first) == names(tmp_path / "out")
    assert all((first / name).read_bytes() == (tmp_path / "out" / name).read_bytes() for name in names(first))


def test_existing_files_stay_unless_replaced(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "nuscenes_infos_val.pkl"
    path.write_bytes(b"mine")
    said = run("export", root, "--format", "bevfusion", "--out", tmp_path, status=2)
    assert "nuscenes_infos_val.pkl exists already" in said
    assert names(tmp_path) == ["nuscenes_infos_val.pkl"]
    assert path.read_bytes() == b"mine"
    run("export", root, "--format", "bevfusion", "--out", tmp_path, "--replace")
    assert len(read(path)["infos"]) == 2


def test_a_failing_disk_leaves_what_was_there(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "instances_val.json").write_bytes(b"mine")
    real = os.fsync
    calls: list[int] = []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write to .*No space left"):
        export(root, tmp_path, "coco", replace=True)
    assert names(tmp_path) == ["instances_val.json"]
    assert (tmp_path / "instances_val.json").read_bytes() == b"mine"


def test_out_may_be_the_dataset(root: Path, tmp_path: Path) -> None:
    copy = tables(root, tmp_path / "data")
    before = names(copy)
    export(copy, copy, "mmdet3d")
    assert set(before) < set(names(copy))


def test_links_and_files_in_the_way_are_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "instances_train.json").symlink_to(tmp_path / "victim")
    for arguments in ((tmp_path, "--replace"), (tmp_path / "victim",)):
        run("export", root, "--format", "coco", "--out", *arguments, status=2)
    assert (tmp_path / "victim").read_text() == "mine"


def test_the_prefix_goes_before_every_path(root: Path, tmp_path: Path) -> None:
    for prefix, start in (("data/more/", "data/more/samples/"), ("", "samples/"), ("/abs", "/abs/samples/")):
        export(root, tmp_path, "bevfusion", prefix=prefix, replace=True)
        info = read(tmp_path / "nuscenes_infos_train.pkl")["infos"][1]
        paths = [info["lidar_path"], *(one["data_path"] for one in (*info["cams"].values(), *info["sweeps"]))]
        assert all(path.startswith(start) for path in paths), paths
    with pytest.raises(InputError, match="control characters"):
        export(root, tmp_path, "bevfusion", prefix="a\nb")


def scenes(path: Path) -> list[str]:
    return sorted({image["scene"] for image in json.loads(path.read_text())["images"]})


def test_splits_by_name(root: Path, tmp_path: Path) -> None:
    export(root, tmp_path / "a", "coco", split={"train": ["synthetic_val"], "val": ["alpha"]})
    assert scenes(tmp_path / "a" / "instances_train.json") == ["beta"]
    assert scenes(tmp_path / "a" / "instances_val.json") == ["alpha"]
    said = run("export", root, "--format", "coco", "--out", tmp_path / "b", "--train", "alpha")
    assert names(tmp_path / "b") == ["instances_train.json"]
    assert "1 × scene that is in no split: left out" in said
    for wrong, why in (
        (("--train", "alpha", "--val", "synthetic_train"), "would be in train and in val"),
        (("--train", "alhpa"), "neither a split nor a scene"), (("--val", "mini_val"), "has no scene"),
    ):  # fmt: skip
        assert why in run("export", root, "--format", "coco", "--out", tmp_path / "c", *wrong, status=2)
    assert not (tmp_path / "c").exists()
    with pytest.raises(InputError, match="is none of train, val, test"):
        export(root, tmp_path / "c", "coco", split={"training": ["alpha"]})


def test_test_scenes_have_no_annotations(root: Path, tmp_path: Path) -> None:
    for form in FORMATS:
        export(root, tmp_path / form, form, split={"test": ["alpha"]})
    info = read(tmp_path / "bevformer" / "nuscenes_infos_temporal_test.pkl")["infos"][0]
    assert "cams" in info
    assert not {"gt_boxes", "valid_flag"} & set(info)
    assert "instances" not in read(tmp_path / "mmdet3d" / "nuscenes_infos_test.pkl")["data_list"][0]
    assert json.loads((tmp_path / "coco" / "instances_test.json").read_text())["annotations"] == []


def test_without_a_file_of_splits_nuscenes_own_count(tmp_path: Path) -> None:
    root = write(tmp_path, "scene-0103", "scene-0061", "own")  # of nuScenes' val, of its train, of neither
    said = run("export", root, "--format", "coco", "--out", tmp_path / "out")
    assert scenes(tmp_path / "out" / "instances_val.json") == ["scene-0103"]
    assert scenes(tmp_path / "out" / "instances_train.json") == ["own", "scene-0061"]
    assert "1 × scene that is in no split: it goes to train" in said


@pytest.mark.parametrize("text", ["[", "[]", '{"train": "alpha"}', '{"train": [1]}'])
def test_a_damaged_file_of_splits_is_refused(root: Path, tmp_path: Path, text: str) -> None:
    copy = tables(root, tmp_path / "data")
    (copy / "v1.0-mini" / "splits.json").write_text(text)
    assert "splits.json" in run("export", copy, "--format", "coco", "--out", tmp_path / "out", status=2)


def test_without_a_lidar_only_coco(root: Path, tmp_path: Path) -> None:
    copy = tables(root, tmp_path / "data")
    change(copy, "sample_data", lambda rows: [row for row in rows if "LIDAR_TOP" not in row["filename"]])
    for form in FORMATS:
        if form == "coco":
            export(copy, tmp_path / form, form)
        else:
            with pytest.raises(InputError, match="has no LIDAR_TOP"):
                export(copy, tmp_path / form, form)
            assert not (tmp_path / form).exists()


def test_a_lidar_without_links_still_has_sweeps(root: Path, tmp_path: Path) -> None:
    copy = tables(root, tmp_path / "data")
    change(copy, "sample_data", lambda rows: [row | {"prev": "", "next": ""} for row in rows])
    export(copy, tmp_path / "out", "streampetr", split={"train": ["alpha"]})
    assert [len(info["sweeps"]) for info in read(tmp_path / "out" / "nuscenes2d_temporal_infos_train.pkl")["infos"]] == [
        0,
        1,
        2,
    ]


def test_a_chain_that_comes_back_is_refused(root: Path, tmp_path: Path) -> None:
    copy = tables(root, tmp_path / "data")
    change(copy, "sample_data", lambda rows: [row | {"prev": row["token"]} for row in rows])
    with pytest.raises(InputError, match="comes back"):
        export(copy, tmp_path / "out", "bevfusion")


def test_times_that_do_not_increase_are_refused_for_sequences(root: Path, tmp_path: Path) -> None:
    copy = tables(root, tmp_path / "data")
    change(copy, "sample", lambda rows: [row | {"timestamp": 1_600_000_000_000_000} for row in rows])
    export(copy, tmp_path / "out", "bevfusion")
    for form in ("streampetr", "bevformer"):
        with pytest.raises(InputError, match="must increase"):
            export(copy, tmp_path / "out", form)


def test_missing_pictures_are_refused_or_left_out(root: Path, tmp_path: Path) -> None:
    copy = tables(root, tmp_path / "data")
    change(copy, "sample_data", lambda rows: [
        row | ({"filename": "samples/CAM_BACK/gone.png"} if row["filename"].startswith("samples/CAM_BACK/beta") else {})
        for row in rows
    ])  # fmt: skip
    assert "gone.png is missing" in run("export", copy, "--format", "bevfusion", "--out", tmp_path / "out", status=2)
    assert not (tmp_path / "out").exists()
    said = run("export", copy, "--format", "bevfusion", "--out", tmp_path / "out", "--skip-missing")
    assert "scene left out: of 'beta'" in said
    assert names(tmp_path / "out") == ["nuscenes_infos_train.pkl"]


def test_a_missing_sweep_is_said_and_unknown_counts_are_counted(root: Path, tmp_path: Path) -> None:
    copy = tables(root, tmp_path / "data")
    export(copy, tmp_path / "known", "bevfusion")
    change(copy, "sample_annotation", lambda rows: [row | {"num_lidar_pts": None} for row in rows])
    export(copy, tmp_path / "unknown", "bevfusion")
    known, unknown = ((tmp_path / name / "nuscenes_infos_train.pkl").read_bytes() for name in ("known", "unknown"))
    assert known == unknown
    (copy / "samples").unlink()
    shutil.copytree(root / "samples", copy / "samples")
    shutil.rmtree(copy / "samples" / "LIDAR_TOP")
    report = export(copy, tmp_path / "b", "bevfusion")
    assert report.notes["sweep that is not there: trainers with lidar cannot read it"] == 5


def test_wrong_arguments_end_with_status_2(root: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    for arguments, why in (
        ((root, "--format", "cocoo", *out), "did you mean 'coco'?"), ((root, *out), "format"),
        ((root, "--format", "coco"), "out"), ((root, "--format", "coco", "--out", ""), "empty"),
        ((tmp_path / "none", "--format", "coco", *out), "not a folder"), ((tmp_path, "--format", "coco", *out), "no v1.0-"),
        ((root, "--format", "coco", *out, "--version", "v1.0-test"), "no version"),
        ((root, "--format", "coco", *out, "--options", "size=3"), "unknown"),
        ((root, "--format", "bevformer", *out, "--options", "can_bus"), "KEY=VALUE"),
    ):  # fmt: skip
        assert why in run("export", *arguments, status=2)
    assert not (tmp_path / "out").exists()


class Tokens(Exporter):
    """A line per sample."""

    def __init__(self, end: str = "\n") -> None:
        """Choose how a line ends.

        Args:
            end: what is written after each token.
        """
        self.end = end

    def names(self, split: str) -> tuple[str, ...]:
        return (f"lists/{split}.txt",)

    def contents(self, part: Part) -> Mapping[str, bytes]:
        text = "".join(sample.token + self.end for sample in part.read())
        return {self.names(part.name)[0]: text.encode()}


def test_a_format_of_ones_own(root: Path, nusc: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = export(root, tmp_path / "a", Tokens())
    assert [line[:4] for line in report.files] == [("lists/train.txt", "train", 1, 3), ("lists/val.txt", "val", 1, 2)]
    info = tmp_path / "tokens-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tokens\nVersion: 1.0\n")
    points = f"[{formats.OFFERS.group}]\ntokens = {__name__}:Tokens\nbroken = no_such_module:Thing\n"
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(tmp_path)
    run("export", root, "--format", "tokens", "--out", tmp_path / "b", "--options", "end=;")
    assert (tmp_path / "b/lists/train.txt").read_text() == (tmp_path / "a/lists/train.txt").read_text().replace("\n", ";")
    assert "cannot be imported" in run("export", root, "--format", "broken", "--out", tmp_path / "c", status=2)
    said = run("exporters")
    assert "tokens" in said
    assert "disabled" in said


def test_the_file_of_splits_comes_before_nuscenes_own(tmp_path: Path) -> None:
    root = write(tmp_path, "scene-0103", "scene-0061")
    (root / "v1.0-mini" / "splits.json").write_text(json.dumps({"train": ["scene-0103"], "val": ["scene-0061"]}))
    for split in (None, {"train": ["train"], "val": ["val"]}):
        export(root, tmp_path / "out", "coco", split=split, replace=True)
        assert scenes(tmp_path / "out" / "instances_train.json") == ["scene-0103"]
        assert scenes(tmp_path / "out" / "instances_val.json") == ["scene-0061"]


def test_samples_with_other_cameras_are_said(root: Path, tmp_path: Path) -> None:
    copy = tables(root, tmp_path / "data")
    change(copy, "sample_data", lambda rows: [row for row in rows if not row["filename"].startswith("samples/CAM_BACK/beta")])
    report = export(copy, tmp_path / "out", "bevfusion", split={"train": ["alpha", "beta"]})
    assert [count for note, count in report.notes.items() if "other cameras than most (CAM_FRONT, CAM_FRONT_RIGHT" in note] == [
        2
    ]
