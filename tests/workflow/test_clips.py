"""The DAG of clips: one run from videos to report, and the jobs that a changed setting reruns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from carried import predicted_elsewhere
from experiments import NAME, planned, snakemake
from foldwise.hdf5 import open_hdf5
from foldwise.index import Index
from foldwise.systems.clips.cache import label_of
from tiny_clip import save_clip
from ultrasound import CLASSES, SMALL, settings_of, write_clips


def experiment(folder: Path, **more: Any) -> dict[str, Any]:
    evl = {
        **SMALL,
        "network": {"name": "EVL", "weights": f"clip {NAME}", "blocks": 2},
        "input": "crop",
        "features": {"views": 2},
    }
    base = settings_of(Path(NAME, "clips.csv"), prepare={"regions": {"method": "fan"}})
    return {**base, "models": {"small": SMALL, "evl": evl}, **more}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of four labelled clips, a test case and an unlabelled one."""
    folder = tmp_path_factory.mktemp("run")
    (folder / NAME).mkdir()
    sheet = write_clips(folder / NAME, cases=6)
    lines = sheet.read_text(encoding="utf-8").split()
    lines = [lines[0] + ",split", *(f"{line}," for line in lines[1:5]), f"{lines[5]},test", lines[6]]
    lines[6] = lines[6].removesuffix("low") + ","
    sheet.write_text("\n".join(lines) + "\n", encoding="utf-8")
    save_clip(folder / f"clip {NAME}")
    snakemake(folder, experiment(folder))
    return folder


@pytest.mark.slow
class TestRun:
    """The outputs of a run."""

    def test_predictions_of_all_held_out_clips(self, run: Path) -> None:
        for model in ("small", "evl"):
            table = pd.read_csv(run / "results" / "tiny" / model / "predictions.csv")
            assert sorted(table["case"]) == [f"k{n}_0" for n in range(4)]
            assert sorted(table["label"].unique()) == CLASSES
            sums = table[[f"probability_{name}" for name in CLASSES]].sum(axis=1)
            assert sums.tolist() == pytest.approx([1] * 4)
            ensemble = run / "results" / "tiny" / model / "ensemble"
            exported = pd.read_csv(ensemble / "export" / "predictions.csv", keep_default_na=False)
            assert exported["case"].tolist() == ["k4_0", "k5_0"]
            assert exported["label"].tolist() == ["high", ""]
            assert pd.read_csv(ensemble / "metrics.csv")["case"].tolist() == ["k4_0"]

    def test_a_packed_model_brings_the_frozen_weights(self, run: Path, tmp_path: Path) -> None:
        exported = run / "results" / "tiny" / "evl" / "ensemble" / "export" / "predictions.csv"
        expected = pd.read_csv(exported).set_index("case")
        videos = tmp_path / "videos"
        videos.mkdir()
        for case in expected.index:
            (path,) = (run / NAME).rglob(f"{case}.*")
            (videos / path.name).symlink_to(path)
        hidden = ("results", f"clip {NAME}")
        manifest = predicted_elsewhere(run, "evl", videos, tmp_path / "elsewhere", hidden=hidden)
        found = pd.read_csv(tmp_path / "elsewhere" / "out" / "predictions.csv").set_index("case")
        columns = [f"probability_{name}" for name in CLASSES]
        np.testing.assert_allclose(found[columns], expected.loc[found.index, columns], atol=1e-4)
        assert manifest["outputs"] == ["predictions.csv"]

    def test_report(self, run: Path) -> None:
        folder = run / "results" / "tiny"
        page = (folder / "report.html").read_text(encoding="utf-8")
        for words in ("balanced accuracy", "Confusion of clips", "Receiver operating", "all patients"):
            assert words in page
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        scores = summary["models"]["small"]["all clips"]["balanced_accuracy"]
        table = pd.read_csv(folder / "small" / "predictions.csv")
        recalls = (table["label"] == table["predicted"]).groupby(table["label"]).mean()
        assert scores["mean"] == pytest.approx(recalls.mean())
        assert scores["n"] == 4

    def test_prepared_files(self, run: Path) -> None:
        (data,) = (run / "results" / "data").iterdir()
        (regions,) = data.glob("regions-*")
        facts = json.loads((regions / "k0_0.json").read_text(encoding="utf-8"))
        assert facts["box_source"] == "fan"
        assert 0.3 < facts["share"] < 0.8
        (features,) = data.glob("features-*")
        with open_hdf5(features / "k1_0.h5") as file:
            assert label_of(file) == "low"
            assert file["train_tokens"].shape == (2, 2, 3, 17, 16)
        index = Index.read(run / "results" / "tiny" / "index.pkl")
        for fold in index.folds:
            assert not {index[c].group for c in fold.test} & {index[c].group for c in fold.train}

    def test_nothing_left(self, run: Path) -> None:
        assert planned(run, experiment(run)) == {}

    def test_a_learning_rate_retrains_its_model_alone(self, run: Path) -> None:
        changed = experiment(run)
        changed["models"]["small"] = {**SMALL, "optimiser": {"name": "AdamW", "lr": 0.01}}
        jobs = planned(run, changed)
        scored = {"score": 3, "metrics": 3, "export": 3, "choose": 1, "report": 1}
        assert jobs == {"train": 2, "test": 2, "ensemble": 1, **scored}

    def test_other_regions_spare_the_caches(self, run: Path) -> None:
        jobs = planned(run, experiment(run, prepare={"regions": {"method": "threshold"}}))
        assert (jobs["roi"], jobs["encode"]) == (6, 6)
        assert jobs["train"] == 2
        assert "clip_cache" not in jobs

    def test_changed_frames_are_a_test_of_their_own(self, run: Path) -> None:
        """Nothing is trained or tested again; its clean clips have the probabilities of the test."""

        def tested(attenuation: float, **more: Any) -> dict[str, Any]:
            perturb = {"attenuation": [attenuation], "shadow": [], "speckle": [1], "gain": []}
            evl = {**experiment(run)["models"]["evl"], **more}
            return experiment(run, evaluate={"perturb": perturb}, models={"evl": evl})

        # The check lists the memory of all models, and there is only one now.
        assert planned(run, tested(12)) == {"perturb": 2, "check": 1, "report": 1}
        snakemake(run, tested(12))
        assert planned(run, tested(12)) == {}
        folder, columns = run / "results" / "tiny", [f"probability_{name}" for name in CLASSES]
        tables = [pd.read_csv(folder / "evl" / f"fold{fold}" / "perturb.csv") for fold in (0, 1)]
        rows = pd.concat(tables).set_index("case")
        assert rows["perturbation"].tolist() == ["clean", "attenuation", "speckle"] * 4
        clean = rows[rows["perturbation"] == "clean"]
        expected = pd.read_csv(folder / "evl" / "predictions.csv").set_index("case")
        # It was tested on stored features, in half precision.
        np.testing.assert_allclose(clean[columns], expected.loc[clean.index, columns], atol=2e-3)
        assert len(pd.read_csv(folder / "perturb.csv")) == 3
        assert "attenuation 12 dB" in (folder / "report.html").read_text(encoding="utf-8")
        assert planned(run, tested(24)) == {"perturb": 2, "report": 1}
        fewer = planned(run, tested(12, labels=0.5))
        assert (fewer["train"], fewer["perturb"], fewer.get("encode")) == (2, 2, None)

    def test_update_labels_makes_a_new_index(self, run: Path) -> None:
        updated = experiment(run)
        updated["data"] = {**updated["data"], "update_labels": True}
        jobs = planned(run, updated)
        assert jobs["update_labels"] == 1
        assert jobs["train"] == 4
        before = Index.read(run / "results" / "tiny" / "index.pkl")
        snakemake(run, updated, "results/tiny/index-updated.pkl")
        index = Index.read(run / "results" / "tiny" / "index-updated.pkl")
        assert len(index.entries) == 4
        assert all("regions-" in entry.files["mask"][0] for entry in index.entries)
        assert Index.read(run / "results" / "tiny" / "index.pkl") == before

    def test_parts_with_a_network_want_a_gpu(self, run: Path) -> None:
        others = experiment(run, results="elsewhere")
        jobs = planned(run, others, "--set-scatter", "prepare=2")
        assert 2 <= jobs["prepare_part_gpu"] <= 4
        assert not {"prepare_part", "clip_cache", "roi", "encode"} & set(jobs)
        classical = {**others, "models": {"small": {**SMALL, "input": "crop"}}}
        assert "prepare_part" in planned(run, classical, "--set-scatter", "prepare=2")

    def test_wrong_labels_stop_the_call(self, run: Path) -> None:
        sheet = run / NAME / "wrong.csv"
        text = (run / NAME / "clips.csv").read_text(encoding="utf-8")
        sheet.write_text(text.replace("k0_0.mp4,high", "k0_0.mp4,middle"), encoding="utf-8")
        wrong = experiment(run)
        wrong["data"] = {**wrong["data"], "sheet": f"{NAME}/wrong.csv"}
        said = snakemake(run, wrong, "--dry-run", check=False)
        assert "line 2: case k0_0: label 'middle' is not one of high, low" in said
