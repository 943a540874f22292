"""Segmentations of enhanced and de-identified series, read back frame by frame; series that allow none."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest

from dicom_files import Grid, tilted, write_enhanced, write_series
from foldwise.store import Memory
from foldwise.systems.segmentation.settings import Settings
from foldwise.systems.segmentation.system import Segmentation
from foldwise.volumes.dicom_seg import write_dicom_seg
from foldwise.volumes.sheet import read_sheet
from foldwise.volumes.volume import Volume, read_header, read_volume


def labels_of(grid: Grid) -> np.ndarray:
    """Two classes without any symmetry, and empty slices at both ends."""
    drawn = np.random.default_rng(3).random(grid.shape)
    labels = np.select([drawn < 0.3, drawn > 0.8], [3, 7]).astype(np.uint8)
    labels[..., [0, -1]] = 0
    return labels


def test_a_seg_of_a_de_identified_series(tmp_path: Path) -> None:
    """Elements removed, emptied, or with values that are none; directions that differ by rounding."""
    removed = ("StudyID", "StudyDate", "StudyTime", "PatientBirthDate", "SliceThickness", "Modality")

    def edit(z: int, one: pydicom.Dataset) -> None:
        for keyword in removed:
            delattr(one, keyword)
        one.PatientName, one.SpecificCharacterSet = "Müller^Jörg", "ISO_IR 100"
        one.AccessionNumber, one.ReferringPhysicianName = "", "removed"
        one.ImageOrientationPatient, one.SpacingBetweenSlices = [1, 2e-5 * z, 0, -2e-5 * z, 1, 0], -2.5
        for keyword, text in (
            ("PatientSex", "anonymous"),
            ("PatientBirthDate", "unknown"),
            ("StudyTime", "noon"),
        ):
            one[keyword] = pydicom.DataElement(keyword, "LO", text)  # written as it is

    write_series(tmp_path / "ct", Grid(), edit=edit)
    header = read_header(tmp_path / "ct")
    assert not header.no_seg
    write_dicom_seg(
        Volume(labels_of(Grid()), header.affine), tmp_path / "ct", {"tumour": 7}, tmp_path / "s.dcm"
    )
    seg = hd.seg.segread(tmp_path / "s.dcm")
    assert (seg.PatientName, seg.PatientSex, seg.PatientBirthDate) == ("Müller^Jörg", "", "")
    read = seg.get_volume()
    assert read.array.sum() == (labels_of(Grid()) == 7).sum()
    assert read.spacing_between_slices == pytest.approx(Grid().spacing[2])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"SOPInstanceUID": None}, "IM900 has no SOPInstanceUID"),
        ({"SOPInstanceUID": "1.2.3"}, "several of its files have the same SOPInstanceUID"),
        ({"StudyInstanceUID": ""}, "IM900 has no StudyInstanceUID"),
        ({"SOPClassUID": None}, "IM900 has no SOPClassUID"),
        (
            {"SOPClassUID": "1.3.12.2.1107.5.99.3"},
            "its SOPClassUID 1.3.12.2.1107.5.99.3 is not in the standard",
        ),
        ({"FrameOfReferenceUID": None}, "IM900 has no FrameOfReferenceUID"),
    ],
)
def test_a_series_to_which_no_seg_can_refer_is_refused_before_the_run(
    tmp_path: Path, values: dict[str, str | None], message: str
) -> None:
    """Its voxels are read all the same."""

    def edit(z: int, one: pydicom.Dataset) -> None:
        for keyword, value in values.items():
            setattr(one, keyword, value)
            if value is None:
                delattr(one, keyword)

    write_series(tmp_path / "new" / "scan", Grid(), edit=edit)
    write_series(tmp_path / "new" / "whole", Grid())
    assert (read_volume(tmp_path / "new" / "scan").data == Grid().centres()[..., 2]).all()
    (tmp_path / "sheet.csv").write_text("case,image\none,new/scan\ntwo,new/whole\n")
    models = {"unet": {"patch": [32, 32, 32]}}
    plain = {
        "experiment": "e",
        "data": {"sheet": tmp_path / "sheet.csv", "labels": {"a": 1}},
        "models": models,
    }
    for wanted in (True, False):
        chosen = {"export": {"dicom_seg": wanted}, "predict": {"source": tmp_path / "new"}}
        settings = Settings.model_validate({**plain, **chosen})
        checked = Segmentation().check(settings, read_sheet(settings.data), deep=False, memory=Memory(None))
        refused = [text for text in checked.problems if "export.dicom_seg" in text]
        assert [text.split(": ")[1:2] for text in refused] == [["case one"], ["case scan"]] * wanted
        assert all(text.endswith(message) for text in refused)


@pytest.mark.parametrize("shifted", [False, True], ids=["straight", "tilted"])
def test_a_seg_of_an_enhanced_image(tmp_path: Path, shifted: bool) -> None:
    """Each frame lies on, and refers to, the frame of the image with that slice."""
    grid, order = tilted(Grid()) if shifted else Grid(), (4, 0, 6, 2, 5, 1, 3)

    def each(number: int, groups: pydicom.Dataset) -> None:
        """Directions and sizes in every frame instead of once."""
        for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
            setattr(groups, keyword, shared[keyword].value)

    shared = write_enhanced(tmp_path / "first.dcm", grid).SharedFunctionalGroupsSequence[0]

    def edit(image: pydicom.Dataset) -> None:
        image.SharedFunctionalGroupsSequence = []

    image = write_enhanced(tmp_path / "mr" / "one.dcm", grid, order=order, each=each, edit=edit)
    labels = labels_of(grid)
    volume = Volume(labels, read_header(tmp_path / "mr").affine)
    write_dicom_seg(volume, tmp_path / "mr", {"tumour": 7, "lung": 3}, tmp_path / "seg.dcm")
    raw = pydicom.dcmread(tmp_path / "seg.dcm")
    seen = np.zeros(grid.shape, np.uint8)
    for frame, about in zip(raw.pixel_array, raw.PerFrameFunctionalGroupsSequence, strict=True):
        source = about.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID == image.SOPInstanceUID
        z = order[source.ReferencedFrameNumber - 1]
        place = np.array(about.PlanePositionSequence[0].ImagePositionPatient, float)
        assert np.allclose(place, grid.mm(np.array([0, 0, z])), atol=1e-3)
        number = about.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        seen[..., z][frame.T > 0] = {1: 7, 2: 3}[number]
    assert np.array_equal(seen, labels)
