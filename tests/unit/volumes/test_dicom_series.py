"""Series from scanners, archives and transfers: read correctly, or refused with the reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.uid import UID, JPEGLSLossless, RLELossless

from dicom_files import Grid, oblique, write_rtstruct, write_series
from dicom_import import imported
from foldwise.files import CaseError
from foldwise.volumes.volume import read_header, read_volume

SMALL = Grid(shape=(6, 5, 4))
STORED = np.random.default_rng(5).integers(0, 1000, SMALL.shape)
Edit = Callable[[int, Dataset], None]


def setting(**values: Any) -> Edit:
    """Put the same values into every slice; None removes an element."""

    def edit(z: int, one: Dataset) -> None:
        for keyword, value in values.items():
            if value is None:
                delattr(one, keyword)
            else:
                setattr(one, keyword, value)

    return edit


def affine_of(grid: Grid) -> np.ndarray:
    """The correct affine (RAS), from the grid alone."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = grid.axes * grid.spacing, grid.origin
    return np.diag([-1, -1, 1, 1]) @ affine


@pytest.mark.parametrize(
    ("row", "column"),
    [
        pytest.param((-1, 0, 0), (0, -1, 0), id="prone"),
        pytest.param((-1, 0, 0), (0, 1, 0), id="rows turned"),
        pytest.param((1, 0, 0), (0, -1, 0), id="columns turned"),
        pytest.param((0, 1, 0), (0, 0, -1), id="sagittal"),
        pytest.param((1, 0, 0), (0, 0, -1), id="coronal"),
        pytest.param(oblique().along_row, oblique().along_column, id="oblique"),
    ],
)
def test_every_grid_is_read_by_its_positions(
    tmp_path: Path, row: tuple[float, ...], column: tuple[float, ...]
) -> None:
    """A negative SpacingBetweenSlices, as written by some scanners, reverses nothing."""
    grid = Grid(shape=SMALL.shape, along_row=row, along_column=column)  # type: ignore[arg-type]
    write_series(tmp_path, grid, stored=STORED, edit=setting(SpacingBetweenSlices=-2.5))
    volume = read_volume(tmp_path)
    assert np.allclose(volume.affine, affine_of(grid), atol=1e-6)
    assert np.array_equal(volume.data, STORED)


def slopes(z: int, one: Dataset) -> None:
    one.RescaleSlope, one.RescaleIntercept = (1, 0) if z == 0 else (0.5 * z, -3)


def first_of_8_bits(z: int, one: Dataset) -> None:
    if z == 0:
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 8, 8, 7, 0
        one.PixelData = (STORED[..., 0] % 256).T.astype(np.uint8).tobytes()


def first_unsigned(z: int, one: Dataset) -> None:
    one.PixelRepresentation = int(z > 0)


def padded(z: int, one: Dataset) -> None:
    pixels = np.frombuffer(one.PixelData, np.uint16).reshape(5, 6).copy()
    pixels[:, 0] = 63536
    one.PixelData, one.PixelRepresentation, one.RescaleIntercept = pixels.tobytes(), 0, -1024
    one.add_new("PixelPaddingValue", "US", 63536)


def overlay(z: int, one: Dataset) -> None:
    pixels = np.frombuffer(one.PixelData, np.uint16) | 0x8000
    one.PixelData, one.BitsStored, one.HighBit, one.PixelRepresentation = pixels.tobytes(), 12, 11, 0


ZERO = STORED.copy()
ZERO[..., 0] %= 256
BY_SLICE = STORED * np.array([1, 0.5, 1, 1.5]) - np.array([0, 3, 3, 3])
PADDED = STORED - 1024
PADDED[0] = PADDED[1:].min()
HU = setting(PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11, PixelRepresentation=0,
             RescaleIntercept=-1024)  # fmt: skip


@pytest.mark.parametrize(
    ("stored", "edit", "expected", "dtype"),
    [
        pytest.param(STORED, slopes, BY_SLICE, np.float32, id="slopes"),
        pytest.param(STORED, setting(RescaleSlope=100), STORED * 100, np.int32, id="large slope"),
        pytest.param(STORED, first_of_8_bits, ZERO, np.int16, id="8 bits, then 16"),
        pytest.param(STORED - 500 * (np.arange(4) > 0), first_unsigned,
                     STORED - 500 * (np.arange(4) > 0), np.int32, id="unsigned, then signed"),
        pytest.param(STORED, HU, STORED - 1024, np.int16, id="MONOCHROME1"),
        pytest.param(STORED, padded, PADDED, np.int32, id="padding"),
        pytest.param(STORED, overlay, STORED, np.uint16, id="overlay in the upper bits"),
    ],
)  # fmt: skip
def test_every_slice_has_its_own_values(
    tmp_path: Path, stored: np.ndarray, edit: Edit, expected: np.ndarray, dtype: type
) -> None:
    write_series(tmp_path, SMALL, stored=stored, edit=edit)
    data = read_volume(tmp_path).data
    assert read_header(tmp_path).dtype == data.dtype == dtype
    assert np.array_equal(data, expected)


def by_itk(one: Dataset, folder: Path) -> None:
    """JPEG lossless, which pydicom does not decode."""
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(folder / "one.dcm"))
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    writer.Execute(sitk.GetImageFromArray(one.pixel_array[None]))
    compressed = pydicom.dcmread(folder / "one.dcm")
    one["PixelData"] = compressed["PixelData"]
    one.file_meta.TransferSyntaxUID = compressed.file_meta.TransferSyntaxUID


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, None], ids=["RLE", "JPEG-LS", "JPEG"])
def test_compressed_slices(tmp_path: Path, syntax: UID | None) -> None:
    def edit(z: int, one: Dataset) -> None:
        slopes(z, one)
        one.PhotometricInterpretation = "MONOCHROME1"
        if syntax:
            one.compress(syntax)
        else:
            by_itk(one, tmp_path)

    folder = tmp_path / "series"
    stored = np.random.default_rng(6).integers(-300, 700, (16, 16, 4))
    write_series(folder, Grid(shape=stored.shape), stored=stored, edit=edit)
    expected = stored * np.array([1, 0.5, 1, 1.5]) - np.array([0, 3, 3, 3])
    assert np.array_equal(read_volume(folder).data, expected)
    cut(folder / "IM898", 9)
    with pytest.raises(CaseError, match="IM898 has fewer pixels"):
        read_header(folder)


def tilted(z: int, one: Dataset) -> None:
    one.ImagePositionPatient = [-12.5, 30.25 + 2.5 * z * np.tan(np.deg2rad(15)), -71 + 2.5 * z]


def jumping(z: int, one: Dataset) -> None:
    one.ImagePositionPatient = [-12.5 + 5 * (z > 1), 30.25, -71 + 2.5 * z]


def drifting(z: int, one: Dataset) -> None:
    one.ImagePositionPatient = [-12.5, 30.25, -71 + 2.5 * z + 0.3 * z * z]


def repeated(z: int, one: Dataset) -> None:
    one.ImagePositionPatient = [-12.5, 30.25, -71 + 2.5 * (z % 2)]


def twice(z: int, one: Dataset) -> None:
    one.ImagePositionPatient = [-12.5, 30.25, -71 + 2.5 * min(z, 2)]


def colour(z: int, one: Dataset) -> None:
    one.PhotometricInterpretation, one.SamplesPerPixel, one.PlanarConfiguration = "RGB", 3, 0
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 8, 8, 7, 0
    one.PixelData = bytes(90)


def last(**values: Any) -> Edit:
    """Put values only into the last slice."""
    return lambda z, one: setting(**values)(z, one) if z == 3 else None


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        pytest.param(tilted, r"tilted by 15\.0° .*gantry tilt", id="tilt"),
        pytest.param(jumping, r"IM898 is shifted sideways by 5\.00 mm relative to IM899", id="jump"),
        pytest.param(drifting, r"2\.80 to 4\.00 mm apart; they are not evenly spaced", id="drift"),
        pytest.param(repeated, "2 positions, 2 files at each position: several time points", id="times"),
        pytest.param(twice, "IM897 and IM898 are at the same position|IM898 and IM897 are at", id="twice"),
        pytest.param(setting(PixelSpacing=None), "has no PixelSpacing", id="no spacing"),
        pytest.param(setting(ImagePositionPatient=None), "has no ImagePositionPatient", id="no position"),
        pytest.param(last(PixelSpacing=[0.8, 0.8]), "Spacing of IM897 is .*, that of IM898", id="spacing"),
        pytest.param(last(ImageOrientationPatient=[0, 1, 0, 1, 0, 0]), "Orientation.* of IM897", id="turned"),
        pytest.param(last(Rows=6, Columns=5), "Rows of IM897 is 6, that of IM898 5", id="size"),
        pytest.param(last(PatientID="P2"), "2 PatientIDs .*IM897.*2 patients in one series", id="patients"),
        pytest.param(colour, r"IM\d+ is a colour picture \(RGB\)", id="colour"),
        pytest.param(setting(NumberOfFrames=2), "contains 2 frames", id="frames"),
        pytest.param(setting(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "is a mosaic", id="mosaic"),
        pytest.param(setting(RescaleSlope=0), "has RescaleSlope 0", id="slope 0"),
        pytest.param(setting(PixelData=bytes(30)), "IM897 has fewer pixels than it states", id="half"),
        pytest.param(setting(PixelData=None), "IM897 has no pixels; is it truncated", id="no pixels"),
    ],
)  # fmt: skip
def test_what_is_no_volume_is_named(tmp_path: Path, edit: Edit, message: str) -> None:
    write_series(tmp_path, SMALL, edit=edit)
    with pytest.raises(CaseError, match=message):
        read_header(tmp_path)


def cut(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def test_a_file_that_may_be_a_slice_is_never_passed_over(tmp_path: Path) -> None:
    """Truncated, empty, and large-file pointers: at the ends of the stack, no gap would reveal them."""
    images = write_series(tmp_path / "ct", SMALL)
    for name in ("notes.txt", ".DS_Store", "Thumbs.db"):
        (tmp_path / "ct" / name).write_text("none")
    (tmp_path / "ct" / "thumbnails").mkdir()
    write_rtstruct(tmp_path / "ct" / "rs.dcm", images, {})
    assert read_header(tmp_path / "ct").shape == SMALL.shape
    whole = (tmp_path / "ct" / "IM900").read_bytes()
    broken = {
        whole[:-8]: "IM900 has fewer pixels",
        whole[:400]: "IM900 ",
        b"": "IM900 is empty",
        b"version https://git-lfs.github.com/spec/v1": "IM900 does not start as DICOM",
    }
    for content, message in broken.items():
        (tmp_path / "ct" / "IM900").write_bytes(content)
        with pytest.raises(CaseError, match=rf"slices may be missing \({message}"):
            read_header(tmp_path / "ct")


def test_a_single_slice_is_as_thick_as_it_says(tmp_path: Path) -> None:
    one = Grid(shape=(6, 5, 1))
    write_series(tmp_path / "thick", one)
    assert read_volume(tmp_path / "thick").spacing == pytest.approx(one.spacing)
    write_series(tmp_path / "bare", one, edit=setting(SliceThickness=None))
    with pytest.raises(CaseError, match="a single slice without SliceThickness"):
        read_header(tmp_path / "bare")
    with pytest.raises(CaseError, match="a DICOM file; give the folder"):
        read_header(tmp_path / "thick" / "IM900")


def test_the_importer_loses_no_patient_and_no_slice(tmp_path: Path) -> None:
    """Equal UIDs of two patients, one SOP instance UID for a whole series, and a file that became empty."""
    same = setting(SOPInstanceUID="1.2.3", SeriesInstanceUID="1.2.4")
    images = write_series(tmp_path / "in" / "a", Grid(), patient="A", edit=same)
    write_rtstruct(tmp_path / "in" / "rs.dcm", images, {"GTV": []})
    dataset = imported(tmp_path, "GTV=tumour", "one")
    assert read_header(dataset.rows[0].images[""].resolve()).shape == Grid().shape
    write_series(tmp_path / "in" / "b", Grid(), patient="B", edit=same)
    assert [row.group for row in imported(tmp_path, "GTV=tumour", "two").rows] == ["A", "B"]
    write_series(tmp_path / "in" / "b", Grid(), patient="B")
    (tmp_path / "in" / "b" / "IM900").write_bytes(b"")
    dataset = imported(tmp_path, "GTV=tumour", "three")
    assert [row.group for row in dataset.rows] == ["A"]
    assert any(re.search(r"case B_.*in/b: .* missing \(IM900 is empty", line) for line in dataset.remarks)
