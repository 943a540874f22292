"""The interactive experiment through the same DAG as all others: balls, tiny networks, every stage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import planned, snakemake
from foldwise.volumes.volume import Volume, read_volume, write_volume
from interactive_scans import EXPERIMENT as SMALL
from synthetic import scan

EXPERIMENT = {**SMALL, "evaluate": {**SMALL["evaluate"], "protocol": "segfm3d"}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: four cases of the cross-validation, a fixed test case, one unlabelled."""
    folder = tmp_path_factory.mktemp("balls")
    affine = np.diag([-2.0, 2.0, 3.0, 1.0])  # stored leftwards
    rows = ["case,group,image,label,split"]
    for number in range(6):
        image, ball = scan(number, (24, 22, 12))
        write_volume(Volume(image, affine), folder / f"c{number}.nii.gz")
        write_volume(Volume(ball * np.uint8(5), affine), folder / f"c{number}_label.nii.gz")
        split = "test" if number == 4 else ""
        label = f"c{number}_label.nii.gz" if number < 5 else ""
        rows.append(f"c{number},c{number},c{number}.nii.gz,{label},{split}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    snakemake(folder, EXPERIMENT)
    return folder


@pytest.mark.slow
class TestRun:
    def test_outputs(self, run: Path) -> None:
        out = run / "results" / "balls"
        tables = [pd.read_csv(out / "vmn" / f"fold{fold}" / "metrics.csv") for fold in range(2)]
        rows = pd.concat(tables)
        assert sorted(rows["case"].unique()) == [f"c{number}" for number in range(4)]
        assert set(rows["hints"]) == {"extreme", "scribble", "segfm3d"}
        assert set(rows["choice"]) == {"predicted", "oracle", "random"}
        # The standing baseline, whose slices are chosen by its own quality alone.
        baseline = rows[rows["engine"] == "classical"]
        assert set(rows["engine"]) == {"memory", "classical"}
        assert set(baseline["choice"]) == {"predicted"}
        assert set(baseline["hints"]) == {"extreme", "scribble", "segfm3d"}
        assert not rows["broken"].any()
        # The challenge's scores are those of its six rounds: the area of Dice over the clicks, and the last.
        published = rows[rows["hints"] == "segfm3d"]
        for _, session in published.groupby(["case", "engine"]):
            assert sorted(session["round"]) == [1, 2, 3, 4, 5, 6]
            dice = session.sort_values("round")["dice"].to_numpy()
            area = (dice[1:-1].sum() + dice[2:].sum()) / 2
            last = session[session["round"] == 6].iloc[0]
            assert last["segfm3d_dice_auc"] == pytest.approx(area)
            assert [last["segfm3d_dice_box"], last["segfm3d_dice"]] == pytest.approx([dice[0], dice[-1]])
        # The first round does not depend on the choice of later slices.
        first = rows[rows["round"] == 1].groupby(["case", "engine", "hints"])["dice"].nunique()
        assert (first == 1).all()
        for fold, table in enumerate(tables):
            export = out / "vmn" / f"fold{fold}" / "export"
            for case in table["case"].unique():
                mask, source = read_volume(export / f"{case}.nii.gz"), read_volume(run / f"{case}.nii.gz")
                assert np.array_equal(mask.affine, source.affine)
                assert mask.data.shape == source.data.shape
                assert set(np.unique(mask.data)) <= {0, 5}
                quality = pd.read_csv(export / f"{case}_quality.csv")
                assert sorted(quality["slice"]) == list(range(12))
                known = quality["quality"].notna()
                assert quality["quality"][known].between(0, 1).all()
                # Of empty slices nothing is known, unless they were marked.
                assert (known == ((quality["voxels"] > 0) | quality["hinted"])).all()
                sessions = table[(table["case"] == case) & (table["hints"] == "scribble")]
                exported = (sessions["choice"] == "predicted") & (sessions["engine"] == "memory")
                hinted = sessions[exported]["slice"]
                # z is stored as in RAS, so slices of stack and file are the same.
                assert set(quality[quality["hinted"]]["slice"]) == set(hinted)

    def test_the_fixed_test_set_is_scored_by_all_folds_together(self, run: Path) -> None:
        rows = pd.read_csv(run / "results" / "balls" / "vmn" / "ensemble" / "metrics.csv")
        assert set(rows["case"]) == {"c4"}
        assert set(rows[rows["hints"] != "segfm3d"]["round"]) <= {1, 2}
        # Without a label no user can be simulated: a warning, and no file.
        exported = run / "results" / "balls" / "vmn" / "ensemble" / "export"
        assert [path.name for path in exported.glob("*.nii.gz")] == ["c4.nii.gz"]
        check = json.loads((run / "results" / "balls" / "check.json").read_text(encoding="utf-8"))
        assert any("without a label, e.g. c5" in warning for warning in check["warnings"])

    def test_report(self, run: Path) -> None:
        out = run / "results" / "balls"
        page = (out / "report.html").read_text(encoding="utf-8")
        for text in (
            "CVPR 2025",
            "oracle (true quality)",
            "Dice after each round",
            "correlation of predicted and true",
        ):
            assert text in page
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        rows = pd.concat(pd.read_csv(out / "vmn" / f"fold{fold}" / "metrics.csv") for fold in range(2))
        rows = rows[
            (rows["choice"] == "predicted") & (rows["hints"] == "scribble") & (rows["engine"] == "memory")
        ]
        last = rows.sort_values("round").groupby("case")["dice"].last()
        found = summary["models"]["vmn"]["ball, scribble"]["dice"]["mean"]
        assert found == pytest.approx(last.mean())

    def test_more_rounds_train_nothing_again(self, run: Path) -> None:
        assert planned(run, EXPERIMENT) == {}
        more = {**EXPERIMENT, "evaluate": {**EXPERIMENT["evaluate"], "rounds": 3}}
        jobs = planned(run, more)
        assert jobs["test"] == 2
        assert "train" not in jobs

    def test_new_scans_are_for_a_person(self, run: Path) -> None:
        text = snakemake(run, EXPERIMENT, "predict", "--config", "predict=cases.csv", check=False)
        log = run / "results" / "balls" / "logs" / "predict"
        said = text + "".join(path.read_text(encoding="utf-8") for path in log.rglob("*.log"))
        assert "foldwise annotate" in said


def test_overlapping_objects_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("case,image,label\na,a.nii.gz,a.nii.gz\n", encoding="utf-8")
    data = {
        "sheet": "cases.csv",
        "labels": {"core": 1, "rim": 2},
        "regions": {"whole": ["core", "rim"], "core": ["core"]},
    }
    text = snakemake(tmp_path, {**EXPERIMENT, "data": data}, "--dry-run", check=False)
    assert "must not" in text
