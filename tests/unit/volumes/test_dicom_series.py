"""Series from scanners, archives and transfers: read correctly, or refused with the reason."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    JPEGLSLossless,
    NuclearMedicineImageStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    XRayAngiographicImageStorage,
)

from dicom_files import SMALL, STORED, Edit, Grid, cut, grids, setting, tilted, write_rtstruct, write_series
from dicom_import import imported
from foldwise.files import CaseError
from foldwise.volumes.volume import Header, read_header, read_volume


def affine_of(grid: Grid) -> np.ndarray:
    """The correct affine (RAS), from the grid alone."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = grid.steps, grid.origin
    return np.diag([-1, -1, 1, 1]) @ affine


@pytest.mark.parametrize("grid", [pytest.param(grid, id=name) for name, grid in grids(SMALL.shape).items()])
def test_every_grid_is_read_by_its_positions(tmp_path: Path, grid: Grid) -> None:
    """A negative SpacingBetweenSlices, as written by some scanners, reverses nothing."""
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


def by_itk(one: Dataset, folder: Path, kind: str) -> None:
    """Lossless JPEG and JPEG 2000, which pydicom does not decode."""
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(folder / "one.dcm"))
    writer.UseCompressionOn()
    writer.SetCompressor(kind)
    writer.Execute(sitk.GetImageFromArray(one.pixel_array[None]))
    compressed = pydicom.dcmread(folder / "one.dcm")
    one["PixelData"] = compressed["PixelData"]
    one.file_meta.TransferSyntaxUID = compressed.file_meta.TransferSyntaxUID


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, "JPEG", "JPEG2000"])
def test_compressed_slices(tmp_path: Path, syntax: UID | str) -> None:
    def edit(z: int, one: Dataset) -> None:
        slopes(z, one)
        one.PhotometricInterpretation = "MONOCHROME1"
        if isinstance(syntax, UID):
            one.compress(syntax)
        else:
            by_itk(one, tmp_path, syntax)

    folder = tmp_path / "series"
    stored = np.random.default_rng(6).integers(-300, 700, (16, 16, 4))
    write_series(folder, Grid(shape=stored.shape), stored=stored, edit=edit)
    expected = stored * np.array([1, 0.5, 1, 1.5]) - np.array([0, 3, 3, 3])
    assert np.array_equal(read_volume(folder).data, expected)
    cut(folder / "IM898", 9)
    with pytest.raises(CaseError, match="IM898 has fewer pixels"):
        read_header(folder)


def unusual(z: int, one: Dataset) -> None:
    """Legal, or nearly so, and without a meaning for values and positions."""
    one.RescaleSlope, one.RescaleIntercept = None, ""
    one.ImageOrientationPatient = [1, 4e-5 * z, 0, -4e-5 * z, 1, 0]
    one.SpecificCharacterSet, one.PatientName = ["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"
    one.WindowCenter, one.WindowWidth = 40 + z, 400
    one.private_block(0x0009, "GEMS_IDEN_01", create=True).add_new(1, "OB", bytes(100_000))
    one.RealWorldValueMappingSequence = [Dataset()]
    one.SmallestImagePixelValue = 7


def test_unusual_headers(tmp_path: Path) -> None:
    write_series(tmp_path, SMALL, stored=STORED, edit=unusual)
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.data, STORED)
    assert np.allclose(volume.affine, affine_of(SMALL), atol=2e-4)


def test_a_number_that_is_none_is_named(tmp_path: Path) -> None:
    write_series(tmp_path, SMALL, edit=setting(RescaleSlope="1.5"))
    content = (tmp_path / "IM898").read_bytes()
    (tmp_path / "IM898").write_bytes(content.replace(b"1.5 ", b"1,5 "))
    with pytest.raises(CaseError, match=r"IM898: RescaleSlope cannot be read .*'1,5'"):
        read_header(tmp_path)


def floats(z: int, one: Dataset) -> None:
    one.FloatPixelData = (STORED[..., z].T / 8).astype("<f4").tobytes()
    one.BitsAllocated = 32
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(one, keyword)


def test_floats(tmp_path: Path) -> None:
    write_series(tmp_path, SMALL, edit=floats)
    assert read_header(tmp_path).dtype == np.float32
    assert np.array_equal(read_volume(tmp_path).data, STORED / 8)


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


def leaning(z: int, one: Dataset) -> None:
    one.ImagePositionPatient = [-12.5 + 5 * z, 30.25, -71 + 2.5 * z]


def echoes(z: int, one: Dataset) -> None:
    repeated(z, one)
    one.EchoTime = 2.46 * (1 + z // 2)


def echoes_and_times(z: int, one: Dataset) -> None:
    one.ImagePositionPatient, one.EchoTime = [-12.5, 30.25, -71], 2.46 * (1 + z // 2)
    one.TemporalPositionIdentifier = 1 + z % 2


def b_values(z: int, one: Dataset) -> None:
    repeated(z, one)
    one.DiffusionBValue = 1000.0 * (z // 2)


def last_again(z: int, one: Dataset) -> None:
    twice(z, one)
    one.AcquisitionTime = f"12000{z}"


def imager(z: int, one: Dataset) -> None:
    one.ImagerPixelSpacing = one.PixelSpacing
    del one.PixelSpacing


def palette(z: int, one: Dataset) -> None:
    one.PhotometricInterpretation = "PALETTE COLOR"


def united(z: int, one: Dataset) -> None:
    one.private_block(0x0065, "Image Private Header", create=True).add_new(0x50, "DS", "16")


def siemens(z: int, one: Dataset) -> None:
    one.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 48)


def last(**values: Any) -> Edit:
    """Put values only into the last slice."""
    return lambda z, one: setting(**values)(z, one) if z == 3 else None


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        pytest.param(jumping, r"IM898 is shifted sideways by 5\.00 mm relative to IM899", id="jump"),
        pytest.param(drifting, r"2\.80 to 4\.00 mm apart; they are not evenly spaced", id="drift"),
        pytest.param(repeated, r"2 position\(s\), 2 files at each position: several time points", id="times"),
        pytest.param(twice, "IM897 and IM898 are at the same position|IM898 and IM897 are at", id="twice"),
        pytest.param(setting(PixelSpacing=None), "has no PixelSpacing", id="no spacing"),
        pytest.param(setting(ImagePositionPatient=None), "has no ImagePositionPatient", id="no position"),
        pytest.param(last(PixelSpacing=[0.8, 0.8]), "Spacing of IM897 is .*, that of IM898", id="spacing"),
        pytest.param(last(ImageOrientationPatient=[0, 1, 0, 1, 0, 0]), "Orientation.* of IM897", id="turned"),
        pytest.param(last(Rows=6, Columns=5), "Rows of IM897 is 6, that of IM898 5", id="size"),
        pytest.param(last(PatientID="P2"), "2 PatientIDs .*IM897.*2 patients in one series", id="patients"),
        pytest.param(colour, r"IM\d+ is a colour picture \(RGB\)", id="colour"),
        pytest.param(setting(NumberOfFrames=2, PixelData=bytes(120), SOPClassUID=NuclearMedicineImageStorage),
                     r"contains 2 frames \(Nuclear Medicine Image\) without a position", id="frames"),
        pytest.param(leaning, r"leans by 63°: .* 2.50 mm across the slices and by 5.00 mm along", id="lean"),
        pytest.param(setting(ImageOrientationPatient=[1, 0, 0, 0, 0, 1]),
                     r"IM897 and IM900 lie in the same plane, 7\.50 mm apart",
                     id="orientation that does not fit the positions"),
        pytest.param(echoes, r"2 files at each .*: several echoes \(EchoTime 2.46, 4.92\)", id="echoes"),
        pytest.param(echoes_and_times, r"1 position\(s\), 4 .* several time points \(TemporalPositionI\w+"
                     r" 1, 2\) and several echoes \(EchoTime 2.46, 4.92\)", id="echoes and times"),
        pytest.param(b_values, r"several b-values \(DiffusionBValue 0.0, 1000.0\)", id="b-values"),
        pytest.param(last_again, r"IM89\d and IM89\d are at the same position; several .*AcquisitionTime",
                     id="a slice acquired again"),
        pytest.param(imager, r"has no PixelSpacing \(ImagerPixelSpacing is the detector.s\)", id="imager"),
        pytest.param(setting(ImagePositionPatient=None, SOPClassUID=SecondaryCaptureImageStorage),
                     "is a secondary capture", id="secondary capture"),
        pytest.param(setting(ImageOrientationPatient=None, SOPClassUID=XRayAngiographicImageStorage),
                     r"no ImageOrientationPatient; .* \(X-Ray Angiographic Image\)", id="XA"),
        pytest.param(setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "is a localizer", id="scout"),
        pytest.param(palette, r"a colour picture \(PALETTE COLOR\)", id="palette"),
        pytest.param(last(PhotometricInterpretation="MONOCHROME1"), "2 photometric interp", id="photometric"),
        pytest.param(united, "is a mosaic", id="United Imaging's mosaic"),
        pytest.param(siemens, "is a mosaic", id="Siemens' mosaic"),
        pytest.param(setting(ModalityLUTSequence=[Dataset()], RescaleSlope=None), "ModalityLUT", id="LUT"),
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


def test_a_single_slice_is_as_thick_as_it_says(tmp_path: Path) -> None:
    one = Grid(shape=(6, 5, 1))
    write_series(tmp_path / "thick", one)
    assert read_volume(tmp_path / "thick").spacing == pytest.approx(one.spacing)
    write_series(tmp_path / "bare", one, edit=setting(SliceThickness=None))
    with pytest.raises(CaseError, match="a single slice without SliceThickness"):
        read_header(tmp_path / "bare")
    with pytest.raises(CaseError, match="a DICOM file; give the folder"):
        read_header(tmp_path / "thick" / "IM900")


def numbered(*numbers: int) -> Edit:
    return lambda z, one: setattr(one, "InstanceNumber", numbers[z])


@pytest.mark.parametrize(
    ("edit", "remark"),
    [
        pytest.param(numbered(4, 3, 2, 1), "", id="from the top"),
        pytest.param(numbered(1, 1, 1, 1), "", id="no numbers"),
        pytest.param(numbered(0, 1, 2, 3), "", id="from 0"),
        pytest.param(numbered(3, 4, 5, 6), "3 to 6; 2 slices may be missing at an end", id="start"),
        pytest.param(
            setting(NumberOfSlices=6, SOPClassUID=PositronEmissionTomographyImageStorage),
            "has 4 slices, but NumberOfSlices is 6",
            id="PET",
        ),
        pytest.param(numbered(1, 3, 5, 7), r"1 to 7, but 3 of them are not there \(2, 4, 6\)", id="thinned"),
    ],
)
def test_what_numbers_of_slices_reveal(tmp_path: Path, edit: Edit, remark: str) -> None:
    write_series(tmp_path, SMALL, edit=edit)
    remarks = read_header(tmp_path).remarks
    assert re.search(remark, remarks[0]) if remark else not remarks


def test_a_tilt_is_said_and_rounding_is_none(tmp_path: Path) -> None:
    write_series(tmp_path / "tilted", tilted(SMALL))
    header = read_header(tmp_path / "tilted")
    assert "tilted by 15.0° relative to the stack" in header.remarks[0]
    again = Header.from_list(json.loads(json.dumps(header.as_list())))
    assert (again.shape, again.dtype, again.remarks) == (header.shape, header.dtype, header.remarks)
    assert np.array_equal(again.affine, header.affine)
    rounded = replace(SMALL, shift=(1e-3, -1e-3))
    write_series(tmp_path / "rounded", rounded)
    header = read_header(tmp_path / "rounded")
    assert not header.remarks
    assert np.allclose(header.affine, affine_of(rounded), atol=1e-9)


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
