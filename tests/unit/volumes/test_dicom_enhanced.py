"""Enhanced images, all slices in one file: as highdicom reads them, or refused with what they contain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    JPEGLSLossless,
    LegacyConvertedEnhancedCTImageStorage,
    RLELossless,
    generate_uid,
)

from dicom_files import Grid, grids, write_enhanced, write_rtstruct, write_series
from foldwise.files import CaseError
from foldwise.volumes.dicom_masks import contour_mask
from foldwise.volumes.volume import LPS_TO_RAS, read_header, read_volume

SMALL = Grid(shape=(16, 12, 5))
STORED = np.random.default_rng(8).integers(-300, 700, SMALL.shape)
ORDER = (3, 0, 4, 1, 2)


def slopes(number: int, groups: Dataset) -> None:
    value = groups.PixelValueTransformationSequence[0]
    value.RescaleSlope, value.RescaleIntercept = 1 + number / 2, -number


def by_highdicom(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values (x, y, z) and affine (RAS), turned from highdicom's order of axes."""
    volume = hd.imread(path).get_volume(dtype=np.float64)
    turn = np.eye(4)[:, [2, 1, 0, 3]]
    return volume.array.transpose(2, 1, 0), LPS_TO_RAS @ volume.affine @ turn


def at_places(data: np.ndarray, affine: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values at places in mm, (n, 3), which must be centres of voxels."""
    index = (np.c_[places, np.ones(len(places))] @ np.linalg.inv(affine).T)[:, :3]
    assert np.abs(index - np.round(index)).max() < 1e-3
    values: np.ndarray = data[tuple(np.round(index).astype(int).T)]
    return values


@pytest.mark.parametrize("kind", [EnhancedMRImageStorage, EnhancedCTImageStorage], ids=["MR", "CT"])
@pytest.mark.parametrize("grid", [pytest.param(g, id=name) for name, g in grids(SMALL.shape).items()])
def test_frames_in_any_order_with_their_own_slopes(tmp_path: Path, grid: Grid, kind: str) -> None:
    write_enhanced(tmp_path / "one.dcm", grid, kind, stored=STORED, order=ORDER, each=slopes)
    volume = read_volume(tmp_path)
    number = np.array([ORDER.index(z) for z in range(5)])
    assert np.array_equal(volume.data, STORED * (1 + number / 2) - number)
    places = grid.mm(grid.centres()).reshape(-1, 3) * [-1, -1, 1]
    assert np.array_equal(at_places(volume.data, volume.affine, places), volume.data.ravel())
    if not any(grid.shift):
        assert np.array_equal(at_places(*by_highdicom(tmp_path / "one.dcm"), places), volume.data.ravel())


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless], ids=["RLE", "JPEG-LS"])
def test_compressed_frames(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    write_enhanced(tmp_path / "one.dcm", SMALL, stored=STORED, edit=lambda image: image.compress(syntax))
    assert np.array_equal(read_volume(tmp_path).data, STORED)
    assert np.array_equal(by_highdicom(tmp_path / "one.dcm")[0][..., ::-1], STORED)


def test_integers_stay_integers(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "one.dcm", SMALL, stored=STORED)
    assert read_header(tmp_path).dtype == read_volume(tmp_path).data.dtype == np.int16


def test_a_legacy_converted_series_is_the_series(tmp_path: Path) -> None:
    """highdicom's own conversion of single files."""
    images = write_series(tmp_path / "single", SMALL, stored=STORED)
    for image in images:
        image.AcquisitionNumber, image.ContentDate, image.ContentTime = 1, "20200101", "120000"
        image.AcquisitionDate, image.AcquisitionTime = "20200101", "120000"
    converted = hd.legacy.LegacyConvertedEnhancedCTImage(images, generate_uid(), 2, generate_uid(), 1)
    assert converted.SOPClassUID == LegacyConvertedEnhancedCTImageStorage
    (tmp_path / "legacy").mkdir()
    converted.save_as(tmp_path / "legacy" / "one.dcm")
    single, legacy = read_volume(tmp_path / "single"), read_volume(tmp_path / "legacy")
    assert np.array_equal(legacy.data, single.data)
    assert np.allclose(legacy.affine, single.affine)
    assert not read_header(tmp_path / "legacy").remarks


def concatenated(folder: Path) -> None:
    """One image in three files."""
    parts = [range(2), range(2, 4), range(4, 5)]
    uid, series = generate_uid(), generate_uid()
    for number, part in enumerate(parts, start=1):

        def edit(image: Dataset, number: int = number) -> None:
            image.SeriesInstanceUID, image.FrameOfReferenceUID = series, "1.2.3"
            image.StudyInstanceUID, image.ConcatenationUID = "1.2.4", uid
            image.InConcatenationNumber, image.InConcatenationTotalNumber = number, len(parts)

        write_enhanced(folder / f"{number}.dcm", SMALL, stored=STORED, order=part, edit=edit)


def test_a_concatenation_needs_all_its_files(tmp_path: Path) -> None:
    concatenated(tmp_path)
    assert np.array_equal(read_volume(tmp_path).data, STORED)
    assert read_header(tmp_path).no_seg == "it consists of 3 enhanced images, and one at most is allowed"
    (tmp_path / "3.dcm").unlink()
    with pytest.raises(CaseError, match=r"an image in 3 files; .* InConcatenationNumber 3 are missing"):
        read_header(tmp_path)


def varied(sequence: str, **values: Any) -> Callable[[int, Dataset], None]:
    """Frames that differ in elements of a functional group."""

    def each(number: int, groups: Dataset) -> None:
        item = getattr(groups, sequence, [Dataset()])[0]
        for keyword, value in values.items():
            setattr(item, keyword, value[number % len(value)])
        setattr(groups, sequence, [item])

    return each


def indexed(number: int, groups: Dataset) -> None:
    groups.FrameContentSequence[0].DimensionIndexValues = [1, 1 + number // 2, 1 + number % 2]


def labelled(image: Dataset) -> None:
    item = Dataset()
    item.DimensionIndexPointer, item.DimensionDescriptionLabel = 0x00189087, "Phase of the moon"
    image.DimensionIndexSequence.append(item)


CONTENT, ECHO, DIFFUSION = "FrameContentSequence", "MREchoSequence", "MRDiffusionSequence"
TWICE = (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("each", "message"),
    [
        (varied(CONTENT, TemporalPositionIndex=(1, 2)), r"several time points \(TemporalPositionI\w+ 1, 2\)"),
        (varied(ECHO, EffectiveEchoTime=(2.46, 4.92)), r"several echoes \(EffectiveEchoTime 2.46, 4.92\)"),
        (varied(DIFFUSION, DiffusionBValue=(0.0, 800.0)), r"several b-values \(DiffusionBValue 0.0, 800.0\)"),
        (varied("MRImageFrameTypeSequence", ComplexImageComponent=("MAGNITUDE", "PHASE")),
         r"images such as magnitude and phase \(ComplexImageComponent MAGNITUDE, PHASE\)"),
        (varied("CardiacSynchronizationSequence", NominalPercentageOfCardiacPhase=(0.0, 50.0)),
         r"several cardiac phases \(NominalPercentageOfCardiacPhase 0.0, 50.0\)"),
        (varied(CONTENT, StackID=("1", "2")), "2 StackIDs .*: 2 stacks in one series"),
        (indexed, r"several volumes \(Phase of the moon 1, 2\)"),
    ],
)  # fmt: skip
def test_several_volumes_in_one_image_are_named(
    tmp_path: Path, each: Callable[[int, Dataset], None], message: str
) -> None:
    write_enhanced(tmp_path / "one.dcm", SMALL, order=TWICE, each=each, edit=labelled)
    with pytest.raises(CaseError, match=message):
        read_header(tmp_path)


def test_frames_that_are_no_volume_are_named(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "a" / "one.dcm", SMALL, order=(0, 1, 3, 4))
    with pytest.raises(
        CaseError, match=r"2\.50 to 5\.00 mm apart; one is missing .*frame 2 of one.dcm and frame 3"
    ):
        read_header(tmp_path / "a")
    turned = varied(
        "PlaneOrientationSequence", ImageOrientationPatient=([1, 0, 0, 0, 1, 0], [0, 1, 0, 1, 0, 0])
    )
    write_enhanced(tmp_path / "b" / "one.dcm", SMALL, each=turned)
    with pytest.raises(
        CaseError, match=r"ImageOrientationPatient of frame 1 of one.dcm is .*, that of frame 2"
    ):
        read_header(tmp_path / "b")

    def fewer(image: Dataset) -> None:
        del image.PerFrameFunctionalGroupsSequence[-1]

    write_enhanced(tmp_path / "c" / "one.dcm", SMALL, edit=fewer)
    with pytest.raises(CaseError, match=r"one.dcm has 5 frames, but describes 4"):
        read_header(tmp_path / "c")

    def cut(image: Dataset) -> None:
        image.PixelData = image.PixelData[:-2]

    write_enhanced(tmp_path / "d" / "one.dcm", SMALL, edit=cut)
    with pytest.raises(CaseError, match=r"one.dcm has fewer pixels than it states"):
        read_header(tmp_path / "d")


def test_contours_on_an_enhanced_image(tmp_path: Path) -> None:
    image = write_enhanced(tmp_path / "mr" / "one.dcm", SMALL, stored=STORED)
    square = np.array([[2.5, 3.5, 2], [9.5, 3.5, 2], [9.5, 8.5, 2], [2.5, 8.5, 2]])
    write_rtstruct(tmp_path / "rs.dcm", [image], {"GTV": [("CLOSED_PLANAR", SMALL.mm(square))]})
    drawn = pydicom.dcmread(tmp_path / "rs.dcm").ROIContourSequence[0].ContourSequence
    expected = np.zeros(SMALL.shape, bool)
    expected[3:10, 4:9, 2] = True
    assert np.array_equal(contour_mask(drawn, "GTV", read_header(tmp_path / "mr")), expected)
