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
from mixed import READABLE, write_mixed
from tiny_clip import save_clip
from ultrasound import CLASSES, SMALL, frames_of, settings_of, write_clips


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


@pytest.fixture(scope="module")
def new(run: Path) -> tuple[Path, str]:
    """Clips of many kinds, predicted by `snakemake predict`, and what it said."""
    clips = [frames_of(CLASSES[number % 2], 90 + number) for number in range(5)]
    folder = write_mixed(run / "new", clips, 25)
    predict = {"source": "new", "images_fps": 25}
    return folder, snakemake(run, experiment(run, predict=predict), "predict", check=False)


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

    def test_new_clips_of_any_kind(self, run: Path, new: tuple[Path, str]) -> None:
        """All are predicted, except for the broken one, which is named; so is what is no clip."""
        assert "left out: empty, notes.txt" in new[1]
        assert "1 of 6 cases could not be predicted" in new[1]
        assert "case broken: " in new[1]
        for model in ("small", "evl"):
            [made] = (run / "results" / "tiny" / model).glob("predicted-*")
            assert [path.name for path in made.iterdir() if path.is_file()] == ["predictions.csv"]
            rows = pd.read_csv(made / "predictions.csv").set_index("case")
            assert rows.index.tolist() == READABLE
            assert (rows[["frames", "seconds", "fps", "damaged"]] == [8, 0.32, 25, 0]).all(axis=None)
            found = rows[[f"probability_{name}" for name in CLASSES]]
            assert found.sum(axis=1).tolist() == pytest.approx([1] * 5)
            assert rows["confidence"].tolist() == found.max(axis=1).tolist()
            assert ("region" in rows) == (model == "evl")
        # The fan is a trapezoid in rows 3 to 44 of frames of 64×48.
        boxes = np.array([[int(edge) for edge in box.split()] for box in rows["region"]])
        np.testing.assert_allclose(boxes, [[6, 3, 59, 45]] * 5, atol=3)
        assert rows["region_share"].between(0.3, 0.8).all()

    def test_a_packed_model_brings_the_frozen_weights(
        self, run: Path, new: tuple[Path, str], tmp_path: Path
    ) -> None:
        """From a sheet with patients; the same as in the workflow."""
        outputs, columns = run / "results" / "tiny" / "evl", [f"probability_{name}" for name in CLASSES]
        [made] = outputs.glob("predicted-*")
        tables = [made / "predictions.csv", outputs / "ensemble" / "export" / "predictions.csv"]
        expected = pd.concat([pd.read_csv(table) for table in tables]).set_index("case")
        found = {path.stem: path for folder in (new[0], run / NAME) for path in folder.iterdir()}
        sheet = tmp_path / "new.csv"
        groups = {"a": "p1", "b": "p1", "images": "p1"}
        rows = pd.DataFrame({"case": expected.index})
        rows["group"], rows["video"] = rows["case"].map(groups), rows["case"].map(found)
        rows.to_csv(sheet, index=False)
        hidden = ("results", f"clip {NAME}")
        manifest = predicted_elsewhere(
            run, "evl", sheet, tmp_path / "elsewhere", "--images-fps", "25", hidden=hidden
        )
        out = tmp_path / "elsewhere" / "out"
        rows = pd.read_csv(out / "predictions.csv").set_index("case")
        np.testing.assert_allclose(rows[columns], expected.loc[rows.index, columns], atol=1e-4)
        assert manifest["outputs"] == ["patients.csv", "predictions.csv"]
        patients = pd.read_csv(out / "patients.csv").set_index("group")
        assert patients["clips"].to_dict() == {"p1": 3, "c": 1, "d": 1, "k4_0": 1, "k5_0": 1}
        mean = rows.loc[["a", "b", "images"], columns].mean()
        np.testing.assert_allclose(patients.loc["p1", columns].astype(float), mean)

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
        # Those of the caches do not.
        assert jobs["prepare_part"] == jobs["prepare_part_gpu"]
        assert not {"clip_cache", "roi", "encode"} & set(jobs)

    def test_wrong_labels_stop_the_call(self, run: Path) -> None:
        sheet = run / NAME / "wrong.csv"
        text = (run / NAME / "clips.csv").read_text(encoding="utf-8")
        sheet.write_text(text.replace("k0_0.mp4,high", "k0_0.mp4,middle"), encoding="utf-8")
        wrong = experiment(run)
        wrong["data"] = {**wrong["data"], "sheet": f"{NAME}/wrong.csv"}
        said = snakemake(run, wrong, "--dry-run", check=False)
        assert "line 2: case k0_0: label 'middle' is not one of high, low" in said
