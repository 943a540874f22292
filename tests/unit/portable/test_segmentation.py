"""A segmentation model as ONNX with its runner: the label maps and probabilities are those of Foldwise."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from foldwise.evaluate import read_trained
from foldwise.files import CaseError, read_json
from foldwise.portable.onnx import RUNNERS, export_onnx
from foldwise.systems import system_of
from foldwise.systems.segmentation.learner import SegmentationLearner
from foldwise.volumes.lung_judgement import judge
from foldwise.volumes.lungs import find_lungs
from foldwise.volumes.new_scans import read_new_scans
from foldwise.volumes.phantom import make_phantom
from foldwise.volumes.volume import Volume, read_volume, write_volume
from portable_models import DEEP, NESTED, THREE, Kind, predicted, turned, write_models, write_scan
from untrained import shares

# Probabilities are stored in 255 steps, and rounding may go either way.
STEP = 1.01 / 255


SAGITTAL = np.array([[0, 0, 3, -9], [-1, 0, 0, 4], [0, -0.5, 0, 2], [0, 0, 0, 1.0]])
KINDS = {
    "folds": Kind(folds=3, affine=np.diag([-1, -1, 1.5, 1])),
    "smaller than a patch": Kind(
        {"inference": {"weighting": "constant", "overlap": 0.25}}, shape=(30, 9, 13), targets=THREE
    ),
    "mirror": Kind({"inference": {"mirror": True, "overlap": 0}}),
    "sagittal NRRD": Kind(affine=SAGITTAL, cache={"spacing": [1, 1.5, 1]}, suffix=".nrrd"),
    "oblique": Kind(affine=turned(24, 0.7, 0.9, 2.5), cache={"spacing": [1.1, 0.6, 2]}),
    "coarser": Kind(cache={"spacing": [2.3, 1.7, 2]}, dtype="float32"),
    "shape": Kind({"patch": [16, 24, 8]}, cache={"shape": [16, 24, 8]}),
    "2d": Kind({"dimensions": "2d", "slice_axis": "x", "inference": {"mirror": True}}),
    "2.5d": Kind({"dimensions": "2.5d", "slices": 5, "slice_axis": "y"}, channels=2, folds=2),
    "slab": Kind({"dimensions": "slab", "patch": [32, 32, 8]}),
    "classes": Kind(targets=THREE, cache={"spacing": [1.5, 1.5, 1.5]}, folds=2),
    "regions": Kind(
        targets=NESTED,
        cache={"spacing": [1.5, 0.8, 1.5]},
        postprocess=("fill_holes", {"remove_below_ml": 0.02}, "largest_component"),
    ),
    "channels": Kind(
        {
            "intensity": [
                {"clip": "percentiles", "scale": "zscore"},
                {"clip": None, "scale": "zscore_nonzero"},
            ]
        },
        prepare={"crop": {"to": "nonzero", "margin_mm": 3, "outside": "mean"}},
        channels=2,
        dtype="float32",
    ),
    "zero outside": Kind(
        {"intensity": [{"clip": [-50, 900], "scale": [120.5, 80]}]},
        prepare={"crop": {"to": "nonzero", "margin_mm": 0, "outside": "zero"}},
        cache={"spacing": [1.3, 1.3, 1.3]},
        dtype="uint16",
    ),
    "region": Kind(
        prepare={
            "region": {"column": "organ", "values": [2, 5]},
            "crop": {"to": "region", "margin_mm": 2.5, "outside": "air"},
        },
        postprocess=("largest_foreground", "fill_holes"),
        targets=THREE,
    ),
    "deep supervision": Kind({"network": DEEP}),
}


def write_organ(kind: Kind, folder: Path) -> Path:
    """The mask of an organ, and a sheet that names it."""
    organ = np.zeros(kind.shape, np.uint8)
    organ[3:25, 2:17, 4:20] = 1
    organ[6:26, 3:18, 5:21] = 5
    organ[10, 8:10, 19:22] = 2
    folder.mkdir()
    write_volume(Volume(organ, np.asarray(kind.affine, float)), folder / "a.nii.gz")
    sheet = folder.parent / "sheet.csv"
    sheet.write_text("case,image,organ\na,scans/a.nii.gz,regions/a.nii.gz\n")
    return sheet


def run(folder: Path, *words: object) -> str | int | None:
    """Run the exported program in this process, and return what it ends with."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", [str(folder / "runner.py"), *map(str, words)])
        program(folder / "runner.py", run_name="__main__")
    return ended.value.code


def program(path: Path, run_name: str | None = None) -> dict[str, Any]:
    """What a program defines, which imports others of its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)
        return runpy.run_path(str(path), run_name=run_name)


@pytest.mark.parametrize("name", KINDS)
def test_label_maps_and_probabilities(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    trained = write_models(kind, tmp_path)
    source = scans = tmp_path / "scans"
    write_scan(kind, scans)
    if "region" in kind.prepare:
        source = write_organ(kind, tmp_path / "regions")
    plan = export_onnx(trained, {"postprocess": list(kind.postprocess)}, tmp_path / "onnx")
    assert max(plan["parity"].values()) < 1e-5
    expected = predicted(trained, kind.postprocess, source, tmp_path)
    ended = run(tmp_path / "onnx", scans, tmp_path / "out", tmp_path / "regions", "--probabilities")
    assert ended == 0
    for which, volume in expected.items():
        found = nib.load(tmp_path / "out" / f"a{which and f'_{which}_probability'}.nii.gz")
        np.testing.assert_allclose(found.affine, volume.affine, atol=1e-5)
        data = np.asarray(found.dataobj)
        assert data.dtype == volume.data.dtype
        if which:
            assert np.abs(data - volume.data).max() < STEP
        else:
            assert 0.01 < (volume.data > 0).mean() < 0.99
            # A probability of one half but for rounding may go either way, which is a matter of the CPU.
            assert (data != volume.data).sum() <= 2


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_onnx(write_models(Kind(), folder), {}, folder / "onnx")
    write_scan(Kind(), folder / "scans")
    return folder


def test_lungs_are_found_as_by_foldwise(tmp_path: Path) -> None:
    kind = Kind(
        {"intensity": [{"clip": [-1000, 600], "scale": "window"}]},
        prepare={"lung_mask": {}, "crop": {"to": "region", "margin_mm": 5}},
        cache={"spacing": [6, 6, 6]},
    )
    trained = write_models(kind, tmp_path)
    (tmp_path / "scans").mkdir()
    write_volume(make_phantom("p05", (4.0, 3.5, 5.0)).image, tmp_path / "scans" / "p05.nii.gz")
    export_onnx(trained, {}, tmp_path / "onnx")
    expected = predicted(trained, (), tmp_path / "scans", tmp_path)[""]
    alone(tmp_path / "onnx" / "lungs.py", tmp_path / "scans", tmp_path / "regions")
    alone(tmp_path / "onnx" / "runner.py", tmp_path / "scans", tmp_path / "out", tmp_path / "regions")
    region = np.asarray(nib.load(tmp_path / "regions" / "p05.nii.gz").dataobj)
    np.testing.assert_array_equal(region, read_volume(tmp_path / "region.nii.gz").data)
    found = np.asarray(nib.load(tmp_path / "out" / "p05.nii.gz").dataobj)
    assert (found != expected.data).mean() < 1e-4


@pytest.mark.parametrize("name", ["", "upside down", "back to front", "cut", "one side", "abdomen"])
def test_lungs_are_judged_as_by_foldwise(name: str) -> None:
    ct = make_phantom("p05", (4.0, 3.5, 5.0)).image.oriented()
    height = ct.data.shape[2]
    part: dict[str, tuple[slice, ...]] = {
        "": np.s_[:, :],
        "upside down": np.s_[:, :, ::-1],
        "back to front": np.s_[:, ::-1],
        "cut": np.s_[:, :, height // 3 : 2 * height // 3],
        "one side": np.s_[: ct.data.shape[0] // 2, :],
        "abdomen": np.s_[:, :, : height // 3],
    }
    data = np.ascontiguousarray(ct.data[part[name]])
    expected = find_lungs(Volume(data, ct.affine))
    found = find_masks()(data, np.array(ct.spacing), -320, 10)
    np.testing.assert_array_equal(found[0], expected.mask)
    np.testing.assert_array_equal(found[1], expected.region)
    judged = judge(expected.seen)
    assert bool(found[2]) == (judged.verdict == "implausible")
    assert list(judged.reasons[: len(found[2])]) == found[2]


def find_masks() -> Callable[..., tuple[np.ndarray, np.ndarray, list[str]]]:
    """That of lungs.py, beside which a runner.py is expected."""
    runner = ModuleType("runner")
    runner.__dict__.update(program(RUNNERS / "segmentation.py"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "runner", runner)
        found: Callable[..., Any] = program(RUNNERS / "lungs.py")["find_masks"]
    return found


def alone(program: Path, *words: Path) -> None:
    """Run a program by itself, without packages that its users may lack."""
    blocked = ["foldwise", "torch", "monai", "scipy", "skimage", "cc3d", "h5py", "pydantic", "pandas"]
    code = (
        "import os, runpy, sys\n"
        f"for name in {blocked}: sys.modules[name] = None\n"
        "sys.argv = sys.argv[1:]\n"
        "sys.path.insert(0, os.path.dirname(sys.argv[0]))\n"  # as without -I
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    subprocess.run([sys.executable, "-I", "-c", code, program, *words], check=True, timeout=120)


class TestRunner:
    """The exported folder by itself."""

    def test_is_short(self) -> None:
        for path in (
            RUNNERS / f"{name}.py" for name in ("segmentation", "surgical", "clips", "scans", "frames")
        ):
            assert len(path.read_text().splitlines()) <= 200, path.name

    def test_needs_neither_torch_nor_foldwise(self, exported: Path) -> None:
        alone(exported / "onnx" / "runner.py", exported / "scans", exported / "alone")
        assert (exported / "alone" / "a.nii.gz").exists()

    def test_probabilities_before_they_are_rounded(self, exported: Path) -> None:
        trained = read_trained([exported / "model0.pt"])
        system = system_of("segmentation")
        (entry,) = system.new_cases(exported / "scans", prepared={}).entries
        cache = system.prepare_new(entry, folder=exported / "work", state=trained.states[0])
        learner = trained.learner
        assert isinstance(learner, SegmentationLearner)
        expected = shares(learner, trained.networks[0], str(cache)).numpy()
        runner = program(exported / "onnx" / "runner.py")
        scan, plan = learner.read(str(cache)), read_json(exported / "onnx" / "plan.json")
        networks = [onnxruntime.InferenceSession(exported / "onnx" / name) for name in plan["networks"]]
        found = runner["predict"](plan, networks, scan.image.numpy(), scan.fill.numpy())
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_says_how_it_is_called(self, exported: Path, tmp_path: Path) -> None:
        assert "python runner.py SCANS OUTPUT" in str(run(exported / "onnx"))
        assert ": no scans" in str(run(exported / "onnx", tmp_path, tmp_path / "out"))

    def test_channels_are_grouped_as_by_foldwise(self, exported: Path, tmp_path: Path) -> None:
        names = ["a_0000.nii.gz", "a_0001.NII.GZ", "b_2019.nii.gz", "c.mha", "notes.txt", "._c.mha"]
        for name in [*names, "gap_0000.nii", "gap_0002.nii", "odd_0000.nii", "oddABCDE.nii"]:
            (tmp_path / name).touch()
        cases = program(exported / "onnx" / "runner.py")["find_cases"](tmp_path, tmp_path / "out")
        expected = {case.name: [*case.images] for case in read_new_scans(tmp_path).cases}
        assert cases == expected

    def test_a_case_that_fails_is_named_and_leaves_the_others(self, exported: Path, tmp_path: Path) -> None:
        scans = tmp_path / "scans"
        shutil.copytree(exported / "scans", scans)
        sheared = np.eye(4)
        sheared[0, 1] = 0.3
        write_volume(Volume(np.ones((8, 8, 8), np.uint8), sheared), scans / "tilted.nii.gz")
        (scans / "broken.nii.gz").write_bytes(b"no")
        ended = str(run(exported / "onnx", scans, tmp_path / "out")).splitlines()
        assert len(ended) == 2
        assert ended[0].startswith("broken: ")
        assert ended[1].startswith("tilted: its axes are not at right angles")
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.nii.gz"]

    @pytest.mark.parametrize("name", ["a.nii", "a_0000.nii.gz"])
    def test_two_scans_of_one_name(self, exported: Path, tmp_path: Path, name: str) -> None:
        for each in (name, "a.nii.gz"):
            (tmp_path / each).touch()
        assert "are two scans" in str(run(exported / "onnx", tmp_path, tmp_path / "out"))
        with pytest.raises(CaseError, match="two scans"):
            read_new_scans(tmp_path)

    @pytest.mark.parametrize("source", [".", "a.nii.gz"])
    def test_scans_are_never_replaced(self, exported: Path, tmp_path: Path, source: str) -> None:
        shutil.copytree(exported / "scans", tmp_path / "scans")
        scan = tmp_path / "scans" / "a.nii.gz"
        before = scan.read_bytes()
        ended = run(exported / "onnx", tmp_path / "scans" / source, tmp_path / "scans")
        assert "is the folder of the scans" in str(ended)
        assert scan.read_bytes() == before

    def test_scans_that_foldwise_refuses_or_converts(self, exported: Path, tmp_path: Path) -> None:
        """A unit of length that a reader passes over would change the size of the scan."""
        image: Any = nib.load(exported / "scans" / "a.nii.gz")
        data = np.asarray(image.dataobj)
        nib.save(nib.Nifti1Image(np.full_like(data, 7), image.affine), tmp_path / "constant.nii.gz")
        image.header["xyzt_units"] = 5
        nib.save(nib.Nifti1Image(data, image.affine, image.header), tmp_path / "unit.nii.gz")
        for unit in ("cm", "mm"):
            head = f"NRRD0004\ntype: short\ndimension: 3\nsizes: {' '.join(map(str, data.shape))}\n"
            head += "encoding: raw\nendian: little\nspace: left-posterior-superior\n"
            head += f'space units: "{unit}" "{unit}" "{unit}"\n'
            head += "space directions: (1,0,0) (0,1,0) (0,0,2)\nspace origin: (0,0,0)\n\n"
            voxels = data.astype("<i2").tobytes(order="F")
            (tmp_path / f"{unit}.nrrd").write_bytes(head.encode() + voxels)
        ended = str(run(exported / "onnx", tmp_path, tmp_path / "out")).splitlines()
        assert [line.split(":")[0] for line in ended] == ["cm", "constant", "unit"]
        assert "the unit of its voxel size must be converted to mm" in ended[0]
        assert "every voxel of an image has the same value" in ended[1]
        assert "unit 5 of its voxel size is unknown" in ended[2]
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["mm.nii.gz"]

    def test_a_grid_of_slightly_larger_voxels(self, exported: Path, tmp_path: Path) -> None:
        """It is 0.06 mm off in the last of 30 voxels, where Foldwise allows 0.01 mm."""
        channel = np.ones((30, 4, 4), np.int16)
        grid = np.diag([1.002, 1, 1, 1])
        write_volume(Volume(channel.astype(np.uint8), grid), tmp_path / "region.nii.gz")
        runner = program(exported / "onnx" / "runner.py")
        with pytest.raises(ValueError, match="its grid is not that of the scan"):
            runner["crop"]({"to": "region"}, [channel], np.eye(4), tmp_path / "region.nii.gz")


class TestExport:
    def test_networks_tell_no_paths_of_this_machine(self, exported: Path) -> None:
        data = (exported / "onnx" / "fold0.onnx").read_bytes()
        assert str(Path(torch.__file__).parents[1]).encode() not in data
        assert b"foldwise/" not in data

    def test_the_size_of_a_batch_is_free(self, exported: Path) -> None:
        graph = onnx.load(exported / "onnx" / "fold0.onnx").graph
        dimensions = [d.dim_value or d.dim_param for d in graph.input[0].type.tensor_type.shape.dim]
        assert isinstance(dimensions[0], str)
        assert dimensions[1:] == [1, 16, 16, 16]

    def test_a_network_that_cannot_be_exported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        trained = write_models(Kind(), tmp_path)

        def refuse(*_: object, **__: object) -> None:
            raise RuntimeError("no such operator\nlong story")

        monkeypatch.setattr(torch.onnx, "export", refuse)
        with pytest.raises(CaseError, match=r"torch cannot export the network as ONNX: no such operator$"):
            export_onnx(trained, {}, tmp_path / "onnx")
        assert not (tmp_path / "onnx").exists()

    def test_outputs_that_differ(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        trained = write_models(Kind(), tmp_path)
        monkeypatch.setattr("foldwise.portable.onnx.TOLERANCE", -1.0)
        with pytest.raises(CaseError, match=r"fold0.onnx: its probabilities differ from those"):
            export_onnx(trained, {}, tmp_path / "onnx")
