"""Files of DICOM folders: every one is read or named, in every transfer syntax, whole or broken."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    EnhancedSRStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    RTDoseStorage,
)

from dicom_files import SMALL, STORED, Grid, cut, setting, write_rtstruct, write_series
from foldwise.files import CaseError
from foldwise.volumes.volume import read_header, read_volume


def slopes(z: int, one: Dataset) -> None:
    one.RescaleSlope, one.RescaleIntercept = (1, 0) if z == 0 else (0.5 * z, -3)


def colour(z: int, one: Dataset) -> None:
    one.PhotometricInterpretation, one.SamplesPerPixel, one.PlanarConfiguration = "RGB", 3, 0
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 8, 8, 7, 0
    one.PixelData = bytes(90)


def rewritten(syntax: UID, folder: Path, start: str = "file meta") -> None:
    """Write the files of a folder again, in another transfer syntax; or as archives of the 1990s."""
    for path in folder.iterdir():
        read = pydicom.dcmread(path)
        one = Dataset({element.tag: element for element in read})  # decoded, in no order of bytes
        little = syntax != ExplicitVRBigEndian
        if not little:
            one.PixelData = np.frombuffer(one.PixelData, "<i2").astype(">i2").tobytes()
        if start == "file meta":
            one.file_meta = read.file_meta
            one.file_meta.TransferSyntaxUID = syntax
            one.save_as(path, enforce_file_format=True)
        else:
            one.preamble = bytes(128) if start == "preamble" else None
            one.save_as(path, implicit_vr=syntax.is_implicit_VR, little_endian=little)


@pytest.mark.parametrize("start", ["file meta", "preamble", "neither"])
@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, None], ids=["implicit", "big", "explicit"]
)
def test_every_order_of_bytes(tmp_path: Path, syntax: UID | None, start: str) -> None:
    write_series(tmp_path, SMALL, stored=STORED - 500, edit=slopes)
    rewritten(syntax or ExplicitVRLittleEndian, tmp_path, start)
    (tmp_path / "notes.txt").write_bytes(b"\x08\x00 no DICOM")
    expected = (STORED - 500) * np.array([1, 0.5, 1, 1.5]) - np.array([0, 3, 3, 3])
    assert np.array_equal(read_volume(tmp_path).data, expected)
    cut(tmp_path / "IM898", 5)
    with pytest.raises(CaseError, match="IM898 has fewer pixels"):
        read_header(tmp_path)


def test_a_deflated_series(tmp_path: Path) -> None:
    write_series(tmp_path, SMALL, stored=STORED)
    rewritten(DeflatedExplicitVRLittleEndian, tmp_path)
    assert np.array_equal(read_volume(tmp_path).data, STORED)
    cut(tmp_path / "IM898", 20)
    with pytest.raises(CaseError, match=r"missing \(IM898"):
        read_header(tmp_path)


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


def test_every_file_is_accounted_for(tmp_path: Path) -> None:
    """Objects of other kinds, scouts and copies do not hide a scan, and each is named."""
    images = write_series(tmp_path, SMALL, stored=STORED)
    write_rtstruct(tmp_path / "rs.dcm", images, {})
    write_series(
        tmp_path,
        Grid(shape=(6, 5, 1)),
        flat=True,
        edit=setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    )
    write_series(tmp_path, Grid(shape=(6, 5, 1)), flat=True, edit=colour)
    write_series(tmp_path, Grid(shape=(6, 5, 1)), flat=True, edit=setting(SOPClassUID=RTDoseStorage))
    scout = pydicom.dcmread(tmp_path / "IM900")
    scout.ImageType, scout.ImageOrientationPatient = ["ORIGINAL", "PRIMARY", "LOCALIZER"], [0, 1, 0, 0, 0, -1]
    scout.save_as(tmp_path / "scout")
    for name, kind in (("DICOMDIR", MediaStorageDirectoryStorage), ("sr", EnhancedSRStorage)):
        other = Dataset()
        other.file_meta, other.SOPClassUID, other.SOPInstanceUID = FileMetaDataset(), kind, "1.2.3"
        other.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        other.save_as(tmp_path / name, enforce_file_format=True)
    shutil.copy(tmp_path / "IM899", tmp_path / "again")
    shutil.copy(tmp_path / "IM899", tmp_path / ".IM899.x8Yz")
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "other").mkdir()
    header = read_header(tmp_path)
    assert np.array_equal(read_volume(tmp_path).data, STORED)
    said = "; ".join(header.remarks)
    for name in ("rs.dcm (RT Structure Set)",
        "900 (RT Dose)",
        "sr (Enhanced SR)",
        "DICOMDIR (Media Storage Directory)", "scout (a localizer (scout))", "again (a copy of IM899)",
                 ".IM899.x8Yz (a hidden file)", "notes.txt (not DICOM)", "other (a folder)",
                 "(a colour picture (RGB))"):  # fmt: skip
        assert name in said
    assert said.count("IM900") == 0


def test_without_a_scan_the_others_are_named(tmp_path: Path) -> None:
    images = write_series(tmp_path / "in", SMALL)
    write_rtstruct(tmp_path / "rs" / "rs.dcm", images, {})
    with pytest.raises(CaseError, match=r"0 DICOM series, expected exactly one \(rs.dcm: RT Structure Set\)"):
        read_header(tmp_path / "rs")
    write_series(tmp_path / "in", SMALL, flat=True)
    with pytest.raises(CaseError, match=r"2 DICOM series, .* \(4 × CT Image, e.g. .*; 4 × CT Image"):
        read_header(tmp_path / "in")


def csa(count: int) -> bytes:
    """Siemens' private header (CSA2) with the number of pictures in a mosaic, by nibabel's description."""
    value = str(count).encode()
    item = struct.pack("<4i", len(value), len(value), 77, len(value)) + value.ljust(4, b"\0")
    tag = struct.pack("<64si4s3i", b"NumberOfImagesInMosaic", 1, b"US", 6, 1, 77) + item
    return b"SV10\4\3\2\1" + struct.pack("<2I", 1, 77) + tag


def test_a_mosaic_without_its_image_type(tmp_path: Path) -> None:
    """Anonymised: one picture of several slices would be read as a slice."""

    def edit(z: int, one: Dataset) -> None:
        one.Modality = "MR"
        one.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", csa(count))

    for count in (1, 16):
        write_series(tmp_path / str(count), Grid(shape=(6, 5, 1)), edit=edit)
    assert read_header(tmp_path / "1").shape == (6, 5, 1)
    with pytest.raises(CaseError, match="IM900 is a mosaic"):
        read_header(tmp_path / "16")
