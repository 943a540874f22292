"""A segmentation model as a MONAI bundle, read and run by MONAI itself."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from foldwise.files import CaseError, read_json
from foldwise.portable.bundle import export_bundle
from portable_models import DEEP, NESTED, THREE, Kind, predicted, write_models, write_scan

# Share of voxels with another label. Without resampling, only where a probability is one half but for
# rounding, or several are alike but for their rounding to 255 steps. These networks answer to noise, so that
# another way to resample changes much; half of the voxels would differ from another scan's.
SAME, ROUNDED, ALIKE = 2e-4, 0.015, 0.2
KINDS = {
    "folds and mirror images": (
        Kind({"inference": {"mirror": True, "overlap": 0}}, folds=2, affine=np.diag([-1, -1, 1.5, 1])),
        SAME,
    ),
    "regions": (Kind({"network": DEEP}, targets=NESTED), SAME),
    "2d": (Kind({"dimensions": "2d", "slice_axis": "y"}, targets=THREE, folds=2), ROUNDED),
    "grey values": (
        Kind(
            {"intensity": [{"clip": "percentiles", "scale": "zscore"}]}, postprocess=("largest_foreground",)
        ),
        SAME,
    ),
    "spacing": (Kind(cache={"spacing": [0.8, 0.9, 1.5]}, postprocess=({"remove_below_ml": 0.05},)), ALIKE),
}


def run(folder: Path, scans: Path) -> None:
    """Run a bundle as `python -m monai.bundle run` does."""
    workflow = ConfigWorkflow(
        str(folder / "configs" / "inference.json"),
        workflow_type="inference",
        logging_file=False,
        bundle_root=str(folder),
        dataset_dir=str(scans),
        output_dir=str(folder.parent / "out"),
    )
    with torch.enable_grad():  # the bundle turns gradients off, and other tests need them
        workflow.initialize()
        workflow.run()


@pytest.mark.parametrize("name", KINDS)
def test_label_maps(name: str, tmp_path: Path) -> None:
    kind, share = KINDS[name]
    trained = write_models(kind, tmp_path)
    write_scan(kind, tmp_path / "scans")
    export_bundle(trained, {"postprocess": list(kind.postprocess)}, tmp_path / "bundle")
    expected = predicted(trained, kind.postprocess, tmp_path / "scans", tmp_path)[""]
    run(tmp_path / "bundle", tmp_path / "scans")
    found = nib.load(tmp_path / "out" / "a.nii.gz")
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)
    assert 0.01 < (expected.data > 0).mean() < 0.99
    assert (np.asarray(found.dataobj) != expected.data).mean() <= share


def test_metadata(tmp_path: Path) -> None:
    export_bundle(write_models(Kind(targets=THREE), tmp_path), {}, tmp_path / "bundle", title="thorax")
    about = read_json(tmp_path / "bundle" / "configs" / "metadata.json")
    pred = about["network_data_format"]["outputs"]["pred"]
    assert pred["channel_def"] == {"0": "background", "1": "left", "2": "right", "3": "above"}
    assert "3 left, 1000 right, 2 above" in (tmp_path / "bundle" / "docs" / "README.md").read_text()


def test_what_monai_cannot_express(tmp_path: Path) -> None:
    trained = write_models(Kind({"dimensions": "2.5d", "slices": 3}), tmp_path)
    with pytest.raises(CaseError, match=r"2\.5d: MONAI has no sliding window for this"):
        export_bundle(trained, {}, tmp_path / "bundle")
