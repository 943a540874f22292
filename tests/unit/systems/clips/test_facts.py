"""What tables and remarks say about a clip: its damage, its length and its region."""

from pathlib import Path
from typing import Any

import pytest

from foldwise.files import read_json
from foldwise.hdf5 import open_hdf5
from foldwise.settings import validate
from foldwise.systems.base import REMARKS
from foldwise.systems.clips.learner import ClipsLearner
from foldwise.systems.clips.report import remarks
from foldwise.systems.clips.results import ClipsResults
from foldwise.systems.clips.settings import Export, Model
from foldwise.systems.clips.system import Clips
from ultrasound import CLASSES, SMALL, frames_of
from videos import write_video


@pytest.mark.parametrize("smallest", [0.01, 0.9])
def test_damage_and_regions_are_shown(tmp_path: Path, smallest: float) -> None:
    """The fan is a trapezoid in rows 3 to 44 of frames of 64×48, stored at half their size."""
    path = write_video(tmp_path / "new.mkv", frames_of("high", 3, count=60), gop=10)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2 : len(whole) // 2 + 1500] = bytes(1500)
    path.write_bytes(whole)
    regions = {"method": "fan", "smallest": smallest}
    state: dict[str, Any] = {
        "prepared": {
            "data": {"images_fps": None},
            "cache": {"size": 24, "on_damage": "drop"},
            "prepare": {"regions": regions},
        },
        "settings": {**SMALL, "input": "crop"},
    }
    [entry] = Clips().new_cases(path).entries
    source = Clips().prepare_new(entry, state, tmp_path / "work")
    with open_hdf5(source) as file:
        lost = 60 - len(file["time_s"])
    assert 0 < lost < 50
    found = smallest == 0.01
    noticed = [f"{lost} damaged frame(s) left out", *([] if found else ["no region found"])]
    assert read_json(tmp_path / "work" / REMARKS) == noticed
    learner = ClipsLearner(validate(Model, state["settings"]), {"classes": CLASSES, "sentences": []})
    learner.predict([learner.network().eval()], str(source), tmp_path / "p.h5")
    tables = ClipsResults().export_case(tmp_path / "p.h5", entry, Export(), {}, tmp_path)
    [row] = tables["predictions.csv"]
    assert (row["frames"], row["damaged"]) == (60 - lost, lost)
    # The times of the others stay.
    assert row["seconds"] == pytest.approx(60 / 25, abs=0.1)
    if found:
        assert [int(edge) for edge in row["region"].split()] == pytest.approx([6, 3, 59, 45], abs=3)
        assert row["review"] == ""
    else:
        assert (row["region"], row["review"]) == ("", "no region found")
    [remark] = remarks({"new": {}, "not cached yet": {}}, tmp_path, tmp_path / "work" / "frames")
    assert (remark.case, remark.text) == ("new", noticed[0])
