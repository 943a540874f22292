"""What preparation noticed in single cases: shown by the check, and ready when the cases are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import unread
from foldwise.experiment.depends import Depends
from foldwise.experiment.examine import examine
from foldwise.experiment.jobs import Jobs
from foldwise.experiment.parts import Parts
from foldwise.forecast import Step
from foldwise.settings import validate
from foldwise.sheet import Sheet
from foldwise.systems import system_of
from foldwise.systems.segmentation.system import Segmentation
from foldwise.volumes.sheet import Case
from foldwise.volumes.volume import Volume, write_volume
from ultrasound import settings_of, write_clips


def test_the_check_shows_remarks_that_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not in check.json, which would differ between a first and a second call."""
    monkeypatch.setattr(Jobs, "peak", lambda *given: 1.0)
    monkeypatch.setattr(Jobs, "step", lambda *given: Step(1, 1, 1, 1))
    for number, case in enumerate("abu"):
        data = number + np.arange(64, dtype=np.int16).reshape(4, 4, 4)
        write_volume(Volume(data, np.eye(4)), tmp_path / f"{case}.nii")
    write_volume(Volume(np.eye(4, dtype=np.uint8)[None].repeat(4, 0), np.eye(4)), tmp_path / "l.nii")
    (tmp_path / "s.csv").write_text("case,image,label\na,a.nii,l.nii\nb,b.nii,l.nii\nu,u.nii,\n")
    system = Segmentation()
    given = {
        "experiment": "e",
        "results": str(tmp_path / "results"),
        "data": {"sheet": str(tmp_path / "s.csv")},
        "prepare": {"lung_mask": {}},
        "split": {"folds": 2, "validation": 0},
    }
    settings = validate(system.settings, given)
    before, lines = examine(system, settings, tmp_path / "counts.json")
    noticed = system.preparation(settings, system.read_sheet(settings.data)).noticed
    assert noticed is not None
    path = Path(noticed.format(case="u"))
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"judgement": {"remarks": ["a part of the lungs: the scan ends above"]}}))
    after, more = examine(system, settings, tmp_path / "counts.json")
    assert more == [*lines, "warning: case u: a part of the lungs: the scan ends above"]
    assert after == before


def test_the_check_forecasts_further_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only if they are asked for; asking for them makes the check anew."""
    monkeypatch.setattr(Jobs, "step", lambda *given: Step(1, 1, 1, 1))
    given = settings_of(write_clips(tmp_path, cases=4), results=str(tmp_path / "results"))
    system = system_of("clips")
    plain = validate(system.settings, given)
    asked = validate(system.settings, {**given, "evaluate": {"perturb": {}}})
    facts, [table, *_] = examine(system, asked, tmp_path / "counts.json")
    rows = {line.split()[0]: line.split() for line in table.splitlines()}
    assert rows["perturb"][1] == str(facts["models_mib"]["small"]["perturb"])
    assert int(rows["perturb"][2]) > int(rows["perturb"][1]) > 100
    assert "perturb" not in examine(system, plain, tmp_path / "counts.json")[0]["models_mib"]["small"]
    preparation = system.preparation(plain, system.read_sheet(plain.data))
    before, after = (Depends(system, settings, preparation).check() for settings in (plain, asked))
    assert before != after


@pytest.mark.parametrize("plan", [None, {}])
def test_remarks_are_ready_when_a_part_is(plan: Any) -> None:
    """Findings on lungs lie before the crops, and one job makes both: its marker stands for them."""
    opened = unread(prepare={"lung_mask": {}}, plan=plan)
    case = Case("a", "a", "", 2, (Path("i.nii"),), Path("l.nii"), None)
    prepared = opened.system.preparation(opened.settings, Sheet((case,), ()))
    assert prepared.noticed is not None
    parts = Parts(prepared, 3)
    assert parts.ready([case], prepared.noticed) == parts.ready([case], prepared.indexed)
    alone = Parts(prepared)
    assert alone.ready([case], prepared.noticed) == [f"{prepared.data}/lungs/a.json"]
