"""Frozen encoders of transformers in both video systems, from the sheet to new videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import surgical_data
import ultrasound
from carried import foldwise
from experiments import planned, snakemake
from foldwise.systems.clips.patients import per_patient
from foldwise.systems.surgical.annotations import read_phases
from tiny_encoders import save

TOGETHER = ("--set-scatter", "prepare=1")
FOLD = "results/tiny/head/fold0/metrics.csv"
# The jobs of a new model's fold.
FOLD_JOBS = {"train": 1, "test": 1, "score": 1, "metrics": 1}


def fold0(*models: str) -> list[str]:
    return [FOLD.replace("head", model) for model in models]


@pytest.mark.slow
def test_operations(tmp_path: Path) -> None:
    """An offline head on features that are stored once, by one job with one encoder."""
    sheet = surgical_data.write_operations(tmp_path, 4, seconds=10)
    save("DINOv3ViTModel", tmp_path / "weights")
    head = {
        "kind": "temporal",
        "encoder": {"name": "transformers:DINOv3ViTModel", "weights": "weights"},
        "head": {"name": "GRU", "hidden": 8},
        "mode": "offline",
        "crop": [32, 32],
        "training": {"epochs": 2},
    }
    experiment: dict[str, Any] = {**surgical_data.settings_of(Path(sheet.name)), "models": {"head": head}}
    snakemake(tmp_path, experiment, FOLD, "results/tiny/head/choice.json", *TOGETHER)
    table = pd.read_csv(tmp_path / FOLD)
    assert set(table["mode"]) == {"offline"}
    assert len(table["case"].unique()) == 2
    # Another mode, and two heads, on the same features.
    other = {**head, "mode": "online"}
    two = {"head": other, "attention": {**other, "head": {"name": "TransSVNet"}}}
    jobs = planned(tmp_path, {**experiment, "models": two})
    assert (jobs.get("prepare_part_gpu"), jobs["train"]) == (None, 4)
    # Another encoder: neither the frames again, nor the index, nor what the first one made.
    crop = {**head, "crop": [16, 16]}
    jobs = planned(tmp_path, {**experiment, "models": {"head": head, "crop": crop}}, *fold0("head", "crop"))
    assert jobs == {"prepare_part_gpu": 1, **FOLD_JOBS}
    (tmp_path / "op9.mp4").symlink_to(tmp_path / "op0.mp4")
    # The packed model brings the encoder's weights.
    foldwise(tmp_path, "export", "results/tiny/head", "carried.foldwise", "--fold", "0")
    (tmp_path / "weights").rename(tmp_path / "elsewhere")
    foldwise(tmp_path, "predict", "carried.foldwise", "op9.mp4", "out")
    out = tmp_path / "out"
    assert len(read_phases(out / "phase" / "op9-phase.txt", surgical_data.PHASES).frames) == 10
    assert pd.read_csv(out / "videos.csv")["mode"].tolist() == ["offline"]
    # Other weights in the same place.
    save("DINOv3ViTModel", tmp_path / "weights", num_register_tokens=1)
    jobs = planned(tmp_path, experiment)
    assert (jobs["prepare_part_gpu"], jobs["train"]) == (1, 2)


@pytest.mark.slow
def test_clips(tmp_path: Path) -> None:
    """Patients by learned attention, in testing from stored features, and for new clips as they go."""
    sheet = ultrasound.write_clips(tmp_path, cases=4, clips=2)
    save("VJEPA2Model", tmp_path / "weights")
    head = {
        **ultrasound.SMALL,
        "network": {"name": "AttentionMIL", "hidden": 16},
        "encoder": {"name": "transformers:VJEPA2Model", "weights": "weights"},
        "clip": {**ultrasound.SMALL["clip"], "frames": 4},
        "features": {"views": 2},
    }
    experiment = ultrasound.settings_of(Path(sheet.name), models={"head": head})
    snakemake(tmp_path, experiment, FOLD, *TOGETHER)
    table = pd.read_csv(tmp_path / FOLD)
    columns = [f"probability_{name}" for name in ultrasound.CLASSES]
    assert table["group"].tolist() == [table["group"][0]] * 2 + [table["group"][2]] * 2
    # Two heads on the same features.
    probe = {**head, "network": {"name": "AttentiveProbe"}}
    models = {"head": head, "probe": probe}
    jobs = planned(tmp_path, {**experiment, "models": models}, *fold0(*models))
    assert jobs == FOLD_JOBS
    # Other features: the caches, the index and both models stay.
    models = {"head": head, "views": {**head, "features": {"views": 3}}}
    jobs = planned(tmp_path, {**experiment, "models": models}, *fold0(*models))
    assert jobs == {"prepare_part_gpu": 1, **FOLD_JOBS}
    known, rows = per_patient(table).set_index("group"), table.set_index("case")
    lines = ["case,group,video"]
    for case, group in rows["group"].items():
        [video] = tmp_path.glob(f"{case}.*")
        lines.append(f"new_{case},{group},{video.name}")
    (tmp_path / "new.csv").write_text("\n".join(lines), encoding="utf-8")
    foldwise(tmp_path, "predict", "results/tiny/head/fold0/model.pt", "new.csv", "out")
    found = pd.read_csv(tmp_path / "out" / "predictions.csv").set_index("case")
    np.testing.assert_allclose(found[columns], rows[columns], atol=2e-3)
    np.testing.assert_allclose(found.groupby("group")["attention"].sum(), 1)
    patients = pd.read_csv(tmp_path / "out" / "patients.csv").set_index("group")
    assert patients[["clips", "by"]].to_numpy().tolist() == [[2, "attention"]] * 2
    np.testing.assert_allclose(patients[columns], known.loc[patients.index, columns], atol=2e-3)
