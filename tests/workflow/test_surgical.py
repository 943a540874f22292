"""A surgical experiment from videos to the report, and the importers of known data sets."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from carried import predicted_elsewhere
from experiments import NAME, planned, snakemake
from foldwise.files import CaseError, write_json
from foldwise.importers import cholec80, cholect50
from foldwise.metrics.video import CHOLEC80_PHASES
from foldwise.networks.efficientnet_lite import EfficientNetLite0
from foldwise.settings import Pretrained, validate
from foldwise.systems.surgical.annotations import read_phases, read_tools, write_phases, write_tools
from foldwise.systems.surgical.learner import SurgicalLearner
from foldwise.systems.surgical.predictions import read_prediction
from foldwise.systems.surgical.settings import CHOLEC80_TOOLS, Data, Model, Settings
from foldwise.systems.surgical.sheet import read_sheet
from foldwise.training.pretrained import load_pretrained
from foldwise.video.store import open_frames
from mixed import READABLE, write_mixed
from surgical_data import FPS, MODELS, PHASES, TOOLS, operation, settings_of, write_operations
from videos import flat_frames, write_video


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: four operations, and a fifth without annotation."""
    folder = tmp_path_factory.mktemp("surgical")
    sheet = write_operations(folder / NAME, 5, seconds=12)
    sheet.write_text(sheet.read_text().replace("op4-phase.txt,op4-tool.txt", ","))
    snakemake(folder, settings_of(folder / NAME / "operations.csv"))
    return folder


@pytest.mark.slow
def test_one_run_makes_models_predictions_exports_and_the_report(run: Path) -> None:
    outputs = run / "results" / "tiny"
    for model in MODELS:
        rows = pd.concat([pd.read_csv(outputs / model / f"fold{fold}" / "metrics.csv") for fold in (0, 1)])
        assert set(rows["case"]) == {"op0", "op1", "op2", "op3"}
        whole = rows[rows["class"] == "(phases)"]
        assert len(whole) == 4
        assert whole["accuracy"].between(0, 1).all()
        assert (rows[["fps", "damaged"]] == [1, 0]).all(axis=None)
        assert ("(tools)" in set(rows["class"])) == (model == "cl")
        found = sorted(p.stem for p in (outputs / model / "ensemble" / "predictions").glob("*.h5"))
        assert found == ["op4"]
    page = (outputs / "report.html").read_text(encoding="utf-8")
    assert "Protocols; best, median and worst video" in page
    protocols = pd.read_csv(outputs / "protocols.csv")
    assert set(protocols["model"]) == set(MODELS)
    assert set(protocols["protocol"]) == {"strict", "pooled", "zeros"}
    assert (protocols["videos"] == 4).all()
    summary = json.loads((outputs / "summary.json").read_text())
    assert summary["models"]["cl"]["(tools)"]["average_precision"]["n"] == 4


@pytest.mark.slow
def test_predictions_come_back_as_annotation(run: Path) -> None:
    outputs = run / "results" / "tiny" / "cl" / "ensemble"
    prediction = read_prediction(outputs / "predictions" / "op4.h5")
    assert len(prediction.rows) == 12
    phases = read_phases(outputs / "export" / "phase" / "op4-phase.txt", PHASES)
    np.testing.assert_array_equal(phases.frames, np.arange(0, 60, 5))
    np.testing.assert_array_equal(phases.values, prediction.phase.argmax(1))
    tools = read_tools(outputs / "export" / "tool" / "op4-tool.txt", TOOLS)
    np.testing.assert_array_equal(tools.values, prediction.tool >= 0.5)
    lines = (outputs / "export" / "probability" / "op4-tool.txt").read_text().splitlines()
    assert lines[0] == "Frame\tSeconds\tGrasper\tHook"
    np.testing.assert_allclose([float(v) for v in lines[3].split()], [10, 2, *prediction.tool[2]], atol=1e-6)
    assert Image.open(outputs / "export" / "ribbon" / "op4.png").size[0] > 500
    videos = pd.read_csv(outputs / "export" / "videos.csv")
    assert videos.loc[0, [f"phase_{name}_s" for name in PHASES]].sum() == 12


@pytest.mark.slow
def test_the_temporal_model_is_whole_without_the_features(run: Path, tmp_path: Path) -> None:
    # Tested on the bank of features, it must predict the same from the frames themselves.
    from foldwise.evaluate import read_trained

    outputs = run / "results" / "tiny" / "tecno"
    fold, case = next(
        (f, p.stem) for f in (0, 1) for p in (outputs / f"fold{f}" / "predictions").glob("*.h5")
    )
    trained = read_trained([outputs / f"fold{fold}" / "model.pt"])
    [cache] = (run / "results" / "data").glob(f"*/frames-*/{case}.h5")
    trained.learner.predict(trained.networks, str(cache), tmp_path / "p.h5")
    stored = read_prediction(outputs / f"fold{fold}" / "predictions" / f"{case}.h5")
    np.testing.assert_allclose(read_prediction(tmp_path / "p.h5").phase, stored.phase, atol=1e-4)


@pytest.fixture(scope="module")
def new(run: Path) -> tuple[Path, str]:
    """Videos of many kinds, predicted by `snakemake predict`, and what it said."""
    folder = write_mixed(run / "new", [operation(seed, 12)[0] for seed in range(20, 25)], FPS)
    predict = {"source": "new", "images_fps": FPS}
    settings = {**settings_of(run / NAME / "operations.csv"), "predict": predict}
    return folder, snakemake(run, settings, "predict", check=False)


@pytest.mark.slow
def test_new_videos_of_any_kind(run: Path, new: tuple[Path, str]) -> None:
    """All get their files, except for the broken one, which is named; so is what is no video."""
    assert "left out: empty, notes.txt" in new[1]
    assert "1 of 6 cases could not be predicted" in new[1]
    assert "case broken: " in new[1]
    [made] = (run / "results" / "tiny" / "cl").glob("predicted-*")
    names = [f"{name}/{video}" for name in ("phase", "tool") for video in READABLE]
    files = {f"{name}-{name.split('/')[0]}.txt" for name in names}
    files |= {f"probability/{video}-{kind}.txt" for kind in ("phase", "tool") for video in READABLE}
    files |= {f"ribbon/{video}.png" for video in READABLE} | {"videos.csv"}
    shown = [path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()]
    assert {name for name in shown if not name.startswith(".")} == files
    videos = pd.read_csv(made / "videos.csv").set_index("case")
    assert videos.index.tolist() == READABLE
    assert (videos[["frames", "seconds", "fps", "mean_fps"]] == [12, 12, 1, 1]).all(axis=None)
    assert (videos[["gaps", "damaged", "annotation_fps"]] == [0, 0, FPS]).all(axis=None)
    # Frames of both files are those of the annotation; each is shown for a second.
    for video in READABLE:
        found = np.loadtxt(made / "probability" / f"{video}-phase.txt", skiprows=1)
        np.testing.assert_array_equal(found[:, 0], np.arange(0, 60, FPS))
        np.testing.assert_array_equal(found[:, 1], np.arange(12))
        best = found[:, 2:].argmax(1)
        seconds = [videos.loc[video, f"phase_{phase}_s"] for phase in PHASES]
        assert seconds == np.bincount(best, minlength=len(PHASES)).tolist()
        assert videos.loc[video, "transitions"] == (np.diff(best) != 0).sum()
        tools = np.loadtxt(made / "tool" / f"{video}-tool.txt", skiprows=1)[:, 1:]
        assert [videos.loc[video, f"tool_{tool}_s"] for tool in TOOLS] == tools.sum(0).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("model", list(MODELS))
def test_a_packed_model_needs_nothing_else(
    run: Path, new: tuple[Path, str], tmp_path: Path, model: str
) -> None:
    """It predicts the same from the same videos, and from one that its experiment predicted."""
    (video,) = (run / NAME).rglob("op4.mp4")
    (tmp_path / "videos").mkdir()
    for path in (video, *(path for path in new[0].iterdir() if path.name != "broken.mp4")):
        (tmp_path / "videos" / path.name).symlink_to(path)
    outputs = run / "results" / "tiny" / model
    [made] = outputs.glob("predicted-*")
    wanted = {f"{video}-phase.txt": made / "probability" / f"{video}-phase.txt" for video in READABLE}
    wanted["op4-phase.txt"] = outputs / "ensemble" / "export" / "probability" / "op4-phase.txt"
    expected = {name: np.loadtxt(path, skiprows=1) for name, path in wanted.items()}
    rows = pd.read_csv(made / "videos.csv")
    manifest = predicted_elsewhere(
        run, model, tmp_path / "videos", tmp_path / "elsewhere", "--images-fps", str(FPS)
    )
    out = tmp_path / "elsewhere" / "out"
    for name, table in expected.items():
        np.testing.assert_allclose(np.loadtxt(out / "probability" / name, skiprows=1), table, atol=1e-4)
    assert "videos.csv" in manifest["outputs"]
    found = pd.read_csv(out / "videos.csv")
    pd.testing.assert_frame_equal(found[found["case"] != "op4"].reset_index(drop=True), rows, atol=1e-3)


@pytest.mark.slow
def test_a_changed_setting_redoes_what_it_touches(run: Path) -> None:
    assert planned(run, settings_of(run / NAME / "operations.csv")) == {}
    changed = settings_of(run / NAME / "operations.csv")
    changed["models"] = {**MODELS, "tecno": {**MODELS["tecno"], "head": {"name": "TeCNO", "layers": 4}}}
    assert planned(run, changed) == {
        **{"check": 1, "train": 2, "test": 2, "ensemble": 1},
        **{"score": 3, "metrics": 3, "export": 3, "choose": 1, "report": 1},
    }


def cholec80_folder(folder: Path, numbers: list[int]) -> Path:
    for number in numbers:
        name = f"video{number:02}"
        (folder / "videos").mkdir(parents=True, exist_ok=True)
        write_video(folder / "videos" / f"{name}.mp4", flat_frames(50) + np.uint8(number))
        write_phases(folder / "phase_annotations" / f"{name}-phase.txt", range(50), ["Preparation"] * 50)
        (folder / "phase_annotations" / f"{name}-timestamp.txt").write_text("Frame Phase\n")
        tools = np.zeros((2, 7), int)
        write_tools(folder / "tool_annotations" / f"{name}-tool.txt", [0, 25], CHOLEC80_TOOLS, tools)
    return folder


def read_settings(path: Path) -> Settings:
    return validate(Settings, yaml.safe_load(path.read_text()))


def test_cholec80_is_imported_with_its_published_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cholec80_folder(tmp_path / "cholec80", [1, 32, 33, 40, 41, 80])
    sheet = tmp_path / "c.csv"
    arguments = [str(folder), "--sheet", str(sheet), "--split", "paper", "--phase-order", "tf_cholec80"]
    monkeypatch.setattr("sys.argv", ["cholec80", *arguments])
    cholec80.main()
    settings = read_settings(tmp_path / "c.yaml")
    assert settings.data.phases[4:] == [
        "GallbladderRetraction",
        "CleaningCoagulation",
        "GallbladderPackaging",
    ]
    assert [case.name for case in read_sheet(settings.data).cases] == [
        f"video{number:02}" for number in (1, 32, 33, 40, 41, 80)
    ]
    assert json.loads((tmp_path / "c-splits.json").read_text())["folds"] == [
        {
            "train": ["video01", "video32"],
            "validation": ["video33", "video40"],
            "test": ["video41", "video80"],
        }
    ]


def test_extracted_frames_are_numbered_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cholec80_folder(tmp_path / "cholec80", [1, 2, 3])
    for path in (folder / "videos").iterdir():
        images = folder / "data_resize" / path.stem
        images.mkdir(parents=True)
        for number in (1, 2):
            grey = 10 * int(path.stem[-2:])  # no two patients have the same pictures
            Image.new("RGB", (8, 8), (grey, grey, grey)).save(images / f"{path.stem}-{number}.jpg")
        path.unlink()
    monkeypatch.setattr("sys.argv", ["cholec80", str(folder), "--sheet", str(tmp_path / "c.csv")])
    cholec80.main()
    data = read_settings(tmp_path / "c.yaml").data
    assert (data.first_image, data.images_fps, data.annotation_fps) == (1, 1, "auto")


def test_what_cannot_be_used_of_cholec80_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cholec80_folder(tmp_path / "cholec80", [1, 2, 3, 4, 5])
    (folder / "videos" / "video01.avi").write_bytes(b"x")
    (folder / "videos" / "video02.mp4").unlink()
    (folder / "tool_annotations" / "video03-tool.txt").write_text("not an annotation")
    arguments = ["cholec80", str(folder), "--sheet", str(tmp_path / "c.csv")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(CaseError, match=r"c\.csv: is written, but without 4 case\(s\)") as caught:
        cholec80.main()
    text = str(caught.value)
    assert "two videos have the name video01" in text
    for kind in ("phase", "tool"):
        assert f"video02-{kind}.txt: no video has the name video02" in text
    assert "video03-tool.txt" in text
    settings = read_settings(tmp_path / "c.yaml")
    assert [case.name for case in read_sheet(settings.data).cases] == ["video04", "video05"]
    assert settings.data.tools == list(CHOLEC80_TOOLS)
    monkeypatch.setattr("sys.argv", [*arguments, "--force", "--skip-broken"])
    cholec80.main()


def cholect50_folder(folder: Path) -> Path:
    categories = {
        "instrument": {"0": "grasper", "1": "bipolar"},
        "phase": {"0": "preparation", "1": "carlot-triangle-dissection"},
    }
    for name in ("VID01", "VID02", "VID03"):
        (folder / "videos" / name).mkdir(parents=True)
        rows = {
            "0": [[94, -1, 1, *([0] * 11), 0]],
            "3": [[1, 1, 1, *([0] * 11), 1], [2, 0, 1, *([0] * 11), 1]],
        }
        for second in rows:
            grey = 10 * int(name[-2:])  # no two patients have the same pictures
            picture = Image.new("RGB", (8, 8), (grey, grey, grey))
            picture.save(folder / "videos" / name / f"{int(second):06}.png")
        write_json(folder / "labels" / f"{name}.json", {"categories": categories, "annotations": rows})
    return folder


def test_cholect50_is_imported_in_the_form_of_cholec80(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cholect50_folder(tmp_path / "data")
    monkeypatch.setattr("sys.argv", ["cholect50", str(folder), "--sheet", str(tmp_path / "c.csv")])
    cholect50.main()
    data = read_settings(tmp_path / "c.yaml").data
    assert data.phases == list(CHOLEC80_PHASES[:2])
    assert data.tools == ["Grasper", "Bipolar"]
    [case, *_] = read_sheet(data).cases
    assert case.phases is not None
    assert case.tools is not None
    phases, tools = read_phases(case.phases, data.phases), read_tools(case.tools, data.tools)
    assert phases.frames.tolist() == [0, 75]
    assert phases.values.tolist() == [0, 1]
    assert tools.values.tolist() == [[0, 0], [1, 1]]
    # A video that cannot be used leaves the others.
    (folder / "videos" / "VID02" / "000003.png").unlink()
    monkeypatch.setattr("sys.argv", [*sys.argv, "--force"])
    with pytest.raises(CaseError, match=r"without 1 case.*\n.*VID02\.json: 1 second\(s\) without a frame"):
        cholect50.main()
    assert [case.name for case in read_sheet(data).cases] == ["VID01", "VID03"]
    assert len(list((tmp_path / "c-annotations").glob("VID*"))) == 4


def test_weights_of_a_classifier_go_into_the_trunk(tmp_path: Path) -> None:
    classifier = EfficientNetLite0()
    torch.save(classifier.state_dict(), tmp_path / "w.pt")
    model = validate(Model, {"kind": "tool", "backbone": {"name": "EfficientNetLite0"}, "crop": [32, 32]})
    network = SurgicalLearner(model, {"phases": [], "tools": ["a"]}).build_network()
    report = load_pretrained(network, Pretrained(file=tmp_path / "w.pt"))
    assert set(report["not_in_file"]) == {"head.tool.weight", "head.tool.bias", "step"}
    own = network.state_dict()
    assert torch.equal(own["trunk.features.0.0.weight"], classifier.state_dict()["features.0.0.weight"])
    assert sum(p.numel() for p in classifier.parameters()) == 4_652_008  # as published: 4.7 million


def test_new_videos_are_taken_from_a_folder(tmp_path: Path) -> None:
    from foldwise.systems.surgical.system import Surgical

    write_video(tmp_path / "a.mp4", flat_frames(30))
    (tmp_path / "notes.txt").write_text("x")
    [entry] = Surgical().new_cases(tmp_path).entries
    data = validate(Data, {"sheet": "s.csv", "phases": list(PHASES), "tools": list(TOOLS)})
    state = {"prepared": {"data": data.model_dump(mode="json"), "cache": {"fps": 5, "size": [32, 48]}}}
    with open_frames(Surgical().prepare_new(entry, state, tmp_path / "work")) as file:
        assert file.attrs["case"] == "a"
        assert len(file["row"]) == 6
    (tmp_path / "a.avi").write_bytes(b"")
    with pytest.raises(CaseError, match=r"a\.avi and a\.mp4 are two videos with one name"):
        Surgical().new_cases(tmp_path)


@pytest.mark.parametrize("there", ["c.csv", "c-splits.json"])
def test_cholec80_refuses_before_it_writes(
    there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cholec80_folder(tmp_path / "cholec80", [1, 33, 41])
    (tmp_path / there).write_text("mine")
    arguments = [str(folder), "--sheet", str(tmp_path / "c.csv"), "--split", "paper"]
    monkeypatch.setattr("sys.argv", ["cholec80", *arguments])
    with pytest.raises(CaseError, match=f"{there}: exists already; --force overwrites"):
        cholec80.main()
    for path in (folder / "phase_annotations").iterdir():
        path.write_text("not an annotation")
    monkeypatch.setattr("sys.argv", ["cholec80", *arguments, "--force"])
    with pytest.raises(CaseError, match="video41-phase"):
        cholec80.main()
    assert (tmp_path / there).read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["cholec80", there])


def test_cholect50_replaces_only_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, labels = cholect50_folder(tmp_path / "data"), tmp_path / "c-annotations"
    arguments = ["cholect50", str(folder), "--sheet", str(tmp_path / "c.csv")]
    labels.mkdir()
    (labels / "VID01-phase.txt").write_text("corrected by hand")
    for more, message in (([], "c-annotations: exists already"), (["--force"], "is not replaced")):
        monkeypatch.setattr("sys.argv", [*arguments, *more])
        with pytest.raises(CaseError, match=message):
            cholect50.main()
    assert [path.read_text() for path in labels.iterdir()] == ["corrected by hand"]
    (labels / "VID01-phase.txt").unlink()
    labels.rmdir()
    monkeypatch.setattr("sys.argv", arguments)
    cholect50.main()
    before = {path.name: path.read_bytes() for path in labels.iterdir()}
    # A failed import leaves the previous one intact.
    for frames in (folder / "videos").iterdir():
        (frames / "000003.png").unlink()
    monkeypatch.setattr("sys.argv", [*arguments, "--force"])
    with pytest.raises(CaseError, match="without a frame"):
        cholect50.main()
    assert {path.name: path.read_bytes() for path in labels.iterdir()} == before
