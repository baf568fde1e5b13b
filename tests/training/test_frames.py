"""Which frames of which datasets are trained on, and what is read of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivegen.datasets import nuscenes
from drivegen.support.errors import InputError
from drivegen.training.frames import Sources
from tests.street import street_scene

SIZE = (32, 56)


def test_a_split_means_its_scenes_that_are_there(tmp_path: Path) -> None:
    nuscenes.write([street_scene(1, name) for name in ("scene-0061", "scene-0103", "mine")], tmp_path)
    for names, held in ((["mini_val"], {"scene-0103"}), (["mini_val", "mine"], {"scene-0103", "mine"})):
        sources = Sources([tmp_path], SIZE, val_scenes=names)
        assert {sources.frame(ref).scene_name for ref in sources.val} == held
    for wrong, hint in (("minee", "did you mean 'mine'"), ("test", "'test', which is in none")):
        with pytest.raises(InputError, match=hint):
            Sources([tmp_path], SIZE, val_scenes=[wrong])
