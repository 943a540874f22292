"""An experiment with voxels to ignore, and a class that no label has, from sheet to report."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from experiments import EXPERIMENT, add_case, snakemake

pytestmark = pytest.mark.slow


def test_from_sheet_to_report(tmp_path: Path) -> None:
    for number in range(4):
        add_case(tmp_path, number)
        path = tmp_path / f"c{number}_label.nii.gz"
        image = nib.load(path)
        label = np.asarray(image.dataobj)
        label[:, :, :6] = 255
        nib.save(nib.Nifti1Image(label, image.affine), path)
    labels = {"ball": 5, "node": 6, "ignore": 255}
    experiment = {**EXPERIMENT, "data": {"sheet": "cases.csv", "labels": labels}}
    snakemake(tmp_path, experiment)
    results = tmp_path / "results" / "tiny"
    rows = pd.concat([pd.read_csv(results / "unet" / f"fold{fold}" / "metrics.csv") for fold in (0, 1)])
    assert set(rows["class"]) == {"ball", "node"}
    # 24 × 22 × 6 voxels of 12 mm³, without which no volume is larger than the others.
    assert rows["ignored_ml"].to_numpy() == pytest.approx(38.016)
    assert (rows["volume_ml"] <= 24 * 22 * 14 * 0.012 + 1e-9).all()
    text = "class node is in none of the 4 labels of the training cases"
    assert any(text in warning for warning in json.loads((results / "check.json").read_text())["warnings"])
    assert text in (results / "logs" / "index.log").read_text()
    assert text in (results / "report.html").read_text()
    for number in range(4):
        (exported,) = results.glob(f"unet/fold*/export/c{number}.nii.gz")
        assert set(np.unique(np.asarray(nib.load(exported).dataobj))) <= {0, 5, 6}
