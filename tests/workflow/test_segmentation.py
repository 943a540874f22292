"""The DAG: the jobs that a changed setting reruns, those it does not, and the outputs of a run."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from carried import foldwise, predicted_elsewhere
from experiments import EXPERIMENT, TINY, add_case, planned, snakemake
from foldwise.command import request
from foldwise.experiment.open import open_experiment
from foldwise.files import CaseError
from foldwise.portable.packed import found as find_model
from foldwise.portable.packed import pack
from foldwise.record import record_in
from foldwise.stages import predict as predict_stage
from foldwise.stages import publish as publish_stage
from foldwise.status import Job, report
from foldwise.volumes.cache import open_case
from foldwise.volumes.volume import Volume, read_volume, write_volume


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: six labelled cases, one fixed test case, one unlabelled case."""
    folder = tmp_path_factory.mktemp("run")
    for number in range(6):
        add_case(folder, number)
    add_case(folder, 6, split="test")
    add_case(folder, 7, label=False)
    snakemake(folder, EXPERIMENT)
    return folder


def predicted(run: Path, name: str) -> Path:
    """The folder of predictions of a source."""
    (folder,) = (run / "results" / "tiny" / "unet").glob(f"predicted-{name}-*")
    return folder


def changed(**sections: Any) -> dict[str, Any]:
    return {**EXPERIMENT, **sections}


# Jobs after the predictions of two folds and of other cases; validation cases choose.
SCORED = {"score": 5, "metrics": 3, "export": 3, "choose": 1, "report": 1}


@pytest.mark.slow
class TestRun:
    """One run of the whole workflow on eight tiny cases, and dry runs after a change."""

    def test_outputs(self, run: Path) -> None:
        out = run / "results" / "tiny"
        held_out = []
        for fold in range(2):
            part = out / "unet" / f"fold{fold}"
            table = pd.read_csv(part / "metrics.csv")
            held_out += table["case"].tolist()
            assert {path.name for path in (part / "export").glob("*[0-9].nii.gz")} == {
                f"{case}.nii.gz" for case in table["case"]
            }
            for case in table["case"]:
                exported = read_volume(part / "export" / f"{case}.nii.gz")
                source = read_volume(run / f"{case}.nii.gz")
                assert np.array_equal(exported.affine, source.affine)
                assert exported.data.shape == source.data.shape
                assert set(np.unique(exported.data)) <= {0, 5}
                assert (part / "export" / f"{case}_ball_probability.nii.gz").exists()
            provenance = json.loads((part / "provenance.json").read_text(encoding="utf-8"))
            assert provenance["packages"]["torch"]
            assert provenance["seed"] == 0
            assert (part / "log.csv").read_text(encoding="utf-8").startswith("epoch,step,loss")
        assert sorted(held_out) == [f"c{number}" for number in range(6)]
        ensemble = out / "unet" / "ensemble"
        assert pd.read_csv(ensemble / "metrics.csv")["case"].tolist() == ["c6"]
        assert {p.name for p in (ensemble / "export").glob("c?.nii.gz")} == {"c6.nii.gz", "c7.nii.gz"}
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        mean = np.mean([pd.read_csv(out / "unet" / f"fold{f}" / "metrics.csv")["dice"] for f in range(2)])
        assert summary["models"]["unet"]["ball"]["dice"]["mean"] == pytest.approx(mean)
        page = (out / "report.html").read_text(encoding="utf-8")
        assert all(f"c{number}" in page for number in range(7))
        assert not [*(out / "state" / "unet").glob("**/predictions*"), *(out / "state").glob("**/scores/*")]
        # Each choice was made on other cases than those that it scores.
        validation = json.loads((out / "splits.json").read_text(encoding="utf-8"))["folds"]
        for fold in range(2):
            part = out / "unet" / f"fold{fold}"
            assert {p.stem for p in (part / "validation").glob("*.h5")} == set(validation[fold]["validation"])
            assert {p.stem for p in (part / "predictions").glob("*.h5")} == set(validation[fold]["test"])

    def test_nothing_changed_nothing_to_do(self, run: Path) -> None:
        assert planned(run, EXPERIMENT) == {}

    def test_staged_caches(self, run: Path) -> None:
        assert planned(run, changed(stage_caches=True)) == {}

    def test_crops_copy_no_image(self, run: Path) -> None:
        """Caches are made from the sources, which they record; a crop has what the index and a plan need."""
        crops = [*(run / "results" / "data").glob("*/crop-*/c*")]
        assert len(crops) == 8
        names = {path.name for crop in crops for path in crop.iterdir() if not path.name.startswith(".")}
        assert names == {"crop.json", "label.nii.gz", "foreground.npy", "instances.npy"}
        (cache,) = (run / "results" / "data").glob("*/cache-*/c0.h5")
        record = record_in(cache)
        assert record is not None
        assert {Path(name).name for name in record.read} == {"c0", "c0.nii.gz"}
        assert planned(run, changed(keep_crops=True)) == {}

    def test_learning_rate(self, run: Path) -> None:
        models = {"unet": {**TINY, "optimiser": {"name": "AdamW", "lr": 0.01}}}
        assert planned(run, changed(models=models)) == {
            **{"train": 2, "test": 4, "ensemble": 1},
            **SCORED,
        }

    def test_crop_margin(self, run: Path) -> None:
        crop = {"to": "none", "margin_mm": 3}
        jobs = planned(run, changed(prepare={"crop": crop}))
        assert (jobs["crop"], jobs["cache"], jobs["index"], jobs["train"]) == (8, 8, 1, 2)

    def test_cache_spacing(self, run: Path) -> None:
        jobs = planned(run, changed(cache={"spacing": [3, 3, 3]}))
        assert "crop" not in jobs
        assert (jobs["cache"], jobs["index"], jobs["train"]) == (8, 1, 2)

    def test_post_processing_predicts_nothing_again(self, run: Path) -> None:
        jobs = planned(run, changed(evaluate={"postprocess": []}))
        assert jobs == {**SCORED, "score": 3}

    def test_export_alone(self, run: Path) -> None:
        jobs = planned(run, changed(export={"probabilities": False}))
        assert jobs == {"export": 3, "report": 1}

    @pytest.mark.parametrize("change", [{"tolerance_mm": 3}, {"empty": "brats"}])
    def test_scores_predict_nothing_again(self, run: Path, change: dict[str, Any]) -> None:
        assert planned(run, changed(evaluate={**EXPERIMENT["evaluate"], **change})) == SCORED

    @pytest.mark.parametrize("step", ["fill_holes", {"remove_below_ml": 0.5}])
    def test_another_step_of_post_processing_predicts_nothing_again(self, run: Path, step: Any) -> None:
        steps = [EXPERIMENT["evaluate"]["postprocess"], step]
        assert planned(run, changed(evaluate={**EXPERIMENT["evaluate"], "postprocess": steps})) == SCORED

    def test_new_scans_are_predicted_like_those_of_the_sheet(self, run: Path) -> None:
        """From a folder and from a sheet, in parts: the ensemble's result, voxel by voxel."""
        (run / "new").mkdir()
        for case in ("c6", "c7"):
            (run / "new" / f"{case}.nii.gz").symlink_to(run / f"{case}.nii.gz")
        text = snakemake(run, EXPERIMENT, "predict", check=False)
        assert "predict: no cases given" in text
        experiment = changed(predict={"source": "new", "parts": 2})
        assert planned(run, experiment, "predict") == {"predict": 1, "predict_part": 2, "publish": 2}
        snakemake(run, experiment, "predict")
        unet = run / "results" / "tiny" / "unet"
        for case in ("c6", "c7"):
            for name in (f"{case}.nii.gz", f"{case}_ball_probability.nii.gz"):
                expected = read_volume(unet / "ensemble" / "export" / name)
                found = read_volume(predicted(run, "new") / name)
                assert np.array_equal(found.affine, expected.affine)
                assert (found.data == expected.data).all()
        assert not list((run / "results" / "tiny" / "state" / "unet").glob("predicted-*/*"))
        assert planned(run, experiment, "predict") == {}
        # Other files, scores or steps predict nothing again.
        fewer = {**experiment, "export": {"probabilities": False}}
        assert planned(run, fewer, "predict") == {"predict": 1, "publish": 2}
        for change in ({"tolerance_mm": 3}, {"postprocess": "fill_holes"}):
            scored = {**experiment, "evaluate": {**EXPERIMENT["evaluate"], **change}}
            jobs = {"predict": 1, "publish": 2, "choose": 1, "score": 2}
            assert planned(run, scored, "predict") == jobs
        # Another scan in its place, with an older time; the folder's time does not show it.
        scan = run / "c7.nii.gz"
        before, moment = scan.read_bytes(), scan.stat()
        scan.write_bytes((run / "c6.nii.gz").read_bytes())
        os.utime(scan, (0, 0))
        assert planned(run, experiment, "predict") == {"predict": 1, "predict_part": 1, "publish": 1}
        scan.write_bytes(before)
        os.utime(scan, ns=(moment.st_atime_ns, moment.st_mtime_ns))
        (run / "mine.csv").write_text("case,image\nmine,c7.nii.gz\n")
        snakemake(run, changed(predict="mine.csv"), "predict")
        mine = read_volume(predicted(run, "mine") / "mine.nii.gz")
        assert (mine.data == read_volume(unet / "ensemble" / "export" / "c7.nii.gz").data).all()

    def test_a_packed_model_needs_nothing_else(self, run: Path, tmp_path: Path) -> None:
        """Elsewhere, from a folder: the ensemble's result, voxel by voxel; and the table of measurements."""
        unet = run / "results" / "tiny" / "unet"
        expected = {
            case: read_volume(unet / "ensemble" / "export" / f"{case}.nii.gz") for case in ("c6", "c7")
        }
        (tmp_path / "my scans").mkdir()
        for case in expected:
            (tmp_path / "my scans" / f"{case}.nii.gz").symlink_to(run / f"{case}.nii.gz")
        (tmp_path / "my scans" / "bad.nii.gz").write_bytes(b"no volume")
        elsewhere = tmp_path / "elsewhere"
        with pytest.raises(AssertionError, match="1 of 3 cases could not be predicted"):
            predicted_elsewhere(run, "unet", tmp_path / "my scans", elsewhere)
        (tmp_path / "my scans" / "bad.nii.gz").unlink()
        (elsewhere / "out" / "manifest.json").write_text("mine")
        done = foldwise(elsewhere, "predict", "carried model.foldwise", tmp_path / "my scans", "out")
        assert "2 cases, 0 of them to do" in done.stderr  # what the first call predicted is used
        assert [path.read_text() for path in elsewhere.glob("out-aside/*/manifest.json")] == ["mine"]
        table = pd.read_csv(elsewhere / "out" / "measurements.csv")
        for case, label in expected.items():
            found = read_volume(elsewhere / "out" / f"{case}.nii.gz")
            assert np.array_equal(found.affine, label.affine)
            assert (found.data == label.data).all()
            (row,) = table[table["case"] == case].to_dict("records")
            assert row["volume_ml"] == pytest.approx((label.data == 5).sum() * 12 / 1000)
            if row["volume_ml"]:
                grey = read_volume(run / f"{case}.nii.gz").data[label.data == 5]
                assert [row["mean"], row["maximum"]] == pytest.approx([grey.mean(), grey.max()])
        manifest = json.loads((elsewhere / "out" / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["outputs"] == ["c6.nii.gz", "c7.nii.gz", "measurements.csv"]
        assert manifest["device"] == "CPU"
        # A call that is refused leaves nothing, above all in the folder of the scans.
        with pytest.raises(AssertionError, match="give another folder to write"):
            foldwise(elsewhere, "predict", "carried model.foldwise", *[tmp_path / "my scans"] * 2)
        assert sorted(path.name for path in (tmp_path / "my scans").iterdir()) == ["c6.nii.gz", "c7.nii.gz"]

    def test_a_packed_model_that_is_damaged_is_refused(self, run: Path, tmp_path: Path) -> None:
        unet, packed = run / "results" / "tiny" / "unet", tmp_path / "m.foldwise"
        facts = pack(unet, packed, [1])
        assert (facts.task["targets"]["classes"], list(facts.folds)) == ({"ball": 5}, ["fold1.pt"])
        whole = packed.read_bytes()
        source = find_model(packed, tmp_path / "m")
        assert source.models[0].read_bytes() == (unet / "fold1" / "model.pt").read_bytes()
        middle = len(whole) // 2
        for number, bad in enumerate(
            (whole[:-100], whole[:middle] + b"xxxx" + whole[middle + 4 :], b"", b"PK")
        ):
            packed.write_bytes(bad)
            with pytest.raises(CaseError, match=r"m\.foldwise: "):
                find_model(packed, tmp_path / f"bad{number}")
        with pytest.raises(CaseError, match=r"has no model of fold 7; it has those of 0, 1"):
            pack(unet, packed, [7])
        with pytest.raises(CaseError, match=r"tiny: has no trained model"):
            pack(unet.parent, packed)

    def test_a_scan_that_cannot_be_predicted_leaves_the_others(self, run: Path) -> None:
        (run / "mixed").mkdir()
        (run / "mixed" / "good.nii.gz").symlink_to(run / "c7.nii.gz")
        (run / "mixed" / "bad.nii.gz").write_bytes(b"no volume")
        write_volume(Volume(np.zeros((8, 8, 8), np.int16), np.eye(4)), run / "mixed" / "flat.nii.gz")
        text = snakemake(run, changed(predict="mixed"), "predict", check=False)
        assert "publish" in text
        log = (run / "results" / "tiny" / "logs" / "publish" / "unet_0of1.log").read_text(encoding="utf-8")
        assert re.search(r"2 of 3 cases could not be predicted", log)
        assert re.search(r"case bad: .*bad\.nii\.gz: not readable as a volume", log)
        assert re.search(r"case flat: .*flat\.nii\.gz: every voxel is 0", log)
        assert (predicted(run, "mixed") / "good.nii.gz").exists()
        # The next call tries these again, and only these.
        jobs = {"predict": 1, "predict_part": 1, "publish": 1}
        assert planned(run, changed(predict="mixed"), "predict") == jobs
        (run / "mixed" / "bad.nii.gz").unlink()
        (run / "mixed" / "flat.nii.gz").unlink()
        snakemake(run, changed(predict="mixed"), "predict")
        log = (run / "results" / "tiny" / "logs" / "predict" / "unet_0of1.log").read_text(encoding="utf-8")
        assert "1 cases, 0 of them to do" in log

    def test_no_patient_gets_another_one_s_mask(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """New scans under the names of earlier ones, with and without a failure before."""
        unet, ward = run / "results" / "tiny" / "unet", run / "ward"
        folder = run / "masks"

        def predict(source: Path, *more: str) -> None:
            models = [unet / f"fold{fold}" / "model.pt" for fold in range(2)]
            made = {"predictions": run / "made", "index": run / "made.pkl"}
            given = {"models": models, "state": run / "kept", "published": folder, "facts": run / "made.json"}
            words = request(source=source, **made, **given)
            monkeypatch.setattr(sys, "argv", ["predict", *words, *more])
            predict_stage.predict.main()
            given = {"predicted": run / "made.json", "choice": unet / "choice.json", "folder": folder}
            words = request(source=source, **made, **given, facts=run / "facts.json")
            monkeypatch.setattr(sys, "argv", ["publish", *words])
            publish_stage.publish.main()

        def assert_mask(name: str, case: str) -> None:
            expected = read_volume(unet / "ensemble" / "export" / f"{case}.nii.gz")
            found = read_volume(folder / f"{name}.nii.gz")
            assert np.array_equal(found.affine, expected.affine)
            assert np.array_equal(found.data, expected.data)

        def give(name: str, data: bytes) -> None:
            (ward / f"{name}.nii.gz").write_bytes(data)

        c6, c7 = ((run / f"{case}.nii.gz").read_bytes() for case in ("c6", "c7"))
        ward.mkdir()
        give("s1", c6)
        give("s2", c7)
        predict(ward)
        assert_mask("s1", "c6")
        assert_mask("s2", "c7")
        assert not (run / "kept").exists()
        # The next patient's second scan is truncated: no mask stays under its name.
        give("s1", c7)
        give("s2", c6[: len(c6) // 2])
        with pytest.raises(
            CaseError, match=r"1 of 2 cases could not be predicted.*\n.*case s2: .*s2\.nii\.gz"
        ):
            predict(ward)
        assert_mask("s1", "c7")
        assert not (folder / "s2.nii.gz").exists()
        give("s1", c6)
        give("s2", c6)
        predict(ward)
        assert_mask("s1", "c6")
        assert_mask("s2", "c6")
        # When a case is gone, its files are removed, and no others.
        (folder / "notes.txt").write_text("mine")
        (ward / "s2.nii.gz").unlink()
        predict(ward)
        assert {path.name for path in folder.iterdir()} == {".foldwise", "notes.txt", "s1.nii.gz"}
        with pytest.raises(CaseError, match="--part 2: must be 0 to 1"):
            predict(ward, "--part", "2", "--parts", "2")

    def test_another_model_trains_only_that(self, run: Path) -> None:
        jobs = planned(run, changed(models={"unet": TINY, "second": TINY}))
        assert jobs == {
            **{"train": 2, "test": 4, "ensemble": 1, "check": 1},
            **SCORED,
        }

    def test_another_experiment_shares_the_prepared_data(self, run: Path) -> None:
        jobs = planned(run, changed(experiment="other"))
        assert "crop" not in jobs
        assert "cache" not in jobs
        assert jobs["train"] == 2

    def test_an_unlabelled_case_trains_nothing(self, run: Path) -> None:
        before = (run / "cases.csv").read_text(encoding="utf-8")
        try:
            add_case(run, 8, label=False)
            jobs = planned(run, EXPERIMENT)
        finally:
            (run / "cases.csv").write_text(before)
        ensemble = {"ensemble": 1, "score": 1, "metrics": 1, "export": 1}
        assert jobs == {"crop": 1, "cache": 1, "check": 1, **ensemble, "report": 1}

    def test_a_labelled_case_prepares_only_itself(self, run: Path) -> None:
        before = (run / "cases.csv").read_text(encoding="utf-8")
        try:
            add_case(run, 8)
            jobs = planned(run, EXPERIMENT)
        finally:
            (run / "cases.csv").write_text(before)
        assert (jobs["crop"], jobs["cache"], jobs["index"], jobs["train"]) == (1, 1, 1, 2)

    def test_a_deleted_export_is_made_again_alone(self, run: Path) -> None:
        target = "results/tiny/unet/fold1/export"
        assert planned(run, EXPERIMENT, "--force", target) == {"export": 1}


def test_status_says_what_is_there(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    opened = open_experiment(EXPERIMENT, main=False)
    (run / "results/tiny/unet/fold1/model.pt").rename(run / "moved.pt")
    waiting = Job("17", "PENDING", "(Priority)")
    lines = report(opened, {"rule_train_wildcards_unet_1": waiting}).splitlines()
    (run / "moved.pt").rename(run / "results/tiny/unet/fold1/model.pt")
    assert lines[0] == "tiny: 8 of 8 cases prepared"
    log = pd.read_csv(run / "results/tiny/unet/fold0/log.csv").iloc[-1]
    done, other = (dict(zip(lines[1].split(), re.split(r"\s{2,}", line), strict=True)) for line in lines[2:4])
    assert (done["training"], done["epoch"], done["testing"]) == ("done", "1/1", "done")
    assert float(done["loss"]) == pytest.approx(log["loss"], abs=1e-4)
    assert float(done["score"]) == pytest.approx(log["val_dice"], abs=1e-4)
    assert (other["training"], other["job"]) == ("finished", "–")
    assert lines[4].startswith(
        "unet, fold 1: there is no model.pt, but the last finished one (epoch 1 of 1, "
    )
    (kept,) = re.findall(r"is kept in (\S+)\. To get it back", lines[4])
    assert (run / kept / "model.pt").samefile(run / "results/tiny/unet/fold1/model.pt")
    assert len(lines) == 6, "nothing is said of the fold whose model is there"
    assert lines[-1] == "report: results/tiny/report.html"


def test_wrong_settings_and_data_stop_before_the_dag(tmp_path: Path) -> None:
    for number in range(4):
        add_case(tmp_path, number)
    text = snakemake(tmp_path, changed(modles={}), "-n", check=False)
    assert "modles: unknown key; did you mean `models`?" in text
    (tmp_path / "c2.nii.gz").unlink()
    with (tmp_path / "cases.csv").open("a") as file:
        file.write("c3,c3,c3.nii.gz,,\n")
    text = snakemake(tmp_path, EXPERIMENT, "-n", check=False)
    assert re.search(r"line 4.*c2.*c2\.nii\.gz", text)
    assert re.search(r"line 6.*c3.*already on line 5", text)


def test_a_planned_experiment_in_one_call(tmp_path: Path) -> None:
    """Crops, plan, caches at the planned spacing, training; an edited plan reruns the affected jobs."""
    for number in range(4):
        add_case(tmp_path, number)
    wanted = {"network": TINY["network"], "training": TINY["training"]}
    experiment = changed(plan={"memory": "small"}, models={"unet": wanted}, evaluate={})
    target = "results/tiny/unet/fold0/metrics.csv"
    snakemake(tmp_path, experiment, target)
    path = tmp_path / "results" / "tiny" / "plan.yaml"
    plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert plan["cache"]["spacing"] == [2, 2, 3]
    # The whole volume of 24×22×20 voxels, rounded up until the experiment's network accepts it.
    assert plan["models"]["unet"]["patch"] == [32, 32, 32]
    assert planned(tmp_path, experiment, target) == {}
    model = torch.load(tmp_path / "results/tiny/unet/fold0/model.pt", weights_only=True)
    assert model["settings"]["patch"] == [32, 32, 32]
    assert model["settings"]["network"]["name"] == "BasicUNet"
    assert model["prepared"]["cache"]["spacing"] == [2, 2, 3]
    edited = path.read_text(encoding="utf-8").replace("[32, 32, 32]", "[48, 32, 32]")
    path.write_text(edited, encoding="utf-8")
    jobs = planned(tmp_path, experiment, target)
    assert "plan" not in jobs
    assert jobs["train"] == 1


def test_brats_in_small(tmp_path: Path) -> None:
    """Channels in a 4-D file, a crop to non-zero voxels, one shape for all, overlapping regions, and back."""
    random = np.random.default_rng(0)
    rows = ["case,image,label"]
    for number in range(4):
        shape = (30 + number, 28, 26)
        brain = np.zeros(shape, bool)
        brain[4:-5, 3:-4, 2:-3] = True
        label = np.zeros(shape, np.uint8)
        label[10:20, 8:18, 6:18], label[12:17, 10:16, 8:14], label[14:16, 12:14, 9:12] = 2, 1, 4
        channels = [random.normal(100 + 40 * c * (label > 0), 10, shape) * brain for c in range(4)]
        image = nib.Nifti1Image(np.stack(channels, 3).astype(np.float32), np.diag([-1.0, -1, 1, 1]))
        nib.save(image, tmp_path / f"b{number}.nii.gz")
        write_volume(Volume(label, np.diag([-1.0, -1, 1, 1])), tmp_path / f"b{number}_seg.nii.gz")
        rows.append(f"b{number},b{number}.nii.gz,b{number}_seg.nii.gz")
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    experiment = {
        "experiment": "brats",
        "data": {
            "sheet": "cases.csv",
            "labels": {"oedema": 2, "necrosis": 1, "enhancing": 4},
            "regions": {
                "wt": ["oedema", "necrosis", "enhancing"],
                "tc": ["necrosis", "enhancing"],
                "et": ["enhancing"],
            },
        },
        "prepare": {"crop": {"to": "nonzero", "margin_mm": 1}},
        "cache": {"shape": [32, 32, 32]},
        "split": {"folds": 2, "validation": 0},
        "models": {
            "unet": {
                **TINY,
                "intensity": {"clip": None, "scale": "zscore_nonzero"},
                "inference": {"mirror": True},
                "training": {"epochs": 2, "steps_per_epoch": None, "batch": 1},
            }
        },
        "evaluate": {"empty": "brats", "postprocess": ["largest_component", "fill_holes"]},
    }
    snakemake(tmp_path, experiment)
    out = tmp_path / "results" / "brats"
    table = pd.concat(pd.read_csv(out / "unet" / f"fold{fold}" / "metrics.csv") for fold in range(2))
    assert sorted(table["class"].unique()) == ["et", "tc", "wt"]
    assert len(table) == 12
    assert table["dice"].notna().all()
    by_case = table.pivot_table(index="case", columns="class", values="truth_ml")
    assert np.allclose(by_case["wt"], 1.2)  # 10 × 10 × 12 voxels of 1 mm³
    assert np.allclose(by_case["tc"], 0.18)
    assert np.allclose(by_case["et"], 0.012)
    for number in range(4):
        (path,) = out.glob(f"unet/fold*/export/b{number}.nii.gz")
        exported, source = read_volume(path), read_volume(tmp_path / f"b{number}_seg.nii.gz")
        assert exported.data.shape == source.data.shape
        assert np.array_equal(exported.affine, source.affine)
        assert set(np.unique(exported.data)) <= {0, 1, 2, 4}
    cache = next((tmp_path / "results" / "data").glob("*/cache-*/b2.h5"))
    with open_case(cache) as file:
        assert file["image"].shape == (4, 32, 32, 32)
    assert "et" in (out / "report.html").read_text(encoding="utf-8")
